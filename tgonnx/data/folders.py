"""Where image files come from: class folders, flat folders, tables of paths and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from tgonnx.data.answers import classes_differ
from tgonnx.data.axes import dims_of
from tgonnx.data.decode import SUFFIXES
from tgonnx.data.images import ImageSamples, Preparation, image_samples, preparation
from tgonnx.data.names import answered
from tgonnx.data.options import ImageOptions
from tgonnx.data.probe import Probe
from tgonnx.data.samples import Dataset, Kind, Taught, everything, hold_out
from tgonnx.errors import DataError, UsageError

_TEST_NAMES = ("test", "val", "valid", "validation")
_PATHS, _LABELS = (
    ("path", "file", "filename", "image", "image_path"),
    ("label", "class", "target", "category"),
)


@dataclass(frozen=True)
class Listed:
    """Image files, and the number of the class of each; no labels if they have none."""

    files: list[Path]
    labels: list[int] | None


@dataclass(frozen=True)
class ImageFolder:
    """The source behind `tgonnx.data.sources.folder`."""

    path: Path
    options: ImageOptions

    def open(self, model: onnx.ModelProto) -> Dataset:
        if not self.path.is_dir():
            raise UsageError(f"{self.path}: no such folder")
        train = self.path / "train" if (self.path / "train").is_dir() else self.path
        parts = [self.path / name for name in _TEST_NAMES if (self.path / name).is_dir()]
        test, *unread = parts if parts and train != self.path else [None]
        classes, note = self._classes(train)
        listed = _in_folder(train, classes)
        held = None if test is None else _in_folder(test, classes)
        notes = [*([note] if note else []), *_unread(train, classes)]
        notes += [f"{part} is not read: the test part is {test}" for part in unread]
        return _dataset(str(self.path), listed, held, classes, self.options, model, notes)

    def _classes(self, root: Path) -> tuple[tuple[str, ...], str]:
        """The names of the classes, none for images without labels, and what to say of that."""
        folders = sorted(entry.name for entry in root.iterdir() if _is_class(entry))
        given = class_names(self.options.classes)
        if given:
            strange = sorted(set(folders) - set(given))
            if strange:
                raise DataError(f"{root}: folder {strange[0]!r} is not among the {len(given)} given classes")
            return given, ""
        if len(folders) > 1:
            return tuple(folders), ""
        what = f"in one folder ({folders[0]})" if folders else "without class folders"
        return (), f"the images are {what}: they have no labels, and the original is imitated"


@dataclass(frozen=True)
class ImageTable:
    """A .csv with a path in each row and, perhaps, a class name or number; paths are relative to the file."""

    path: Path
    options: ImageOptions

    def open(self, model: onnx.ModelProto) -> Dataset:
        if not self.path.is_file():
            raise UsageError(f"{self.path}: no such file")
        rows = self._rows()
        files = [self.path.parent / row[0] for row in rows]
        for number, file in enumerate(files, 1):
            if not file.is_file():
                raise DataError(f"{self.path}: row {number}: {file}: no such image")
        names = [row[1] for row in rows if len(row) > 1]
        if names and len(names) < len(rows):
            raise DataError(f"{self.path}: {len(rows) - len(names)} of {len(rows)} rows have no label")
        classes, labels = self._numbered(names)
        listed = Listed(files, labels if names else None)
        notes = [] if names else ["the table has no labels: the original is imitated"]
        return _dataset(str(self.path), listed, None, classes, self.options, model, notes)

    def _rows(self) -> list[list[str]]:
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                rows = [
                    [cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))
                ]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.path}: not a readable table: {error}") from None
        path, label = 0, 1
        if rows and not rows[0][0].lower().endswith(SUFFIXES):
            header = [cell.lower() for cell in rows.pop(0)]
            path = next((header.index(name) for name in _PATHS if name in header), -1)
            label = next((header.index(name) for name in _LABELS if name in header), -1)
        if (
            path < 0
            or not rows
            or not all(row[path].lower().endswith(SUFFIXES) for row in rows if len(row) > path)
        ):
            raise DataError(
                f"{self.path}: a table must have image paths in a column 'path' and classes in 'label'; numbers are "
                "to be saved as named arrays with numpy.savez"
            )
        return [[row[path], *([row[label]] if 0 <= label < len(row) and row[label] else [])] for row in rows]

    def _numbered(self, names: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
        """Class names, and the number of each row's; whole numbers are class numbers already."""
        given = class_names(self.options.classes)
        if not given and names and all(name.isdigit() for name in names):
            return (), [int(name) for name in names]
        classes = given or tuple(sorted(set(names)))
        strange = sorted(set(names) - set(classes))
        if strange:
            raise DataError(
                f"{self.path}: class {strange[0]!r} is not among the {len(classes)} given classes"
            )
        number = {name: index for index, name in enumerate(classes)}
        return classes, [number[name] for name in names]


