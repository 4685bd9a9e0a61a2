"""Which axis of an input or output counts samples.

Mostly it is the first one. It is not for states of recurrent nets ([layers, N, units]) and for sequences with time
first ([T, N, F]), and scalars, sampling rates and style weights have none: they are constants, the same in every
step. What tells is, in this order: what the user says, the name that the axes of inputs and outputs share
(`dim_param`), and the sizes of the arrays against the number of samples. Samples are never taken along time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.errors import DataError, UsageError
from tgonnx.graph.declared import fixed_size, is_placeholder, model_inputs
from tgonnx.graph.types import Array

Dim = int | str | None  # a fixed size, a name, or open without a name
_BATCH = re.compile(r"n|b|bs|\w*batch\w*|n(um)?_?samples?|samples?", re.IGNORECASE)
_TIME = re.compile(
    r"t|times?(_?steps?)?|seq(uence)?s?(_?len(gth)?)?|\w+_len(gth)?|len(gth)?|frames?|n(um)?_?frames|steps?|tokens?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Axes:
    """The axis that counts samples of each input and output by name; None where none does.

    `fixed` is the number of samples that the model's inputs insist on, `doubt` what must be asked if samples are to be
    counted. What is not listed counts samples first.
    """

    inputs: Mapping[str, int | None] = field(default_factory=dict)
    outputs: Mapping[str, int | None] = field(default_factory=dict)
    fixed: int | None = None
    doubt: str = ""

    def take(self, feeds: Mapping[str, Array], positions: NDArray[np.intp]) -> dict[str, Array]:
        """Some samples of a batch of inputs."""
        return {name: _taken(value, self.inputs.get(name, 0), positions) for name, value in feeds.items()}

    def count(self, feeds: Mapping[str, Array]) -> int:
        """The number of samples in a batch of inputs."""
        return self.samples({name: np.shape(value) for name, value in feeds.items()})

    def samples(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The number of samples in a batch of inputs of these shapes."""
        for name, shape in shapes.items():
            axis = self.inputs.get(name, 0)
            if axis is not None and len(shape) > axis:
                return shape[axis]
        return 1

    def first(self, outputs: Mapping[str, Array], count: int) -> dict[str, Array]:
        """What was said of the first `count` samples."""
        return {
            name: _taken(value, self.outputs.get(name, 0), np.arange(count), clip=True)
            for name, value in outputs.items()
        }

    def answers_first(self, array: Array, output: str, count: int | None) -> Array:
        """Labels or targets with samples first, which may be where the output has them."""
        axis = self.outputs.get(output) or 0
        return np.moveaxis(array, axis, 0) if array.ndim > axis > 0 and array.shape[axis] == count else array

    def as_output(self, answers: Array, output: str) -> Array:
        """Labels or targets with samples where the output has them, of those that have them first."""
        axis = self.outputs.get(output) or 0
        return np.moveaxis(answers, 0, axis) if answers.ndim > axis else answers

    def join(self, parts: Sequence[Mapping[str, Array]], count: int) -> dict[str, Array]:
        """Outputs for batches one after the other, `count` samples of them."""
        joined = {name: self._joined(name, [part[name] for part in parts]) for name in parts[0]}
        return self.first(joined, count)

    def _joined(self, name: str, values: Sequence[Array]) -> Array:
        axis = self.outputs.get(name, 0)
        return values[0] if axis is None or values[0].ndim <= axis else np.concatenate(values, axis)


def _taken(value: Array, axis: int | None, positions: NDArray[np.intp], clip: bool = False) -> Array:
    if axis is None or np.ndim(value) <= axis:
        return value
    if clip:
        positions = positions[positions < value.shape[axis]]
    return value[positions] if axis == 0 else value.take(positions, axis)


