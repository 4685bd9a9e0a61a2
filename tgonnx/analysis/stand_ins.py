"""Inputs where nobody has any: random ones that are as much like real ones as the model can tell.

White noise says little about a network that has seen pictures or sounds. Stand-ins are noise of many scales, coarse
parts being the stronger, as in nature (Field 1987). Of what range inputs are, and how smooth, a trained model tells
where it has a BatchNormalization: its averages are those of the data. What meets them best is taken. Where nothing
tells, ranges take turns: weights that were refitted on inputs of a wrong range did worse than those that were left
as they were (docs/others.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice

import numpy as np
import onnx
from onnx import numpy_helper

from tgonnx.analysis.model import Model
from tgonnx.errors import TgonnxError
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.traits import picked, traits_of
from tgonnx.runtime.batches import Batches
from tgonnx.runtime.feeds import STYLES, Drawer
from tgonnx.runtime.sessions import Feeds
from tgonnx.runtime.trial_sizes import Size
from tgonnx.runtime.walk import Walk

COUNT = 128  # batches
# How much stronger a scale is than one of half its size, a power of two
SMOOTHNESS = (0.0, 0.5, 1.0, 2.0, 3.0)
UNKNOWN = ("unit", "normal")  # ranges that inputs are mostly of
_COMPARED = 8  # of them, for the averages
_SPACE = 8  # the smallest axis of time or space that has scales

Kind = tuple[str, float]  # a style and a smoothness


class StandIns(Batches):
    """Batches of random inputs for a model, always the same ones; they take turns at being of each of `kinds`.

    A kind is one of the styles of `tgonnx.runtime.feeds` and one of `SMOOTHNESS`.
    """

    def __init__(self, model: Model, kinds: Sequence[Kind] = ((STYLES[0], 1.0),), seed: int = 0) -> None:
        self.kinds, self.seed = kinds, seed
        self._drawer = Drawer(model.outline)
        shapes = tuple((name, model.shapes[name]) for name in model.inputs)
        self._size = Size(shapes=shapes)

    @property
    def has_floats(self) -> bool:
        """Whether there is an input that is of a range; numbers of words or bytes are drawn alike."""
        return any(value.dtype.kind == "f" for value in self[0].values())

    def __len__(self) -> int:
        return COUNT

    def make(self, index: int) -> Feeds:
        rng = np.random.default_rng((self.seed, index))
        kind = self.kinds[index % len(self.kinds)]
        drawn = self._drawer.draw(self._size, rng, kind[0])
        return {name: self._natural(value, kind, rng) for name, value in drawn.items()}

    def _natural(self, value: Array, kind: Kind, rng: np.random.Generator) -> Array:
        """Noise of many scales in place of white noise, in the range of the style."""
        axes = [axis for axis in range(1, value.ndim) if value.shape[axis] >= _SPACE]
        if value.dtype.kind != "f" or value.ndim < 3 or not axes:
            return value
        style, smooth = kind
        noise = many_scales(value.shape, axes, smooth, rng)
        if style in ("unit", "pixels"):
            low, high = (f(noise, axis=tuple(range(1, noise.ndim)), keepdims=True) for f in (np.min, np.max))
            noise = (noise - low) / np.maximum(high - low, 1e-9) * np.ceil(value.max())
        else:
            noise = noise / np.maximum(noise.std(), 1e-9) * value.std()
        result: Array = noise.astype(value.dtype)
        return result


def many_scales(
    shape: tuple[int, ...], axes: Sequence[int], smooth: float, rng: np.random.Generator
) -> Array:
    """Noise of parts of all sizes along `axes`, each 2^`smooth` times as strong as the one of half its size."""
    total = np.zeros(shape)
    coarsest = int(math.log2(max(shape[axis] for axis in axes))) - 1
    for level in range(max(coarsest, 1)):
        blocks = {axis: min(2**level, shape[axis]) for axis in axes}
        small = [-(-size // blocks.get(axis, 1)) for axis, size in enumerate(shape)]
        part = rng.standard_normal(small)
        for axis, block in blocks.items():
            part = np.repeat(part, block, axis).take(range(shape[axis]), axis)
        total += part * 2.0 ** (level * smooth)
    return total


def stand_ins(model: Model) -> tuple[StandIns, bool]:
    """Inputs for a model, and whether it could tell of which range they are.

    Where it cannot, every second batch is of another range (`UNKNOWN`), so that what is learnt from one can be judged
    by the other.
    """
    averages = [*_averages(model.proto)]
    if averages:

        @cache
        def misfit(kind: Kind) -> float:
            return _misfit(StandIns(model, [kind]), model.proto, averages)

        best = min(((style, 1.0) for style in STYLES), key=misfit)
        best = min(((best[0], smooth) for smooth in SMOOTHNESS), key=misfit)
        if math.isfinite(misfit(best)):
            return StandIns(model, [best]), True
    return StandIns(model, [(style, smooth) for smooth in SMOOTHNESS for style in UNKNOWN]), False


def _averages(proto: onnx.ModelProto) -> Iterator[tuple[str, Array, Array]]:
    """What each BatchNormalization reads, and the mean and variance that it expects of it."""
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        names = picked(node.input, traits_of(node).statistics)
        if names and all(name in stored for name in names):
            mean, variance = (numpy_helper.to_array(stored[name]).astype(np.float64) for name in names)
            yield node.input[0], mean, variance


def _misfit(inputs: StandIns, proto: onnx.ModelProto, averages: Sequence[tuple[str, Array, Array]]) -> float:
    """How unlike the channels' means and variances are to those expected: the mean divergence of two normal
    distributions; infinite if the model does not run."""
    names = [name for name, _, _ in averages]
    walk = Walk(proto, inputs[:_COMPARED], names, 0)
    try:
        batches = [*islice(walk(names), _COMPARED)]
    except TgonnxError:  # this range is none that the model takes
        return math.inf
    divergences = []
    for name, mean, variance in averages:
        values = np.concatenate([np.moveaxis(b[name], 1, 0).reshape(len(mean), -1) for b in batches], 1)
        ours, spread = values.mean(1, dtype=np.float64), values.var(1, dtype=np.float64) + 1e-6
        ratio = spread / (variance + 1e-6)
        divergence = ratio + (ours - mean) ** 2 / (variance + 1e-6) - 1 - np.log(ratio)
        divergences.append(np.log1p(np.clip(np.nan_to_num(divergence, nan=1e12), 0, 1e12)).mean())
    return float(np.mean(divergences))