def class_names(given: str | os.PathLike[str] | Sequence[str] | None) -> tuple[str, ...]:
    """Names of classes in the model's order, from a list or a file with one a line. Raises `UsageError`."""
    if given is None:
        return ()
    if isinstance(given, str | os.PathLike):
        try:
            lines = Path(given).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"classes {given}: not a readable file of names: {error}") from None
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        names = tuple(given)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"classes: {'no names' if not names else 'a name stands there twice'}")
    return names


def _images(root: Path) -> list[Path]:
    """The image files below a folder, without what systems hide (`._a.jpg`, `.ipynb_checkpoints`)."""
    found = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(root).parts))


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and entry.name[0] != "." and bool(_images(entry))


def _unread(root: Path, classes: tuple[str, ...]) -> list[str]:
    """What to say of images that lie beside the class folders."""
    count = (
        sum(entry.is_file() and entry.suffix.lower() in SUFFIXES for entry in root.iterdir())
        if classes
        else 0
    )
    return (
        [f"{count} images beside the class folders of {root} have no class, and are not read"]
        if count
        else []
    )


def _in_folder(root: Path, classes: tuple[str, ...]) -> Listed:
    if not classes:
        listed = Listed(_images(root), None)
    else:
        strange = [entry.name for entry in root.iterdir() if entry.name not in classes and _is_class(entry)]
        if strange:
            raise DataError(f"{root}: class {min(strange)!r} is not among the training classes")
        each = [_images(root / name) if (root / name).is_dir() else [] for name in classes]
        files = [file for files in each for file in files]
        listed = Listed(files, [number for number, files in enumerate(each) for _ in files])
    if not listed.files:
        raise DataError(f"{root}: no images ({', '.join(SUFFIXES[:4])}, ...)")
    return listed


def _dataset(
    name: str,
    train: Listed,
    test: Listed | None,
    classes: tuple[str, ...],
    options: ImageOptions,
    model: onnx.ModelProto,
    notes: Sequence[str],
) -> Dataset:
    prepare = preparation(model, options, name)
    samples = _samples(train, prepare, model, options)
    first = answered(model).name
    if classes:
        _check_classes(name, classes, samples, model)
    if test is None:
        split = hold_out(samples, first)
    else:
        split = everything(samples, first), everything(_samples(test, prepare, model, options), first)
    taught = () if train.labels is None else (Taught(first, "label", "label"),)
    kind: Kind | None = None if train.labels is None else "label"
    return Dataset(name, *split, kind, classes, taught, False, (*notes, f"images: {prepare}"))


def _samples(
    listed: Listed, prepare: Preparation, model: onnx.ModelProto, options: ImageOptions
) -> ImageSamples:
    answers = {} if listed.labels is None else {answered(model).name: np.array(listed.labels, np.int64)}
    return image_samples(listed.files, answers, prepare, model, options.cache)


def _check_classes(
    name: str, classes: tuple[str, ...], samples: ImageSamples, model: onnx.ModelProto
) -> None:
    """As many classes as the first output has scores: what the model learned in order must be numbered so."""
    output = answered(model)
    dims = dims_of(output)
    count = dims[1] if dims is not None and len(dims) == 2 else None
    if not isinstance(count, int):
        shape = Probe(model, name).shape(samples, output.name)
        count = shape[1] if len(shape) == 2 else len(classes)
    if len(classes) != count:
        raise DataError(classes_differ(name, classes, count))
