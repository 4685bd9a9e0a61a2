"""Data sets: where they come from.

`data` is anything of: a path to an .npz file, a folder of class folders of images, a mapping of arrays, an
iterable of feed dicts, or an object with `get_next()` (onnxruntime's CalibrationDataReader).

Arrays are named like the model's inputs, the first axis counting samples. Beside them may stand `label`
(class numbers) or `target` (values to predict), and a test split as `test_<name>` for each of them; without
one, a tenth of the samples, always the same, is held out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx

from tgonnx.data.images import ImageFolder
from tgonnx.data.npz import read_npz
from tgonnx.data.samples import ArraySamples, Dataset, everything, hold_out
from tgonnx.errors import DataError, UsageError
from tgonnx.graph.declared import model_inputs
from tgonnx.graph.types import Array

_ANSWERS = ("label", "target")


@runtime_checkable
class Source(Protocol):
    """A data set before the model is known."""

    def open(self, inputs: list[onnx.ValueInfoProto]) -> Dataset:
        """Read the data for these inputs. Raises `DataError`, `UsageError`."""
        ...


Data = str | os.PathLike[str] | Source | Mapping[str, Array] | Iterable[Mapping[str, Array]]


def npz(path: str | os.PathLike[str]) -> Source:
    """The arrays of an .npz file."""
    return _Npz(Path(path))


def arrays(values: Mapping[str, Array]) -> Source:
    """Arrays in memory, named as in an .npz file."""
    return _Arrays(dict(values))


def feeds(items: Iterable[Mapping[str, Array]]) -> Source:
    """Feed dicts, each with a batch axis, or an object with `get_next()`; read once and kept in memory."""
    return _Feeds(items)


def folder(
    path: str | os.PathLike[str],
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    scale: float = 1 / 255,
) -> Source:
    """A folder with one folder of images for each class; classes are numbered by name in sorted order.

    The path may hold `train` and `test` (or `val`) folders of that form. Images are converted to the channels
    of the model's only input, resized to it, and given as (pixel * scale - mean) / std; `mean` and `std` have
    one entry, or one for each channel.
    """
    return ImageFolder(Path(path), mean, std, scale)


def open_dataset(data: Data, model: onnx.ModelProto) -> Dataset:
    """Open any kind of data for a model. Raises `DataError`; `UsageError` for a path that is not there."""
    return _as_source(data).open(model_inputs(model))


def _as_source(data: Data) -> Source:
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        if not path.exists():
            raise UsageError(f"{data}: no such file or folder")
        return folder(path) if path.is_dir() else npz(path)
    if isinstance(data, Source):
        return data
    if isinstance(data, Mapping):
        return arrays(data)
    if isinstance(data, Iterable) or hasattr(data, "get_next"):
        return feeds(data)
    raise UsageError(f"data cannot be a {type(data).__name__}; give a path, arrays or feed dicts")


@dataclass(frozen=True)
class _Arrays:
    values: dict[str, Array]
    name: str = "data"

    def open(self, inputs: list[onnx.ValueInfoProto]) -> Dataset:
        return _from_arrays(self.values, inputs, self.name)


@dataclass(frozen=True)
class _Npz:
    path: Path

    def open(self, inputs: list[onnx.ValueInfoProto]) -> Dataset:
        if not self.path.is_file():
            raise UsageError(f"{self.path}: no such file")
        return _from_arrays(read_npz(self.path), inputs, str(self.path))


@dataclass(frozen=True)
class _Feeds:
    items: Any

    def open(self, inputs: list[onnx.ValueInfoProto]) -> Dataset:
        gathered: dict[str, list[Array]] = {}
        count = 0
        for count, item in enumerate(self._iterate(), 1):
            if not isinstance(item, Mapping):
                raise DataError(f"data: item {count} is a {type(item).__name__}, not a dict of arrays")
            if gathered and gathered.keys() != item.keys():
                raise DataError(f"data: item {count} has other names than those before it")
            for name, value in item.items():
                array = np.asarray(value)
                parts = gathered.setdefault(name, [])
                if array.ndim == 0 or (parts and array.shape[1:] != parts[0].shape[1:]):
                    raise DataError(f"data: item {count}: {name!r} has another shape: {array.shape}")
                parts.append(array)
        if not count:
            raise DataError("data: there are no samples")
        return _from_arrays({name: np.concatenate(parts) for name, parts in gathered.items()}, inputs, "data")

    def _iterate(self) -> Iterator[Any]:
        if hasattr(self.items, "get_next"):
            while (item := self.items.get_next()) is not None:
                yield item
        else:
            yield from self.items


def _from_arrays(values: Mapping[str, Array], inputs: list[onnx.ValueInfoProto], name: str) -> Dataset:
    names = [value.name for value in inputs]
    missing = [wanted for wanted in names if wanted not in values]
    if missing:
        have = ", ".join(map(repr, values)) or "nothing"
        raise DataError(f"{name}: no array for input {missing[0]!r} of the model; there is {have}")
    present = [answer for answer in _ANSWERS if answer in values and answer not in names]
    if len(present) > 1:
        raise DataError(f"{name}: has both 'label' and 'target'; one of them must go")
    answer = present[0] if present else None
    train = _samples(values, "", inputs, answer, name)
    if not len(train):
        raise DataError(f"{name}: there are no samples")
    if any(f"test_{wanted}" in values for wanted in names if f"test_{wanted}" not in names):
        test = _samples(values, "test_", inputs, answer, name)
        if not len(test):
            raise DataError(f"{name}: there are no test samples")
        return Dataset(name, everything(train), everything(test), answer)
    return Dataset(name, *hold_out(train), answer)


def _samples(
    values: Mapping[str, Array], prefix: str, inputs: list[onnx.ValueInfoProto], answer: str | None, name: str
) -> ArraySamples:
    wanted = [value.name for value in inputs] + ([answer] if answer else [])
    found = {}
    for key in wanted:
        if prefix + key not in values:
            raise DataError(f"{name}: array {prefix + key!r} is missing")
        found[key] = np.asarray(values[prefix + key])
        if found[key].ndim == 0:
            raise DataError(f"{name}: array {prefix + key!r} is a single value, without an axis of samples")
    counts = {key: len(array) for key, array in found.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{prefix + key!r} has {count}" for key, count in counts.items())
        raise DataError(f"{name}: arrays differ in their number of samples: {listed}")
    answers = found.pop(answer) if answer else None
    return ArraySamples(inputs, found, answers)
