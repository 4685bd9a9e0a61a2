"""Images side by side, each with a caption below."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tgonnx.errors import InstallationError
from tgonnx.io.visible import visible

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SMALL, LARGE = 96, 320  # the longer side of a tile: smaller images are magnified, larger ones reduced
LINE, MARGIN = 14, 4  # pixels of a caption, and between tiles


def drawn(pixels: NDArray[np.uint8], captions: Sequence[str]) -> bytes:
    """A .png of images [N, height, width, 1 or 3]. Raises InstallationError without Pillow."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise InstallationError("a picture needs Pillow: pip install 'tgonnx[images]'") from None
    width, height = _tile(pixels.shape[2], pixels.shape[1])
    cell = max(width, SMALL) + MARGIN, height + LINE + MARGIN
    columns = min(len(pixels), math.ceil(math.sqrt(len(pixels) * cell[1] / cell[0])))
    rows = math.ceil(len(pixels) / columns)
    sheet = Image.new("RGB", (columns * cell[0] + MARGIN, rows * cell[1] + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    magnified = width > pixels.shape[2]
    resampling = Image.Resampling.NEAREST if magnified else Image.Resampling.BILINEAR
    for number, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        left, top = MARGIN + number % columns * cell[0], MARGIN + number // columns * cell[1]
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
        sheet.paste(picture.resize((width, height), resampling), (left, top))
        draw.text((left, top + height + 1), _fitting(caption, draw, cell[0] - MARGIN), fill="black")
    stream = io.BytesIO()
    sheet.save(stream, "png")
    return stream.getvalue()


def _tile(width: int, height: int) -> tuple[int, int]:
    """Width and height of an image on the sheet; small ones are magnified by whole numbers, so that pixels show."""
    longer = max(width, height)
    factor = max(1, SMALL // longer) if longer <= LARGE else LARGE / longer
    return max(1, round(width * factor)), max(1, round(height * factor))


def _fitting(caption: str, draw: ImageDraw, width: int) -> str:
    """The caption, cut to what its tile has room for; the font that is always there has no letters beyond Latin 1."""
    text = visible(caption).encode("latin-1", "replace").decode("latin-1")
    while text and draw.textlength(text) > width:
        text = text[:-1]
    return text
