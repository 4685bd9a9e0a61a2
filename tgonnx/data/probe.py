"""The original, asked before anything is learned: the shapes of its outputs, and how pixels must be scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx

from tgonnx.data.answers import IGNORED, class_axis
from tgonnx.data.array_samples import ArraySamples
from tgonnx.data.samples import Indices, Samples, Taught
from tgonnx.errors import DataError, ModelError, UnsupportedError
from tgonnx.graph.types import Array
from tgonnx.runtime.sessions import Feeds, Session, open_session

SCALES = (1.0, 1 / 255)
LOOKED_AT = 256  # samples
SURE = 2.5  # standard deviations of a fair coin that the better scale is better by


@dataclass(frozen=True)
class Probe:
    """A model and the name of the data that it is asked about, for messages."""

    model: onnx.ModelProto
    name: str

    @cached_property
    def session(self) -> Session:
        return open_session(self.model)

    def outputs(self, samples: Samples, indices: Indices) -> Feeds:
        """Outputs for a few samples, filled up to the batch that the model insists on. Raises `DataError`."""
        fixed = samples.axes.fixed
        size = fixed or len(indices)
        if fixed and fixed > len(samples):
            raise DataError(f"{self.name}: {len(samples)} samples, the model's batch is fixed at {fixed}")
        parts = []
        try:
            for start in range(0, len(indices), size):
                parts.append(self.session.run(samples.take(np.resize(indices[start : start + size], size))))
        except (ModelError, UnsupportedError) as error:
            raise DataError(f"{self.name}: {error}") from None
        return samples.axes.join(parts, len(indices))

    def shape(self, samples: Samples, output: str) -> tuple[int, ...]:
        """The shape of an output for one sample or two, samples first."""
        found = self.outputs(samples, np.arange(min(2, len(samples))))[output]
        return tuple(np.moveaxis(found, samples.axes.outputs.get(output) or 0, 0).shape) if found.ndim else ()

    def scaled(self, samples: ArraySamples, taught: Taught | None) -> tuple[ArraySamples, str]:
        """The samples with the scale of their pixels under which the original clearly does better, and a note.

        Raises `DataError` that asks for the scale where labels or targets cannot tell.
        """
        which = ", ".join(repr(v.name) for v in samples.values if samples.inputs[v.name].dtype == np.uint8)
        question = (
            f"{self.name}: array {which} holds bytes and the model wants floats, of 0..255 or of 0..1? "
            "Say scale=1 or scale=1/255, store an array 'scale', or give floats as the model takes them"
        )
        if taught is None:
            raise DataError(f"{question} (without labels it cannot be told)")
        count = len(samples)
        rng = np.random.default_rng(0)
        chosen = (
            np.sort(rng.choice(count, LOOKED_AT, replace=False)) if count > LOOKED_AT else np.arange(count)
        )
        goods = [self._goodness(replace(samples, scale=scale), taught, chosen) for scale in SCALES]
        figures = [float(np.mean(good)) for good in goods]
        better, worse = (0, 1) if figures[0] > figures[1] else (1, 0)
        ahead = int((goods[better] > goods[worse]).sum()), int((goods[better] < goods[worse]).sum())
        what = "accuracy" if taught.kind == "label" else "error"
        told = [f"{abs(figure):.4g}" for figure in figures]
        if ahead[0] - ahead[1] <= SURE * math.sqrt(max(1, sum(ahead))):
            raise DataError(
                f"{question} (the original's {what} on {len(chosen)} samples is {told[0]} and {told[1]})"
            )
        name = ("as they are, 0..255", "divided by 255")[better]
        note = (
            f"pixels of {which} are {name}: the original's {what} on {len(chosen)} samples is {told[better]}, "
            f"{told[worse]} otherwise (scale={('1', '1/255')[better]})"
        )
        return replace(samples, scale=SCALES[better]), note

    def _goodness(self, samples: ArraySamples, taught: Taught, chosen: Indices) -> Array:
        """For each sample the share of right labels, or less the error of targets."""
        output = self.outputs(samples, chosen)[taught.output]
        output = np.moveaxis(output, samples.axes.outputs.get(taught.output) or 0, 0).astype(np.float64)
        wanted = samples.answers[taught.output][chosen]
        if taught.kind == "target":
            return self._less_error(output, wanted)
        axis = class_axis(wanted.shape, output.shape)
        if axis is None:
            return np.zeros(len(chosen))  # what is wrong is said when labels are checked
        right = (output.argmax(axis) == wanted) & (wanted != IGNORED)
        return np.asarray(right.reshape(len(chosen), -1).mean(1))

    @staticmethod
    def _less_error(output: Array, wanted: Array) -> Array:
        if output.shape != wanted.shape or wanted.dtype.kind not in "biuf":
            return np.zeros(len(output))
        return np.asarray(-np.abs(output - wanted).reshape(len(output), -1).mean(1))
