"""Which input of a model takes images, and images as people see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgonnx.data.images import ImageSamples, Preparation
from tgonnx.data.samples import Samples
from tgonnx.graph.types import Array
from tgonnx.runtime.sessions import Feeds

CHANNELS = (1, 3, 4)  # grey, colours, and these with a mask
_ROUNDING = 1e-3


@dataclass(frozen=True)
class ImageInput:
    """An input of [N, channels, height, width], or with the channels last. `prepare`: how files are made that."""

    name: str
    channels_last: bool
    prepare: Preparation | None = None

    def pixels(self, images: Array) -> tuple[NDArray[np.uint8], str]:
        """A batch as uint8 [N, height, width, 1 or 3], and what was done to the values for that.

        Images must have 1, 3 or 4 channels.
        """
        values = images if self.channels_last else np.moveaxis(images, 1, -1)
        if self.prepare is not None:
            values, how = self._undone(values.astype(np.float32), self.prepare)
        else:
            values, how = _to_bytes(values)
        values = values[..., :3] if values.shape[-1] == 4 else values
        return np.clip(np.round(values), 0, 255).astype(np.uint8), how

    @staticmethod
    def _undone(values: NDArray[np.float32], prepare: Preparation) -> tuple[NDArray[np.float32], str]:
        if not prepare.raw:
            values = (values * prepare.std + prepare.mean) / np.float32(prepare.scale)
        return values[..., ::-1] if prepare.decoder.color == "bgr" else values, "the preparation is undone"


def image_input(samples: Samples, feeds: Feeds) -> ImageInput | None:
    """The only input that takes images: samples of 4 axes. None if there is no such input, or several.

    Where nobody says where the channels are, they are last if that axis has 1, 3 or 4 and the other has not.
    """
    if isinstance(samples, ImageSamples):
        prepare = samples.prepare
        return ImageInput(prepare.value.name, prepare.channels_last, prepare)
    axes = samples.axes.inputs
    found = [name for name, value in feeds.items() if np.ndim(value) == 4 and axes.get(name, 0) == 0]
    if len(found) != 1:
        return None
    _, first, _, last = feeds[found[0]].shape
    return ImageInput(found[0], first not in CHANNELS and last in CHANNELS)


def _to_bytes(values: NDArray[Any]) -> tuple[NDArray[np.float64], str]:
    """Numbers of any range as 0..255."""
    numbers = values.astype(np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return numbers * 255, "0..1 is shown as black to white"
    if low >= 0 and high <= 255:
        return numbers, "0..255 is shown as black to white"
    return (numbers - low) * (255 / (high - low)), f"{low:.3g}..{high:.3g} is shown as black to white"
