"""Random inputs that a model can digest, made from the types and shapes of its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tgonnx.errors import ModelError, UnsupportedError
from tgonnx.io.forced_sizes import with_forced_sizes
from tgonnx.runtime.integer_ranges import Range, decides_sizes, integer_ranges
from tgonnx.runtime.trial_sizes import Size, shapes_at

# Kinds of floats that take turns: around zero, from 0 to 1, from the far ends of activations, pixels.
STYLES = ("normal", "unit", "wide", "pixels")
WIDEST = 1 << 16  # integers tried where no table limits them
_WIDE = 8.0
_MOST = 1 << 28  # elements of an input
_SMALL = 100  # rows of a table that are all met soon


def random_feeds(
    model: onnx.ModelProto,
    rng: np.random.Generator,
    batch: int = 2,
    sizes: Mapping[str, int] | None = None,
    space: int = 64,
) -> dict[str, NDArray[Any]]:
    """One array for each input of the model.

    Floats are standard normal. Integers are ids below the smallest table that they index (`Gather`), pixels where
    they have 8 bits, else 0 or 1; masks (by name) are all ones. Unknown axes: `sizes` by axis name; else `batch`
    for the first axis, `space` for the axes of images, 8 for the rest. Axes with one name get one size.

    Raises `UnsupportedError` for inputs that are not tensors of numbers.
    """
    named = tuple((sizes or {}).items())
    return Drawer(model).draw(Size(batch, (space, space), named=named), rng)


class Drawer:
    """Draws inputs for a model. `ranges` say what integers each input takes; they may be corrected."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.inputs = model, with_forced_sizes(model)
        self._waiting: dict[str, NDArray[Any]] = {}
        self.ranges = integer_ranges(model, self.inputs)
        for value in self.inputs:
            tensor = value.type.tensor_type
            if tensor.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
                raise UnsupportedError(f"input {value.name!r} is not a tensor of numbers; give real inputs")

    def draw(self, size: Size, rng: np.random.Generator, style: str = "normal") -> dict[str, NDArray[Any]]:
        """One array for each input, its floats in one of the `STYLES`. Masks are ones if that is `normal`.

        Raises `ModelError` for an input that is too large.
        """
        shapes = shapes_at(self.inputs, size)
        for name, shape in shapes.items():
            if math.prod(shape) > _MOST:
                raise ModelError(f"input {name!r} of shape {'x'.join(map(str, shape))} is too large to try")
        return {value.name: self._array(value, shapes[value.name], rng, style) for value in self.inputs}

    def redraw(
        self, name: str, feeds: Mapping[str, NDArray[Any]], rng: np.random.Generator, style: str
    ) -> dict[str, NDArray[Any]]:
        """The same inputs, but for one."""
        value = next(value for value in self.inputs if value.name == name)
        return {**feeds, name: self._array(value, feeds[name].shape, rng, style)}

    def open_integers(self) -> list[str]:
        """The inputs of integers of whose range nothing is known, those that decide on sizes excepted."""
        return [
            value.name
            for value in self.inputs
            if _dtype(value).kind in "iu" and not _is_mask(value) and _dtype(value).itemsize > 1
            and not self.ranges.get(value.name, Range()).known
            and not decides_sizes(self.model, value.name)
        ]  # fmt: skip

    def deciding(self) -> list[onnx.ValueInfoProto]:
        """The inputs of integers that decide on sizes."""
        return [
            value
            for value in self.inputs
            if _dtype(value).kind in "iu" and decides_sizes(self.model, value.name)
            and not self.ranges.get(value.name, Range()).known
        ]  # fmt: skip

    def widen(self, name: str, high: int) -> None:
        """Let an input hold integers from 0 to `high`, which was found to be the limit."""
        self.ranges[name] = replace(self.ranges.get(name, Range()), high=high, known=high < WIDEST)
        self._waiting.pop(name, None)

    def _array(
        self, value: onnx.ValueInfoProto, shape: tuple[int, ...], rng: np.random.Generator, style: str
    ) -> NDArray[Any]:
        dtype = _dtype(value)
        if dtype.kind in "iub":
            if _is_mask(value):
                return _mask(shape, style, rng).astype(dtype)
            return self._integers(value.name, dtype, shape, rng)
        pixels = len(shape) == 4 and (shape[1] in (1, 3, 4) or shape[3] in (1, 3, 4))
        if style == "unit" or (style == "pixels" and not pixels):
            return rng.random(shape).astype(dtype)
        if style == "pixels":
            return rng.integers(0, 256, shape).astype(dtype)
        return (rng.standard_normal(shape) * (_WIDE if style == "wide" else 1.0)).astype(dtype)

    def _each_once(self, name: str, span: Range, count: int, rng: np.random.Generator) -> NDArray[Any]:
        """The next `count` integers of a range in random order, each once before any comes again."""
        waiting = self._waiting.get(name, np.zeros(0, np.int64))
        while len(waiting) < count:
            waiting = np.concatenate([waiting, rng.permutation(span.high - span.low + 1) + span.low])
        self._waiting[name] = waiting[count:]
        return waiting[:count].copy()

    def _integers(
        self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], rng: np.random.Generator
    ) -> NDArray[Any]:
        if dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(dtype)
        span = self.ranges.get(name)
        if dtype.itemsize == 1 and (span is None or not span.known):
            limits = np.iinfo(dtype)
            return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
        span = span or Range()
        if span.known:
            drawn = self._each_once(name, span, int(np.prod(shape)), rng).reshape(shape)
        else:
            drawn = rng.integers(span.low, span.high + 1, shape)
        if span.hints and not span.known:
            drawn = np.where(rng.random(shape) < 0.5, rng.choice(span.hints, shape), drawn)
        if span.known and span.high - span.low > _SMALL and drawn.size > rng.integers(2):
            drawn.flat[rng.integers(drawn.size)] = span.high  # the last row is met even so
        return drawn.astype(dtype)


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _is_mask(value: onnx.ValueInfoProto) -> bool:
    return "mask" in value.name.lower() and _dtype(value).kind in "iub"


def _mask(shape: tuple[int, ...], style: str, rng: np.random.Generator) -> NDArray[Any]:
    """Ones; in other styles some zeros, but not in the first place of a row, so that something is left."""
    mask = np.ones(shape, np.int64)
    if style != "normal" and shape:
        mask = (rng.random(shape) < 0.7).astype(np.int64)
        mask[..., 0] = 1
    return mask
