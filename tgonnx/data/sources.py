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
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

import onnx

from tgonnx.data.archives import read_npz
from tgonnx.data.folders import ImageFolder, ImageTable
from tgonnx.data.named import dataset_of
from tgonnx.data.options import ArrayOptions, ImageOptions, PixelOptions
from tgonnx.data.samples import Dataset
from tgonnx.data.streams import dataset_of_items, is_item
from tgonnx.errors import OptionError, UsageError
from tgonnx.graph.types import Array
from tgonnx.options import changed, is_a, specs, with_fields


@runtime_checkable
class Source(Protocol):
    """A data set before the model is known."""

    def open(self, model: onnx.ModelProto) -> Dataset:
        """Read the data for this model. Raises `DataError`, `UsageError`."""
        ...


Data = str | os.PathLike[str] | Source | Mapping[str, Array] | Iterable[Any]


def npz(path: str | os.PathLike[str], scale: float | None = None, **options: Any) -> Source:
    """The arrays of an .npz file; options are the fields of `tgonnx.data.options.ArrayOptions`.

    Raises `UsageError` for a path that is none, and for options.
    """
    is_a("data.npz", path, (str, os.PathLike), "a path")
    return _Npz(Path(path), _options("data.npz", ArrayOptions(), {"scale": scale, **options}))


def arrays(values: Mapping[str, Array], scale: float | None = None, **options: Any) -> Source:
    """Arrays in memory, named as in an .npz file, with the same options."""
    is_a("data.arrays", values, Mapping, "a mapping of arrays")
    return _Arrays(dict(values), _options("data.arrays", ArrayOptions(), {"scale": scale, **options}))


def feeds(items: Iterable[Any], scale: float | None = None, **options: Any) -> Source:
    """Feed dicts or tuples of arrays, each a batch or a sample, or an object with `get_next()`; options as of `npz`.

    They are read once and kept: in memory up to a GiB, beyond that in a temporary file. Batches may be of several
    shapes where the model leaves sizes open.
    """
    return _Feeds(items, _options("data.feeds", ArrayOptions(), {"scale": scale, **options}))


def folder(
    path: str | os.PathLike[str],
    mean: float | Sequence[float] | Literal["imagenet"] | None = None,
    std: float | Sequence[float] | Literal["imagenet"] | None = None,
    scale: float | None = None,
    **options: Any,
) -> Source:
    """A folder with one folder of images for each class, or images without labels; or a .csv of paths and labels.

    The path may hold `train` and `test` (or `val`) folders of that form. Images are converted to the channels
    of the model's only input and its size, and given as (pixel * scale - mean) / std; integers are given pixels.
    Options are the fields of `tgonnx.data.options.ImageOptions`. Raises `UsageError`.
    """
    is_a("data.folder", path, (str, os.PathLike), "a path")
    given = {"mean": mean, "std": std, "scale": scale, **options}
    return read(path, images=_options("data.folder", ImageOptions(), given), is_images=True)


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
        pixels = images or ImageOptions()
        _refuse(place, "images", ImageOptions, arrays, pixels)
        return ImageTable(place, pixels) if place.is_file() else ImageFolder(place, pixels)
    numbers = arrays or ArrayOptions()
    _refuse(place, "arrays", ArrayOptions, images, numbers)
    return _Npz(place, numbers)


def _refuse(place: Path, held: str, kind: type, given: PixelOptions | None, own: PixelOptions) -> None:
    """Raise `OptionError` for what is `given` for the other kind of data, unless its `own` options say the same."""
    for name in () if given is None else changed(given):
        if name not in specs(kind) or getattr(own, name) != getattr(given, name):
            raise OptionError(name, f"means nothing for {place}, which holds {held}")


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


Options = TypeVar("Options", bound=PixelOptions)


def _options(caller: str, plain: Options, given: Mapping[str, Any]) -> Options:
    """The options with what is `given`. Raises `UsageError`."""
    (chosen,) = with_fields(caller, given, plain)
    return cast(Options, chosen)


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
