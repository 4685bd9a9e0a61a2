"""One image file as pixels of a given size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tgonnx.data.options import Color, Resize
from tgonnx.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MAX_PIXELS = 80_000_000  # decoded, it takes four bytes for each
GREY = 114  # around a letterboxed image, as detectors are trained with
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Decoder:
    """Reads images as uint8 [height, width, channels]; raises `DataError` naming the file."""

    size: tuple[int, int]  # height, width
    channels: int
    resize: Resize
    color: Color

    @property
    def shape(self) -> tuple[int, int, int]:
        return *self.size, self.channels

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image

        try:
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        f"{path}: has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
                    )
                pixels = np.asarray(self._fitted(self._opened(image)), np.uint8)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise DataError(f"{path}: has more than {MAX_PIXELS:,} pixels") from None
        except (OSError, ValueError, SyntaxError):
            raise DataError(f"{path}: not a readable image") from None
        pixels = pixels.reshape(self.shape)
        return pixels[..., ::-1] if self.color == "bgr" else pixels

    def _opened(self, image: Image.Image) -> Image.Image:
        """Upright, in the channels of the model. A JPEG is decoded at no more than four times the pixels needed."""
        from PIL import ImageOps

        mode = "L" if self.channels == 1 else "RGB"
        side = 2 * max(self.size)  # twice: a photograph may be turned, and is still to be made smaller
        shorter = min(image.size)
        scale = max(1.0, max(image.size) / max(shorter, 1)) if self.resize == "crop" else 1.0
        image.draft(mode, (int(side * scale), int(side * scale)))
        turned = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
        return (turned or image).convert(mode)

    def _fitted(self, image: Image.Image) -> Image.Image:
        from PIL import Image, ImageOps

        height, width = self.size
        if self.resize == "crop":
            return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        if self.resize == "letterbox":
            filling: Any = GREY if self.channels == 1 else (GREY,) * 3
            return ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR, filling)
        return image.resize((width, height), Image.Resampling.BILINEAR)
