"""Data sets: where they come from, how they fit a model, and batches from them.

`data` is anything of: a path to an .npz file, a folder of class folders of images, a mapping of arrays, an
iterable of feed dicts, or an object with `get_next()` (onnxruntime's CalibrationDataReader).

Arrays are named like the model's inputs, the first axis counting samples. Beside them may stand `label`
(class numbers) or `target` (values to predict), and a test split as `test_<name>` for each of them; without
one, a tenth of the samples, always the same, is held out. Where the model wants floats, uint8 arrays are read
as images and scaled to 0..1 batch by batch, which keeps files small. All checks are made before the first
batch: a label out of range or an empty batch would crash the runtime.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tgonnx.errors import DataError, ModelError, UsageError
from tgonnx.feeds import model_inputs
from tgonnx.runtime import Feeds, open_session
from tgonnx.verify import describe_type
from tgonnx.wellformed import describe

Array = NDArray[Any]
Indices = NDArray[np.intp]
LOSSES = ("auto", "ce", "mse", "l1", "bce", "distill")
HELD_OUT = 0.1
_CHUNK = 1 << 24  # elements looked at in one go
_ANSWERS = ("label", "target")


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
class Fit:
    """How a data set and a loss fit a model; made by `validate`.

    `loss` is never "auto". `output` is the model's first output, which the loss is taken on, and `class_axis`
    its axis of classes (cross-entropy only).
    """

    loss: str
    output: str
    class_axis: int | None = None


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
    from tgonnx.images import ImageFolder

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


# --- arrays -----------------------------------------------------------------------------------------


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
        try:
            loaded = np.load(self.path, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise DataError(f"{self.path}: a single array; save named arrays with numpy.savez")
            with loaded as archive:
                values = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{self.path}: not a readable .npz file: {describe(error, 120)}") from None
        return _from_arrays(values, inputs, str(self.path))


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
        return Dataset(name, _all(train), _all(test), answer)
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


def _all(samples: Samples) -> Split:
    return Split(samples, np.arange(len(samples)))


def hold_out(samples: Samples) -> tuple[Split, Split | None]:
    """Split off a tenth of the samples, the same ones in every run; nothing from a single sample."""
    count = len(samples)
    if count < 2:
        return _all(samples), None
    order = np.random.default_rng(0).permutation(count)
    held = max(1, round(count * HELD_OUT))
    return Split(samples, np.sort(order[held:])), Split(samples, np.sort(order[:held]))


def _check_input(array: Array, value: onnx.ValueInfoProto, where: str) -> None:
    dims = value.type.tensor_type.shape.dim
    fits = array.ndim == len(dims) and all(
        not dim.HasField("dim_value") or dim.dim_value == size
        for dim, size in zip(dims[1:], array.shape[1:], strict=True)
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


# --- does it fit? -----------------------------------------------------------------------------------


def validate(dataset: Dataset, model: onnx.ModelProto, loss: str = "auto") -> Fit:
    """Check all samples and answers against the model and the loss, by running the model on a few of them.

    Losses: "ce" needs labels, "mse", "l1" and "bce" need targets of the output's shape (bce: within 0..1),
    "distill" needs neither; "auto" takes what the answers allow. Raises `DataError`, and `UsageError` for an
    unknown loss.
    """
    if loss not in LOSSES:
        raise UsageError(f"unknown loss {loss!r}; there are {', '.join(LOSSES)}")
    chosen = {"label": "ce", "target": "mse", None: "distill"}[dataset.answer] if loss == "auto" else loss
    wanted = {"ce": "label", "distill": None}.get(chosen, "target")
    if wanted and dataset.answer != wanted:
        raise DataError(f"{dataset.name}: loss {chosen} needs an array {wanted!r}")
    splits = {"": dataset.train} | ({"test_": dataset.held_out} if dataset.held_out else {})
    seen: list[Samples] = []
    for split in splits.values():
        if not len(split):
            raise DataError(f"{dataset.name}: there are no samples")
        if not any(split.samples is other for other in seen):
            split.samples.check(dataset.name)
            seen.append(split.samples)
    output, shape = _try(dataset, model)
    class_axis = None
    for prefix, split in splits.items():
        answers, where = split.answers, f"{dataset.name}: array {prefix + (wanted or '')!r}"
        if answers is None or wanted is None:
            continue
        if chosen == "ce":
            class_axis = _check_labels(answers, shape, where)
        else:
            _check_targets(answers, shape, where, chosen)
    return Fit(chosen, output, class_axis)


def _try(dataset: Dataset, model: onnx.ModelProto) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the first output on a few real samples."""
    fixed = [value.type.tensor_type.shape.dim[:1] for value in model_inputs(model)]
    sizes = [dims[0].dim_value for dims in fixed if dims and dims[0].HasField("dim_value")]
    count = max(sizes, default=min(2, len(dataset.train)))
    if count > len(dataset.train):
        raise DataError(
            f"{dataset.name}: {len(dataset.train)} samples, the model's batch is fixed at {count}"
        )
    feed = dataset.train.take(np.arange(count)).feeds
    try:
        outputs = open_session(model).run(feed)
    except ModelError as error:
        raise DataError(f"{dataset.name}: {error}") from None
    name = model.graph.output[0].name
    return name, outputs[name].shape


def _check_labels(labels: Array, output: tuple[int, ...], where: str) -> int:
    """The class axis of the output: the axis that the labels lack."""
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where} has type {labels.dtype}; labels are whole numbers")
    inner = labels.shape[1:]
    axes = [
        axis for axis in (1, len(output) - 1) if axis > 0 and output[1:axis] + output[axis + 1 :] == inner
    ]
    if not axes:
        raise DataError(f"{where} has shape {labels.shape}, which does not fit the output's shape {output}")
    classes = output[axes[0]]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        sample = int(np.argwhere(labels == wrong)[0][0])
        raise DataError(f"{where}: label {wrong} of sample {sample} is outside 0..{classes - 1}")
    return axes[0]


def _check_targets(targets: Array, output: tuple[int, ...], where: str, loss: str) -> None:
    if targets.dtype.kind not in "biuf":
        raise DataError(f"{where} has type {targets.dtype}; targets are numbers")
    if targets.shape[1:] != output[1:]:
        raise DataError(f"{where} has shape {targets.shape}, which does not fit the output's shape {output}")
    check_finite(targets, where)
    if loss == "bce" and (targets.min() < 0 or targets.max() > 1):
        raise DataError(f"{where}: loss bce needs targets within 0..1")
