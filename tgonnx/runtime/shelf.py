"""Weights on their way to the child process: a file in memory without a name, in which equal weights lie once.

The parent writes them there one by one, and the child maps the file: neither has a copy, and the sessions of the child
read where they lie. Graphs travel through the pipe and say where their weights are. The file ends with the last process
that has it open. Where there are no such files (Windows), weights go through the pipe.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tgonnx.io.checker import is_external, without_initializers
from tgonnx.io.hollow import Hollow, raw_of

NAME = "tgonnx.shelf"  # what graphs call the file
_ALIGNED = mmap.ALLOCATIONGRANULARITY  # at which a runtime can map a part


class Shelf:
    """The parent's end of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self._places: dict[bytes, tuple[int, int]] = {}

    @classmethod
    def new(cls) -> Shelf | None:
        """An empty one; None where a file cannot be without a name, or handed to a child."""
        if os.name != "posix":
            return None
        if hasattr(os, "memfd_create"):
            return cls(os.fdopen(os.memfd_create("tgonnx"), "w+b", buffering=0))
        return cls(tempfile.TemporaryFile(buffering=0))

    def place(self, raw: bytes) -> tuple[int, int]:
        """Where these bytes lie: offset and length."""
        digest = hashlib.sha256(raw).digest()
        if digest not in self._places:
            offset = -(-self.file.seek(0, os.SEEK_END) // _ALIGNED) * _ALIGNED
            self.file.seek(offset)
            left = memoryview(raw)
            while left:
                left = left[self.file.write(left) :]
            self._places[digest] = (offset, len(raw))
        return self._places[digest]

    def clear(self) -> None:
        """Give the memory back; the child must not need it any more."""
        self._places.clear()
        self.file.truncate(0)


def locate(tensor: TensorProto, name: str, place: tuple[int, int]) -> None:
    """Let a declaration say where its elements lie: on which shelf, at which offset, how many bytes."""
    del tensor.external_data[:]
    for key, value in zip(("location", "offset", "length"), (name, *map(str, place)), strict=True):
        tensor.external_data.add(key=key, value=value)


class Packer(pickle.Pickler):
    """Pickles models without their large weights, which go to the shelf, if there is one."""

    def __init__(self, stream: IO[bytes], shelf: Shelf | None) -> None:
        super().__init__(stream, protocol=5)
        self._shelf = shelf

    def reducer_override(self, item: Any) -> Any:
        """How models travel; what else there is as ever."""
        if not isinstance(item, onnx.ModelProto | Hollow):
            return NotImplemented
        hollow = Hollow.of(item)
        if self._shelf is None:
            stored = {name: tensor.SerializeToString() for name, tensor in hollow.stored.items()}
            return _unpacked, (hollow.proto.SerializeToString(), stored)
        graph = onnx.ModelProto()
        graph.CopyFrom(hollow.proto)
        for tensor in filter(is_external, graph.graph.initializer):
            locate(tensor, NAME, self._shelf.place(raw_of(hollow.stored[tensor.name])))
        return _unpacked, (graph.SerializeToString(), {})


# --- in the child -----------------------------------------------------------------------------------


class _Mapped:
    """An open file of weights, and what was mapped of it last."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.memory: mmap.mmap | None = None

    def map(self) -> None:
        """See what is there now."""
        self.memory = mmap.mmap(self.handle, 0, access=mmap.ACCESS_READ)


_here: dict[str, _Mapped] = {}  # by what graphs call the file


def open_here(handle: int) -> None:
    """Take models from this file, which was inherited."""
    _here[NAME] = _Mapped(handle)


@contextmanager
def own_shelf(name: str) -> Iterator[Shelf | None]:
    """Within, a file of this process, by name; None where there are none. Weights on it are read after `opened`."""
    shelf = Shelf.new()
    try:
        yield shelf
    finally:
        _here.pop(name, None)
        if shelf is not None:
            shelf.file.close()


def opened(shelf: Shelf, name: str) -> None:
    """Let models read what was placed on a shelf of this process."""
    _here[name] = _Mapped(shelf.file.fileno())
    _here[name].map()


def _unpacked(graph: bytes, stored: dict[str, bytes]) -> onnx.ModelProto:
    """The model; its large weights are declared to lie on the shelf, unless they came along."""
    model = onnx.ModelProto()
    model.ParseFromString(graph)
    if stored:
        tensors = {name: TensorProto.FromString(data) for name, data in stored.items()}
        return Hollow(model, tensors).filled()
    if shelves(model):
        _here[NAME].map()
    return model


def shelf_of(tensor: TensorProto) -> str:
    """The shelf on which the elements of an initializer lie; empty if they lie in the model."""
    if not is_external(tensor):
        return ""
    return next((e.value for e in tensor.external_data if e.key == "location" and e.value in _here), "")


def shelves(model: onnx.ModelProto) -> set[str]:
    """The shelves on which initializers of a model lie."""
    return set(map(shelf_of, model.graph.initializer)) - {""}


def memory(name: str) -> mmap.mmap:
    """A shelf as it is mapped here."""
    mapped = _here[name].memory
    assert mapped is not None
    return mapped


def shelf_path(name: str) -> str:
    """By which name this process can open a shelf; where there is no such name, opening it fails."""
    return f"/proc/self/fd/{_here[name].handle}"


@contextmanager
def own_file(data: bytes) -> Iterator[str]:
    """The name of a file in memory that holds the data. Raises OSError where there is none."""
    if not hasattr(os, "memfd_create"):
        raise OSError("no files in memory")
    with os.fdopen(os.memfd_create("tgonnx-graph"), "wb") as file:
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def array_of(tensor: TensorProto) -> NDArray[Any]:
    """The elements of an initializer, wherever they lie; not to be written to."""
    name = shelf_of(tensor)
    if not name:
        return np.asarray(numpy_helper.to_array(tensor))
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if kind.itemsize * int(np.prod(tensor.dims, dtype=np.int64)) != _place(tensor)[1]:  # two to a byte
        return np.asarray(numpy_helper.to_array(_filled(tensor)))
    offset, length = _place(tensor)
    flat = np.frombuffer(memory(name), kind, length // kind.itemsize, offset)
    return flat.reshape(tuple(tensor.dims))


def filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, or a copy that holds what lies on the shelf."""
    if not shelves(model):
        return model
    whole = without_initializers(model)
    for tensor in model.graph.initializer:
        whole.graph.initializer.append(_filled(tensor) if shelf_of(tensor) else tensor)
    return whole


def _place(tensor: TensorProto) -> tuple[int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries["offset"]), int(entries["length"])


def _filled(tensor: TensorProto) -> TensorProto:
    offset, length = _place(tensor)
    whole = TensorProto(name=tensor.name, data_type=tensor.data_type)
    if tensor.doc_string:
        whole.doc_string = tensor.doc_string
    whole.dims.extend(tensor.dims)
    whole.raw_data = memory(shelf_of(tensor))[offset : offset + length]
    return whole