def dims_of(value: onnx.ValueInfoProto) -> list[Dim] | None:
    """The declared axes of a tensor; None if not even their number is."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [_dim(dim) for dim in tensor.shape.dim]


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if (size := fixed_size(dim)) is not None:
        return size
    return None if is_placeholder(dim.dim_param) else str(dim.dim_param)


def find_axes(
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    count: int | None = None,
    given: Mapping[str, int | None] | None = None,
) -> Axes:
    """The axes of samples of a model whose inputs are fed arrays of the given shapes, if there are any yet.

    `count` is the number of samples, where labels or targets tell; `given` is what the user says of an input. Raises
    `UsageError` for an axis that is not there.
    """
    shapes, given = shapes or {}, given or {}
    declared = {value.name: dims_of(value) for value in model_inputs(model)}
    outputs = {value.name: dims_of(value) or [] for value in model.graph.output}
    _check_given(given, declared, shapes)
    batch = _batch_name(declared, list(outputs.values()), given)
    if count is None:
        count = _count(declared, shapes, batch, given)
    inputs: dict[str, int | None] = {}
    for name, dims in declared.items():
        if name in given:
            inputs[name] = given[name]
        elif dims is not None and batch is not None and batch in dims:
            inputs[name] = dims.index(batch)
        else:
            inputs[name] = _by_size(dims, shapes.get(name), count, bool(batch))
    if inputs and all(axis is None for axis in inputs.values()):
        inputs |= {n: 0 for n in [n for n, dims in declared.items() if dims != [] and n not in given][:1]}
    fixed = _fixed(inputs, declared)
    doubt = _doubt(inputs, declared, given)
    return Axes(inputs, {n: _of_output(dims, batch, fixed) for n, dims in outputs.items()}, fixed, doubt)


def _check_given(
    given: Mapping[str, int | None],
    declared: Mapping[str, list[Dim] | None],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    for name, axis in given.items():
        if name not in declared:
            raise UsageError(f"axes: the model has no input {name!r}; it has {', '.join(declared)}")
        dims = declared[name]
        rank = len(dims) if dims is not None else len(shapes.get(name, ()))
        if axis is not None and not 0 <= axis < rank:
            raise UsageError(f"axes: input {name!r} has {rank} axes, 0..{rank - 1}; there is no axis {axis}")


def _batch_name(
    inputs: Mapping[str, list[Dim] | None], outputs: Iterable[list[Dim]], given: Mapping[str, int | None]
) -> str | None:
    """The name of the axis that counts samples: of all outputs, called like one, not called like time, and first."""
    for name, axis in given.items():
        dims = inputs[name]
        if axis is not None and dims is not None and isinstance(dims[axis], str):
            return str(dims[axis])
    first: dict[str, int] = {}
    for each in inputs.values():
        for place, dim in enumerate(each or ()):
            if isinstance(dim, str):
                first[dim] = min(place, first.get(dim, place))
    told = [dims for dims in outputs if dims]

    def order(name: str) -> tuple[bool, int, bool, int]:
        is_time = bool(_TIME.fullmatch(name))
        return is_time, -sum(name in dims for dims in told), not _BATCH.fullmatch(name), first[name]

    best = min(first, key=order, default=None)
    return None if best is None or _TIME.fullmatch(best) or not _counts(best, inputs) else best


def _counts(name: str, inputs: Mapping[str, list[Dim] | None]) -> bool:
    """A name counts samples if it is called so, or comes first somewhere: heights and widths do not."""
    return bool(_BATCH.fullmatch(name)) or any(dims and dims[0] == name for dims in inputs.values())


def _count(
    declared: Mapping[str, list[Dim] | None],
    shapes: Mapping[str, tuple[int, ...]],
    batch: str | None,
    given: Mapping[str, int | None],
) -> int | None:
    """The number of samples by the arrays: along the known axes, else by the first input that is no constant."""
    for name, shape in shapes.items():
        dims = declared.get(name)
        axis = given.get(name, dims.index(batch) if dims and batch in dims else None)
        if axis is not None and len(shape) > axis:
            return shape[axis]
    free = [shape for name, shape in shapes.items() if shape and list(shape) != declared.get(name)]
    anything = [shape for shape in shapes.values() if shape]
    return next((shape[0] for shape in (*free, *anything)), None)


def _by_size(
    dims: list[Dim] | None, shape: tuple[int, ...] | None, count: int | None, others_count: bool
) -> int | None:
    """The axis of an input whose axes have no name that tells.

    Without an array, the first one, if it is open or one sample, or if nothing else counts samples.
    """
    if dims == []:
        return None
    if dims is None or shape is None or len(shape) != len(dims):
        fixed = dims is not None and all(isinstance(dim, int) for dim in dims)
        return None if fixed and others_count and dims is not None and (dims[0] != 1 or len(dims) == 1) else 0
    fits = [not isinstance(dim, int) or dim == size for dim, size in zip(dims, shape, strict=True)]
    places = [
        axis for axis, size in enumerate(shape) if size == count and all(fits[:axis] + fits[axis + 1 :])
    ]
    if 0 in places:
        return 0
    if len(places) == 1:
        return places[0]
    if all(fits) and all(isinstance(dim, int) for dim in dims) and shape[0] != count:
        return None
    return 0


def _fixed(inputs: Mapping[str, int | None], declared: Mapping[str, list[Dim] | None]) -> int | None:
    for name, axis in inputs.items():
        dims = declared[name]
        if axis is not None and dims and axis < len(dims) and isinstance(size := dims[axis], int):
            return size
    return None


def _of_output(dims: list[Dim], batch: str | None, fixed: int | None) -> int | None:
    if batch is not None and batch in dims:
        return dims.index(batch)
    if fixed is not None and dims and isinstance(dims[0], int) and dims[0] != fixed and fixed in dims:
        return dims.index(fixed)
    constant = batch is not None and dims and all(isinstance(dim, int) for dim in dims)
    return None if constant else 0


def _doubt(
    inputs: Mapping[str, int | None],
    declared: Mapping[str, list[Dim] | None],
    given: Mapping[str, int | None],
) -> str:
    """A question, where samples would be counted along an axis that is called like time."""
    for name, axis in inputs.items():
        dims = declared[name]
        if axis is None or name in given or not dims or not isinstance(dim := dims[axis], str):
            continue
        if _TIME.fullmatch(dim):
            return (
                f"axis {axis} of input {name!r} is called {dim!r}, which is time and not samples; say which axis "
                f"counts samples: axes={{{name!r}: {1 if len(dims) > 1 else 0}}}"
            )
    return ""


def settled(axes: Axes, name: str) -> Axes:
    """The axes, if they need not be asked for. Raises `DataError` with the question."""
    if axes.doubt:
        raise DataError(f"{name}: {axes.doubt}")
    return axes
