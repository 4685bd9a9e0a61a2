"""Image files as samples: which input they are for, and what becomes of their pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.data.axes import Axes, dims_of, find_axes
from tgonnx.data.decode import Decoder
from tgonnx.data.decoded import Decoded
from tgonnx.data.options import ImageOptions
from tgonnx.data.samples import Indices, Samples, element_type
from tgonnx.errors import DataError, InstallationError, OptionError, UsageError
from tgonnx.graph.declared import describe_type, model_inputs
from tgonnx.graph.types import Array
from tgonnx.runtime.sessions import Feeds

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preparation:
    """What becomes of pixels: (pixel * scale - mean) / std, channels first or last, in the type of the input.

    Integers are given the pixels as they are.
    """

    value: onnx.ValueInfoProto
    decoder: Decoder
    channels_last: bool
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    scale: float

    @property
    def raw(self) -> bool:
        return element_type(self.value).kind in "iu"

    def __call__(self, pixels: NDArray[np.uint8]) -> Array:
        """[N, height, width, channels] as the model takes it."""
        values: Array = pixels
        if not self.raw:
            values = (pixels.astype(np.float32) * np.float32(self.scale) - self.mean) / self.std
        if not self.channels_last:
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values, element_type(self.value))

    def __str__(self) -> str:
        height, width = self.decoder.size
        color = "grey" if self.decoder.channels == 1 else self.decoder.color
        what = f"{width} x {height}, {self.decoder.resize}, {color}"
        if self.raw:
            return f"{what}, pixels as they are"
        parts = round(1 / self.scale) if self.scale < 1 else 0
        scale = f"1/{parts}" if parts and abs(parts * self.scale - 1) < 1e-6 else f"{self.scale:g}"
        numbers = [", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std)]
        return f"{what}, (pixel * {scale} - ({numbers[0]})) / ({numbers[1]})"


@dataclass(frozen=True)
class ImageSamples:
    """Image files, decoded when they are asked for."""

    prepare: Preparation
    files: Sequence[Path]
    axes: Axes
    decoded: Decoded
    answers: Mapping[str, Array] = field(default_factory=dict)
    shape_of: Indices | None = None
    slow: bool = True

    @property
    def parts(self) -> Sequence[Samples]:
        return (self,)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: Indices) -> Feeds:
        decoder = self.prepare.decoder
        pixels = np.stack([self.decoded.get(int(index), decoder) for index in indices])
        return {self.prepare.value.name: self.prepare(pixels)}

    def answers_of(self, indices: Indices) -> dict[str, Array]:
        return {output: array[indices] for output, array in self.answers.items()}

    def check(self, name: str) -> None:
        """Nothing to add: decoding makes samples fit, and a file that cannot be decoded is named then."""


def image_samples(
    files: Sequence[Path],
    answers: Mapping[str, Array],
    prepare: Preparation,
    model: onnx.ModelProto,
    cache: int,
) -> ImageSamples:
    """Samples of image files for a model of one input."""
    decoded = Decoded(files, prepare.decoder.shape, cache)
    return ImageSamples(prepare, files, find_axes(model), decoded, answers)


def preparation(model: onnx.ModelProto, options: ImageOptions, name: str) -> Preparation:
    """How images are prepared for a model. Raises `DataError`, `UsageError`, and `InstallationError` without Pillow."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise InstallationError("images need Pillow: pip install 'tgonnx[images]'") from None
    inputs = model_inputs(model)
    if len(inputs) != 1:
        raise DataError(f"{name}: images feed one input, the model has {len(inputs)}")
    value = inputs[0]
    size, channels, last = _geometry(value, options, name)
    mean, std = _normalisation(options, channels)
    kind = element_type(value)
    if kind.kind in "iu":
        _check_raw(value, options, name)
    scale = 1 / 255 if options.scale is None else options.scale
    decoder = Decoder(size, channels, options.resize, options.color)
    return Preparation(value, decoder, last, mean, std, scale)


def _check_raw(value: onnx.ValueInfoProto, options: ImageOptions, name: str) -> None:
    """Models of integers are given pixels, and nothing is done to these."""
    if options.mean != 0 or options.std not in (None, 1) or options.scale:
        kind = element_type(value)
        raise UsageError(
            f"{name}: mean, std and scale are for models of floats; input {value.name!r} is {kind}"
        )
    if element_type(value) == np.int8:
        raise DataError(
            f"{name}: pixels of 0..255 do not fit input {value.name!r} of int8; give arrays instead"
        )


def _geometry(
    value: onnx.ValueInfoProto, options: ImageOptions, name: str
) -> tuple[tuple[int, int], int, bool]:
    """Height and width, channels, and whether these are the last axis."""
    dims = dims_of(value) or []
    if len(dims) != 4:
        raise DataError(f"{name}: images need an input of 4 axes; {value.name!r} is {describe_type(value)}")
    last = _channels_last(dims, options)
    if last is None:
        raise DataError(
            f"{name}: images need an input with 1 or 3 channels; {value.name!r} is {describe_type(value)}"
            + (
                ""
                if all(isinstance(dim, int) for dim in dims[1:])
                else "; say where they are: layout=nchw or nhwc"
            )
        )
    places, channel = ((1, 2), 3) if last else ((2, 3), 1)
    channels = dims[channel] if isinstance(dims[channel], int) else 3
    if channels not in (1, 3):
        raise DataError(f"{name}: images have 1 or 3 channels; {value.name!r} is {describe_type(value)}")
    wanted = (options.size, options.size) if isinstance(options.size, int) else options.size
    fixed = tuple(dims[place] for place in places)
    if wanted is None and not all(isinstance(dim, int) for dim in fixed):
        raise DataError(
            f"{name}: height and width of {value.name!r} are open ({describe_type(value)}); say which: --size 224"
        )
    size = tuple(
        dim if isinstance(dim, int) else own for dim, own in zip(fixed, wanted or (0, 0), strict=True)
    )
    if wanted is not None and size != wanted:
        raise UsageError(
            f"{name}: size {wanted[0]} x {wanted[1]}, but {value.name!r} is {describe_type(value)}"
        )
    return (int(size[0]), int(size[1])), int(channels), last


def _channels_last(dims: Sequence[object], options: ImageOptions) -> bool | None:
    if options.layout != "auto":
        return options.layout == "nhwc"
    if dims[1] in (1, 3):
        return False
    return True if dims[3] in (1, 3) else None


def _normalisation(options: ImageOptions, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean, std = options.mean, options.std
    imagenet = [values[::-1] if options.color == "bgr" else values for values in IMAGENET]
    if std is None:
        std = "imagenet" if mean == "imagenet" else 1.0
    found = []
    for name, values, known in (("mean", mean, imagenet[0]), ("std", std, imagenet[1])):
        numbers = np.atleast_1d(np.asarray(known if values == "imagenet" else values, np.float32))
        if numbers.shape not in ((1,), (channels,)):
            raise OptionError(name, f"needs 1 or {channels} entries, not {numbers.size}")
        found.append(numbers)
    return found[0], found[1]
