"""Data sets: where they come from.

`data` is anything of: a path to an .npz file, to a folder of images or to a .csv with their paths; a mapping of
arrays; a pair (x, y) of them; an iterable of feed dicts or such pairs (a DataLoader); an object with `get_next()`
(onnxruntime's CalibrationDataReader).

Arrays are named like the model's inputs. Beside them may stand `label` (class numbers) or `target` (values to
predict), and a test split as `test_<name>` for each of them; without one, a tenth of the samples, always the
same, is held out. `tgonnx.data.names` lists what else arrays may be called, `tgonnx.data.axes` where samples are
counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import onnx

from tgonnx.data.folders import ImageFolder, ImageTable
from tgonnx.data.named import dataset_of
from tgonnx.data.npz import read_npz
from tgonnx.data.options import ArrayOptions, Color, ImageOptions, Layout, Resize
from tgonnx.data.samples import Dataset
from tgonnx.data.streams import dataset_of_items, is_item
from tgonnx.errors import UsageError
from tgonnx.graph.types import Array
from tgonnx.options import is_a


@runtime_checkable
class Source(Protocol):
    """A data set before the model is known."""

    def open(self, model: onnx.ModelProto) -> Dataset:
        """Read the data for this model. Raises `DataError`, `UsageError`."""
        ...


Data = str | os.PathLike[str] | Source | Mapping[str, Array] | Iterable[Any]


def npz(
    path: str | os.PathLike[str],
    scale: float | None = None,
    ignore_label: int | None = None,
    const: Mapping[str, Any] | None = None,
    axes: Mapping[str, int | None] | None = None,
) -> Source:
    """The arrays of an .npz file; options as in `tgonnx.data.options.ArrayOptions`."""
    is_a("data.npz", path, (str, os.PathLike), "a path")
    return _Npz(Path(path), _options(scale, ignore_label, const, axes))


def arrays(
    values: Mapping[str, Array],
    scale: float | None = None,
    ignore_label: int | None = None,
    const: Mapping[str, Any] | None = None,
    axes: Mapping[str, int | None] | None = None,
) -> Source:
    """Arrays in memory, named as in an .npz file."""
    is_a("data.arrays", values, Mapping, "a mapping of arrays")
    return _Arrays(dict(values), _options(scale, ignore_label, const, axes))


def feeds(
    items: Iterable[Any],
    scale: float | None = None,
    ignore_label: int | None = None,
    const: Mapping[str, Any] | None = None,
    axes: Mapping[str, int | None] | None = None,
) -> Source:
    """Feed dicts or tuples of arrays, each a batch or a sample, or an object with `get_next()`.

    They are read once and kept: in memory up to a GiB, beyond that in a temporary file. Batches may be of several
    shapes where the model leaves sizes open.
    """
    return _Feeds(items, _options(scale, ignore_label, const, axes))


def folder(
    path: str | os.PathLike[str],
    mean: float | Sequence[float] | Literal["imagenet"] = 0.0,
    std: float | Sequence[float] | Literal["imagenet"] | None = None,
    scale: float | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    resize: Resize = "stretch",
    color: Color = "rgb",
    layout: Layout = "auto",
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
) -> Source:
    """A folder with one folder of images for each class, or images without labels; or a .csv of paths and labels.

    The path may hold `train` and `test` (or `val`) folders of that form. Images are converted to the channels
    of the model's only input and its size, and given as (pixel * scale - mean) / std; integers are given pixels.
    Options as in `tgonnx.data.options.ImageOptions`.
    """
    is_a("data.folder", path, (str, os.PathLike), "a path")
    options = ImageOptions(
        mean=mean, std=std, scale=scale, size=size, resize=resize, color=color, layout=layout, classes=classes
    )
    return read(path, images=options, is_images=True)


def read(
    path: str | os.PathLike[str],
    arrays: ArrayOptions | None = None,
    images: ImageOptions | None = None,
    is_images: bool = False,
) -> Source:
    """What lies at a path: an .npz file, a folder of images or a .csv of their paths, each with its options.

    Raises `UsageError` for a path that is not there, and for options of the other kind.
    """
    place = Path(path)
    if not place.exists():
        raise UsageError(f"{path}: no such file or folder")
    if is_images or place.is_dir() or place.suffix.lower() == ".csv":
        chosen = images or ImageOptions()
        _check_choice("resize", chosen.resize, ("stretch", "crop", "letterbox"))
        _check_choice("color", chosen.color, ("rgb", "bgr"))
        _check_choice("layout", chosen.layout, ("auto", "nchw", "nhwc"))
        if arrays is not None and arrays != ArrayOptions():
            raise UsageError(f"{path}: images take no ignore_label, const or axes")
        return ImageTable(place, chosen) if place.is_file() else ImageFolder(place, chosen)
    if images is not None and images != ImageOptions():
        raise UsageError(f"{path}: mean, std, size, resize, color, layout and classes are for images")
    return _Npz(place, arrays or ArrayOptions())


def open_dataset(data: Data, model: onnx.ModelProto) -> Dataset:
    """Open any kind of data for a model. Raises `DataError`; `UsageError` for a path that is not there."""
    return _as_source(data).open(model)


def _as_source(data: Data) -> Source:
    if isinstance(data, str | os.PathLike):
        return read(data)
    if isinstance(data, Source):
        return data
    if isinstance(data, Mapping):
        return arrays(data)
    if is_item(data):
        return feeds([data])
    if isinstance(data, Iterable) or hasattr(data, "get_next"):
        return feeds(data)
    raise UsageError(f"data cannot be a {type(data).__name__}; give a path, arrays or feed dicts")


def _options(
    scale: float | None,
    ignore_label: int | None,
    const: Mapping[str, Any] | None,
    axes: Mapping[str, int | None] | None,
) -> ArrayOptions:
    return ArrayOptions(scale=scale, ignore_label=ignore_label, const=const or {}, axes=axes or {})


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"{option} {value!r} is not one of {', '.join(choices)}")


@dataclass(frozen=True)
class _Arrays:
    values: dict[str, Array]
    options: ArrayOptions

    def open(self, model: onnx.ModelProto) -> Dataset:
        return dataset_of(self.values, model, "data", self.options)


@dataclass(frozen=True)
class _Npz:
    path: Path
    options: ArrayOptions

    def open(self, model: onnx.ModelProto) -> Dataset:
        if not self.path.is_file():
            raise UsageError(f"{self.path}: no such file")
        return dataset_of(read_npz(self.path), model, str(self.path), self.options)


@dataclass(frozen=True)
class _Feeds:
    items: Any
    options: ArrayOptions

    def open(self, model: onnx.ModelProto) -> Dataset:
        return dataset_of_items(self.items, model, "data", self.options)
