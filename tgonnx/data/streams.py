"""Feed dicts, (x, y) pairs, batches of a DataLoader, a CalibrationDataReader: read once, and kept within bounds.

Samples are drawn again and again in other orders, so they must be at hand. What is more than `IN_MEMORY` goes to a
temporary file that has no name, and is gone with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
import onnx

from tgonnx.data.axes import Axes, dims_of, find_axes, settled
from tgonnx.data.named import constants, dataset_of_groups
from tgonnx.data.names import taught_by
from tgonnx.data.options import ArrayOptions
from tgonnx.data.samples import Dataset
from tgonnx.errors import DataError, UsageError
from tgonnx.graph.declared import model_inputs
from tgonnx.graph.types import Array

IN_MEMORY, MOST = 1 << 30, 64 << 30  # bytes
MOST_SHAPES = 64  # each has a training step of its own
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def dataset_of_items(items: Any, model: onnx.ModelProto, name: str, options: ArrayOptions) -> Dataset:
    """The data set of an iterable of batches, or an object with `get_next()`. Raises `DataError`, `UsageError`."""
    gathering = _Gathering(model, name, options)
    for number, item in enumerate(_iterate(items), 1):
        gathering.add(item, f"{name}: item {number}")
    if not gathering.groups:
        raise DataError(f"{name}: there are no samples")
    groups = [gathering.arrays(key) for key in gathering.groups]
    return dataset_of_groups(groups, np.array(gathering.group_of, np.intp), model, name, options)


def _iterate(items: Any) -> Iterator[Any]:
    if hasattr(items, "get_next"):
        while (item := items.get_next()) is not None:
            yield item
    else:
        yield from items


@dataclass
class _Pile:
    """Rows of one array, samples first: a list of pieces in memory, or a file when there are too many."""

    pieces: list[Array] = field(default_factory=list)
    file: BinaryIO | None = None
    rows: int = 0

    def add(self, piece: Array) -> None:
        self.rows += len(piece)
        if self.file is None:
            self.pieces.append(piece)
        else:
            self.file.write(np.ascontiguousarray(piece, self.pieces[0].dtype).tobytes())

    def spill(self) -> None:
        """Go on in a file."""
        if self.file is None:
            self.file = tempfile.TemporaryFile(prefix="tgonnx-")  # noqa: SIM115 (it lives as long as its rows)
            for piece in self.pieces:
                self.file.write(np.ascontiguousarray(piece, self.pieces[0].dtype).tobytes())
            self.pieces = [self.pieces[0][:0]]

    def array(self) -> Array:
        if self.file is None:
            return np.concatenate(self.pieces) if len(self.pieces) > 1 else self.pieces[0]
        self.file.flush()
        first = self.pieces[0]
        with self.file as file:  # the map keeps what it needs
            return np.memmap(file, first.dtype, "r", shape=(self.rows, *first.shape[1:]))


class _Gathering:
    """Items in groups of one shape; a group holds a pile for each name that has samples."""

    def __init__(self, model: onnx.ModelProto, name: str, options: ArrayOptions) -> None:
        self.inputs, self.model, self.name, self.options = model_inputs(model), model, name, options
        self.wanted = [v.name for v in self.inputs if v.name not in constants(options.const, self.inputs)]
        self.axes: Axes | None = None
        self.names: set[str] = set()
        self.outputs: dict[str, str] = {}
        self.constant: dict[str, Array] = {}
        self.groups: dict[Shapes, dict[str, _Pile]] = {}
        self.group_of: list[int] = []
        self.bytes = 0

    def add(self, item: Any, where: str) -> None:
        """Take one batch, or one sample without an axis of its own. Raises `DataError`."""
        arrays = self._named(item, where)
        if self.axes is None:
            self.axes, self.names = self._find_axes(arrays), set(arrays)
            self.outputs = {each.array: each.output for each in taught_by(arrays, self.model, self.name)}
        if self.names != set(arrays):
            raise DataError(f"{where} has other names than those before it: {', '.join(sorted(arrays))}")
        rows = {key: self._rows(key, array, where) for key, array in arrays.items()}
        piled = {key: array for key, array in rows.items() if array is not None}
        count = next((len(array) for key, array in piled.items() if key not in self.outputs), None)
        for key, output in self.outputs.items():
            piled[key] = self.axes.answers_first(piled[key], output, count)
        counts = {key: len(array) for key, array in piled.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{key!r} has {count}" for key, count in counts.items())
            raise DataError(f"{where}: arrays differ in their number of samples: {listed}")
        shapes = tuple((key, array.shape[1:]) for key, array in piled.items())
        group = self.groups.setdefault(shapes, {key: _Pile() for key in piled})
        if len(self.groups) > MOST_SHAPES:
            raise DataError(
                f"{where} has the shape number {len(self.groups)}; resize or pad samples to fewer shapes"
            )
        self.group_of += [list(self.groups).index(shapes)] * next(iter(counts.values()), 0)
        try:
            for key, array in piled.items():
                group[key].add(array)
                self.bytes += array.nbytes
            self._bound()
        except OSError as error:
            raise DataError(f"{self.name}: too many samples for the temporary folder: {error}") from None

    def arrays(self, key: Shapes) -> dict[str, Array]:
        """The arrays of a group, samples where the model has them."""
        assert self.axes is not None
        piled = {name: pile.array() for name, pile in self.groups[key].items()}
        answers = {
            name: self.axes.as_output(piled.pop(name), output) for name, output in self.outputs.items()
        }
        placed = {
            name: np.moveaxis(array, 0, self.axes.inputs.get(name) or 0) for name, array in piled.items()
        }
        return placed | answers | self.constant

    def _bound(self) -> None:
        if self.bytes > MOST:
            raise DataError(f"{self.name}: more than {MOST >> 30} GiB of samples; do they ever end?")
        if self.bytes > IN_MEMORY:
            for pile in chain.from_iterable(group.values() for group in self.groups.values()):
                pile.spill()

    def _named(self, item: Any, where: str) -> dict[str, Array]:
        """An item as arrays by name: a dict, inputs in the model's order, or those and labels or targets."""
        if isinstance(item, Mapping):
            return {str(key): as_array(value) for key, value in item.items()}
        parts = list(item) if isinstance(item, tuple | list) else [item]
        if not all(hasattr(part, "shape") or np.isscalar(part) for part in parts) or len(parts) not in (
            len(self.wanted), len(self.wanted) + 1,
        ):  # fmt: skip
            raise DataError(
                f"{where} is a {type(item).__name__}, not a dict of arrays, nor a tuple of {len(self.wanted)} "
                "inputs with or without labels"
            )
        arrays = [as_array(part) for part in parts]
        named = dict(zip(self.wanted, arrays, strict=False))
        if len(arrays) > len(self.wanted):
            named["label" if arrays[-1].dtype.kind in "iu" else "target"] = arrays[-1]
        return named

    def _find_axes(self, arrays: Mapping[str, Array]) -> Axes:
        shapes = {value.name: arrays[value.name].shape for value in self.inputs if value.name in arrays}
        return settled(find_axes(self.model, shapes, given=self.options.axes), self.name)

    def _rows(self, key: str, array: Array, where: str) -> Array | None:
        """The array with samples first; None for a constant, which must be what it was before."""
        assert self.axes is not None
        value = next((v for v in self.inputs if v.name == key), None)
        axis = self.axes.inputs.get(key, 0)
        if axis is None:
            if not np.array_equal(self.constant.setdefault(key, array), array):
                raise DataError(
                    f"{where}: {key!r} differs from the items before it, but it has no axis of samples"
                )
            return None
        dims = None if value is None else dims_of(value)
        if dims is not None and array.ndim == len(dims) - 1:
            array = np.expand_dims(array, axis)  # one sample, without an axis of samples
        elif array.ndim == 0:
            array = array.reshape(1)
        if array.ndim <= axis:
            raise DataError(f"{where}: {key!r} has shape {array.shape}, without an axis of samples")
        return np.moveaxis(array, axis, 0)


def as_array(value: Any) -> Array:
    """A numpy array of anything that is like one; tensors of torch leave their device and their graph."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"data: a {type(value).__name__} is no array: {error}") from None


def is_item(data: Any) -> bool:
    """Whether this is one (x, y) of whole arrays, not an iterable of batches."""
    return isinstance(data, tuple) and len(data) > 1 and all(hasattr(part, "shape") for part in data)
