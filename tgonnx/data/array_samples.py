"""Samples in memory or on disk as arrays, one for each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import onnx

from tgonnx.data.axes import Axes, dims_of
from tgonnx.data.finite import check_finite
from tgonnx.data.samples import Indices, Samples, element_type
from tgonnx.errors import DataError
from tgonnx.graph.declared import describe_type
from tgonnx.graph.types import Array
from tgonnx.runtime.sessions import Feeds

_LOOKS: dict[tuple[int, ...], str] = {
    (0, 3, 1, 2): "; it looks like NHWC",
    (0, 2, 3, 1): "; it looks like NCHW",
}


@dataclass(frozen=True)
class ArraySamples:
    """Arrays as the model takes them: `inputs` has one for each of `values`, the model's inputs.

    `axes` says where samples are counted; an array without such an axis is given whole, in every batch. An input
    in `repeated` has one entry there for all samples. `scale` multiplies uint8 arrays where the model wants floats.
    """

    values: Sequence[onnx.ValueInfoProto]
    inputs: Mapping[str, Array]
    axes: Axes
    answers: Mapping[str, Array] = field(default_factory=dict)
    scale: float = 1.0
    repeated: frozenset[str] = frozenset()
    count: int = 0
    shape_of: Indices | None = None
    slow: bool = False

    @property
    def parts(self) -> Sequence[Samples]:
        return (self,)

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Indices) -> Feeds:
        return {
            value.name: _cast(self._picked(value.name, indices), element_type(value), self.scale)
            for value in self.values
        }

    def _picked(self, name: str, indices: Indices) -> Array:
        if name in self.repeated:
            indices = np.zeros_like(indices)
        return self.axes.take({name: self.inputs[name]}, indices)[name]

    def answers_of(self, indices: Indices) -> dict[str, Array]:
        return {output: array[indices] for output, array in self.answers.items()}

    def check(self, name: str) -> None:
        for value in self.values:
            check_input(
                self.inputs[value.name], value, self.axes.inputs[value.name], f"{name}: array {value.name!r}"
            )


@dataclass(frozen=True)
class GroupedSamples:
    """Samples of several shapes, in their order: `shape_of` is the number of the part, `place` that within it."""

    parts: Sequence[ArraySamples]
    shape_of: Indices
    place: Indices
    slow: bool = False

    @property
    def axes(self) -> Axes:
        return self.parts[0].axes

    @property
    def answers(self) -> Mapping[str, Array]:
        """Answers of all samples, where they are of one shape; those of others are asked for part by part."""
        found: dict[str, Array] = {}
        for output in self.parts[0].answers:
            each = [part.answers[output] for part in self.parts]
            if len({array.shape[1:] for array in each}) == 1:
                found[output] = np.empty((len(self), *each[0].shape[1:]), each[0].dtype)
                for number, array in enumerate(each):
                    found[output][self.shape_of == number] = array
        return found

    def __len__(self) -> int:
        return len(self.shape_of)

    def take(self, indices: Indices) -> Feeds:
        return self._part(indices).take(self.place[indices])

    def answers_of(self, indices: Indices) -> dict[str, Array]:
        return self._part(indices).answers_of(self.place[indices])

    def _part(self, indices: Indices) -> ArraySamples:
        return self.parts[int(self.shape_of[indices[0]])]

    def check(self, name: str) -> None:
        for part in self.parts:
            part.check(name)


def wants_scale(array: Array, value: onnx.ValueInfoProto) -> bool:
    """Whether these are bytes for an input of floats: pixels that may have to be scaled."""
    return array.dtype == np.uint8 and element_type(value).kind not in "iub"


def _cast(array: Array, dtype: np.dtype[Any], scale: float) -> Array:
    if array.dtype == np.uint8 and dtype.kind not in "iub" and scale != 1:
        parts = 1 / scale
        array = array.astype(np.float32)
        if abs(parts - round(parts)) < 1e-6 * parts:  # 1/255 is divided by 255, as everybody does
            array /= np.float32(round(parts))
        else:
            array *= np.float32(scale)
    return np.ascontiguousarray(array, dtype).reshape(array.shape)


def check_input(array: Array, value: onnx.ValueInfoProto, axis: int | None, where: str) -> None:
    """Raise `DataError` unless an array with samples on `axis` fits an input, with the cure where one is at hand."""
    if not _fits(array.shape, value, axis):
        raise DataError(
            f"{where} has shape {array.shape}, the model wants {describe_type(value)}{_cure(array, value, axis)}"
        )
    wanted = element_type(value)
    if array.dtype.kind not in "biuf" or not (
        np.can_cast(array.dtype, wanted, "same_kind") or wanted.kind not in "biu"
    ):
        raise DataError(
            f"{where} has type {array.dtype}, the model wants {wanted}{_type_cure(array.dtype, wanted)}"
        )
    check_finite(array, where, axis)


def _fits(shape: tuple[int, ...], value: onnx.ValueInfoProto, axis: int | None) -> bool:
    dims = dims_of(value)
    if dims is None:
        return True
    return len(shape) == len(dims) and all(
        place == axis or not isinstance(dim, int) or dim == size
        for place, (dim, size) in enumerate(zip(dims, shape, strict=True))
    )


def _cure(array: Array, value: onnx.ValueInfoProto, axis: int | None) -> str:
    """What would make the array fit: its axes in another order, or one more or less of size 1."""
    shape, dims = array.shape, dims_of(value) or []
    name = value.name
    if len(shape) == len(dims) <= 5:
        moved = [
            order
            for order in permutations(range(len(shape)))
            if (axis is None or order[axis] in (0, axis))
            and _fits(tuple(shape[i] for i in order), value, axis)
        ]
        best = min(moved, key=lambda order: _disorder(order), default=None)
        if best is not None:
            return f"{_LOOKS.get(best, '')}: give {name}.transpose({', '.join(map(str, best))})"
    if len(shape) + 1 == len(dims):
        for place in range(len(dims)):
            if _fits((*shape[:place], 1, *shape[place:]), value, axis):
                return f"; an axis is missing: give numpy.expand_dims({name}, {place})"
    if len(shape) == len(dims) + 1:
        for place, size in enumerate(shape):
            if size == 1 and _fits((*shape[:place], *shape[place + 1 :]), value, axis):
                return f"; there is an axis too many: give {name}.squeeze({place})"
    return ""


def _disorder(order: Sequence[int]) -> int:
    """The steps that axes have been moved by: a rotation of neighbours is less than an exchange of far ones."""
    return sum(a > b for place, a in enumerate(order) for b in order[place + 1 :])


def _type_cure(found: np.dtype[Any], wanted: np.dtype[Any]) -> str:
    if found.kind == "f" and wanted == np.uint8:
        return "; pixels of 0..255 are wanted: give them as uint8, not scaled"
    if found.kind in "biuf" and wanted.kind in "iu":
        return f": give it as .astype(numpy.{wanted})"
    return ""
