"""A small SVG: lengths across are per cent of what there is, lengths down are pixels, so that text keeps its size.

A picture shows itself in notebooks, is put into pages, and is written as a file. Colours are classes that a style sheet
gives, one for light and one for dark surroundings.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tgonnx.drawing.png import PNG, as_png, require_png
from tgonnx.drawing.style import DRAWING
from tgonnx.drawing.text import safe
from tgonnx.errors import UsageError
from tgonnx.io.save import check_destination, save_bytes, save_text

MARGIN = 16  # pixels around a picture in a file of its own
SVG = ".svg"


@dataclass(frozen=True)
class Drawing:
    """`body` are SVG elements; `width` and `height` are pixels. A `fluid` one takes the width that it is given.

    What is not fluid has lengths in pixels alone, and is scrolled where it does not fit.
    """

    title: str
    body: str
    height: float
    width: float = 860
    fluid: bool = True

    def inline(self) -> str:
        """For a page that has the style sheet."""
        size = f'width="100%" height="{self.height:g}"' if self.fluid else self._size(self.width, self.height)
        return f'<svg class="tgx" role="img" aria-label="{safe(self.title)}" {size}>{self.body}</svg>'

    def standalone(self) -> str:
        """The whole file, with style sheet and background."""
        outside = self._size(self.width + 2 * MARGIN, self.height + 2 * MARGIN)
        inside = f'x="{MARGIN}" y="{MARGIN}" width="{self.width:g}" height="{self.height:g}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="tgx" role="img" {outside}>'
            f"<title>{safe(self.title)}</title><style>{DRAWING}</style>"
            f'<rect class="paper" width="100%" height="100%"/><svg {inside}>{self.body}</svg></svg>\n'
        )

    def _size(self, width: float, height: float) -> str:
        return f'width="{width:g}" height="{height:g}"'

    def _repr_svg_(self) -> str:
        return self.standalone()

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the picture, completely or not at all, as .svg or .png. Raises UsageError."""
        place = drawing_destination(path, overwrite)
        if Path(path).suffix.lower() == PNG:
            save_bytes(as_png(self.standalone(), path), place, overwrite)
        else:
            save_text(self.standalone(), place, overwrite)


def drawing_destination(
    path: str | os.PathLike[str], overwrite: bool = False, protect: tuple[Path, ...] = ()
) -> Path:
    """As `check_destination`, for a picture, whose name must end in .svg or .png. Raises UsageError."""
    place, ending = check_destination(path, overwrite, protect), Path(path).suffix.lower()
    if ending == PNG:
        require_png(path)
    elif ending != SVG:
        other = str(Path(path).with_suffix(SVG))
        raise UsageError(f"{path}: pictures are .svg or .png; write {other!r}, which any browser opens")
    return place


# --- elements -------------------------------------------------------------------------------------------


def rect(x: float, y: float, width: float, height: float, style: str, tip: str = "") -> str:
    """A bar: `x` and `width` in per cent, `y` and `height` in pixels."""
    where = f'x="{x:.2f}%" y="{y:g}" width="{max(width, 0):.2f}%" height="{height:g}" rx="2"'
    return f'<rect class="{style}" {where}>{_tip(tip)}</rect>'


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A line from one point to another, across in per cent and down in pixels."""
    return f'<line class="{style}" x1="{x1:.2f}%" y1="{y1:.1f}" x2="{x2:.2f}%" y2="{y2:.1f}"/>'


def dot(x: float, y: float, radius: float, style: str, tip: str = "") -> str:
    """A point, across in per cent and down in pixels."""
    return f'<circle class="{style}" cx="{x:.2f}%" cy="{y:.1f}" r="{radius:g}">{_tip(tip)}</circle>'


def text(x: str, y: float, words: str, style: str = "ink", anchor: str = "start", tip: str = "") -> str:
    """Words; `x` is written as SVG has it, as 4% or 120."""
    return f'<text class="{style}" x="{x}" y="{y:g}" text-anchor="{anchor}">{safe(words)}{_tip(tip)}</text>'


def _tip(words: str) -> str:
    return f"<title>{safe(words)}</title>" if words else ""
