"""Pictures as PNG, for what shows no SVG: by a library that is no dependency, resvg-py."""

from __future__ import annotations

from importlib.util import find_spec

from tgonnx.errors import UsageError

PNG, ZOOM = ".png", 2  # twice the pixels, for screens that have as many
_LIBRARY = "resvg_py"


def can_rasterise() -> bool:
    """Whether the library is installed."""
    return find_spec(_LIBRARY) is not None


def require_png(name: object) -> None:
    """Raise UsageError, naming the file that is wanted, without the library."""
    if not can_rasterise():
        raise UsageError(f"{name}: PNG needs resvg-py: pip install 'tgonnx[png]', or write .svg")


def as_png(svg: str, name: object) -> bytes:
    """An SVG file as PNG, in the colours for light surroundings. Raises UsageError without the library."""
    require_png(name)
    from resvg_py import svg_to_bytes

    return bytes(svg_to_bytes(svg_string=svg, zoom=ZOOM))
