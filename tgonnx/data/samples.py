"""Samples, splits and batches: what every data set comes down to.

Where the model wants floats, uint8 arrays are read as images and scaled to 0..1 batch by batch, which keeps
files small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tgonnx.errors import DataError, UsageError
from tgonnx.graph.declared import describe_type, fixed_size
from tgonnx.graph.types import Array
from tgonnx.runtime.sessions import Feeds

Indices = NDArray[np.intp]
HELD_OUT = 0.1
_CHUNK = 1 << 24  # elements looked at in one go


@dataclass(frozen=True)
class Batch:
    """Inputs by name, cast to the model's types, and the labels or targets of the same samples."""

    feeds: Feeds
    answer: Array | None


class Samples(Protocol):
    """Samples that can be taken by number, with all labels or targets in memory."""

    @property
    def answers(self) -> Array | None: ...

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> Feeds:
        """Inputs of the samples, in the model's types."""
        ...

    def check(self, name: str) -> None:
        """Raise `DataError`, starting with `name`, unless every sample fits the model's inputs."""
        ...


@dataclass(frozen=True)
class Split:
    """Some of the samples, in a fixed order."""

    samples: Samples
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def answers(self) -> Array | None:
        """Labels or targets of the split."""
        return None if self.samples.answers is None else self.samples.answers[self.indices]

    def take(self, chosen: Indices) -> Batch:
        """The samples at the given positions of the split."""
        indices = self.indices[chosen]
        answers = self.samples.answers
        return Batch(self.samples.take(indices), None if answers is None else answers[indices])

    def batches(self, size: int, rng: np.random.Generator | None = None, epochs: int = 1) -> Iterator[Batch]:
        """Batches of `size` samples, never empty.

        With `rng`, samples are shuffled in each epoch and an incomplete last batch is left out, so that all
        batches are alike (unless there is only that one). Without, samples come in order and all of them.
        """
        if size < 1 or epochs < 0:
            raise UsageError("the batch size must be at least 1 and epochs at least 0")
        count = len(self)
        end = count if rng is None or count < size else count - count % size
        for _ in range(epochs):
            order = np.arange(count) if rng is None else rng.permutation(count)
            for start in range(0, end, size):
                yield self.take(order[start : min(start + size, end)])


@dataclass(frozen=True)
class Dataset:
    """Samples to learn from and, if there are enough, held-out ones to measure with.

    `answer` says what the answers are: "label", "target" or None. `classes` are names of classes, if known.
    """

    name: str
    train: Split
    held_out: Split | None
    answer: str | None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArraySamples:
    """Samples in memory; `inputs` has one array for each of `values`, the model's inputs."""

    values: list[onnx.ValueInfoProto]
    inputs: dict[str, Array]
    answers: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()), ()))

    def take(self, indices: Indices) -> Feeds:
        return {
            value.name: _cast(self.inputs[value.name][indices], element_type(value)) for value in self.values
        }

    def check(self, name: str) -> None:
        for value in self.values:
            _check_input(self.inputs[value.name], value, f"{name}: array {value.name!r}")


def element_type(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """The numpy type of a tensor value."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype == np.uint8 and dtype != np.uint8 and dtype.kind not in "iub":
        array = array.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(array, dtype)


def everything(samples: Samples) -> Split:
    """One split of all samples."""
    return Split(samples, np.arange(len(samples)))


def hold_out(samples: Samples) -> tuple[Split, Split | None]:
    """Split off a tenth of the samples, the same ones in every run; nothing from a single sample."""
    count = len(samples)
    if count < 2:
        return everything(samples), None
    order = np.random.default_rng(0).permutation(count)
    held = max(1, round(count * HELD_OUT))
    return Split(samples, np.sort(order[held:])), Split(samples, np.sort(order[:held]))


def _check_input(array: Array, value: onnx.ValueInfoProto, where: str) -> None:
    dims = value.type.tensor_type.shape.dim
    fits = array.ndim == len(dims) and all(
        fixed_size(dim) in (None, size) for dim, size in zip(dims[1:], array.shape[1:], strict=True)
    )
    if value.type.tensor_type.HasField("shape") and not fits:
        raise DataError(f"{where} has shape {array.shape}, the model wants {describe_type(value)}")
    wanted = element_type(value)
    if array.dtype.kind not in "biuf" or not (
        np.can_cast(array.dtype, wanted, "same_kind") or wanted.kind not in "biu"
    ):
        raise DataError(f"{where} has type {array.dtype}, the model wants {wanted}")
    check_finite(array, where)


def check_finite(array: Array, where: str) -> None:
    """Raise `DataError` if an array of floats contains NaN or infinite values."""
    if array.dtype.kind != "f":
        return
    rows = max(1, _CHUNK // max(1, int(np.prod(array.shape[1:]))))
    for start in range(0, len(array), rows):
        finite = np.isfinite(array[start : start + rows])
        if not finite.all():
            sample = start + int(np.argwhere(~finite)[0][0])
            raise DataError(f"{where} contains NaN or infinite values, first in sample {sample}")
