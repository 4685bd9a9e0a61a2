"""Folders of images, one folder a class, decoded batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.data.samples import Dataset, Split, element_type, hold_out
from tgonnx.errors import DataError, InstallationError, UsageError
from tgonnx.graph.declared import describe_type, fixed_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MAX_PIXELS = 80_000_000  # decoded, it takes four bytes for each
_TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class ImageSamples:
    """Image files of known classes, for an input N x C x H x W, or N x H x W x C (`channels_last`)."""

    value: onnx.ValueInfoProto
    files: list[Path]
    answers: NDArray[Any]
    size: tuple[int, int]
    channels: int
    channels_last: bool
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    scale: float

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        pixels = np.stack([self._decode(self.files[index]) for index in indices])
        values = (pixels.astype(np.float32) * np.float32(self.scale) - self.mean) / self.std
        if not self.channels_last:
            values = values.transpose(0, 3, 1, 2)
        return {self.value.name: np.ascontiguousarray(values, element_type(self.value))}

    def check(self, name: str) -> None:
        """Nothing to add: decoding makes samples fit, and a file that cannot be decoded is named then."""

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image

        height, width = self.size
        try:
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        f"{path}: has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
                    )
                converted = image.convert("L" if self.channels == 1 else "RGB")
                pixels = np.asarray(converted.resize((width, height), Image.Resampling.BILINEAR), np.uint8)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise DataError(f"{path}: not a readable image") from None
        return pixels.reshape(height, width, self.channels)


@dataclass(frozen=True)
class ImageFolder:
    """The source behind `tgonnx.data.sources.folder`."""

    path: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float

    def open(self, inputs: list[onnx.ValueInfoProto]) -> Dataset:
        try:
            import PIL  # noqa: F401
        except ImportError:
            raise InstallationError("images need Pillow: pip install 'tgonnx[images]'") from None
        if not self.path.is_dir():
            raise UsageError(f"{self.path}: no such folder")
        if len(inputs) != 1:
            raise DataError(f"{self.path}: a folder of images feeds one input, the model has {len(inputs)}")
        train = self.path / "train" if (self.path / "train").is_dir() else self.path
        test = next((self.path / name for name in _TEST_NAMES if (self.path / name).is_dir()), None)
        if train == self.path:
            test = None
        classes = tuple(sorted(entry.name for entry in train.iterdir() if entry.is_dir()))
        samples = self._samples(train, classes, inputs[0])
        if test is None:
            return Dataset(str(self.path), *hold_out(samples), "label", classes)
        held = self._samples(test, classes, inputs[0])
        whole, rest = (Split(each, np.arange(len(each))) for each in (samples, held))
        return Dataset(str(self.path), whole, rest, "label", classes)

    def _samples(self, root: Path, classes: tuple[str, ...], value: onnx.ValueInfoProto) -> ImageSamples:
        strange = [entry.name for entry in root.iterdir() if entry.is_dir() and entry.name not in classes]
        if strange:
            raise DataError(f"{root}: class {min(strange)!r} is not among the training classes")
        files, labels = [], []
        for number, name in enumerate(classes):
            found = (
                sorted(
                    path
                    for path in (root / name).rglob("*")
                    if path.suffix.lower() in SUFFIXES and path.is_file()
                )
                if (root / name).is_dir()
                else []
            )
            files += found
            labels += [number] * len(found)
        if not files:
            raise DataError(f"{root}: no images in class folders ({', '.join(SUFFIXES[:4])}, ...)")
        size, channels, last = self._geometry(value)
        mean, std = (self._per_channel(values, channels) for values in (self.mean, self.std))
        if (std == 0).any():
            raise UsageError("std must not be 0")
        return ImageSamples(
            value, files, np.array(labels, np.int64), size, channels, last, mean, std, self.scale
        )

    def _geometry(self, value: onnx.ValueInfoProto) -> tuple[tuple[int, int], int, bool]:
        """Height and width, channels, and whether these are the last axis."""
        dims = [fixed_size(dim) or 0 for dim in value.type.tensor_type.shape.dim]
        if len(dims) == 4 and all(dims[1:]):
            if dims[1] in (1, 3):
                return (dims[2], dims[3]), dims[1], False
            if dims[3] in (1, 3):
                return (dims[1], dims[2]), dims[3], True
        raise DataError(
            f"{self.path}: images need an input of fixed size with 1 or 3 channels; "
            f"{value.name!r} is {describe_type(value)}"
        )

    def _per_channel(self, values: tuple[float, ...], channels: int) -> NDArray[np.float32]:
        if len(values) not in (1, channels):
            raise UsageError(f"mean and std need 1 or {channels} entries, not {len(values)}")
        return np.array(values, np.float32)
