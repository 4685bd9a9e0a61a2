"""Training data: arrays, .npz files, iterables of feed dicts, folders of images.

Public names are imported when they are first asked for: the command line wants the options alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tgonnx.data.options import ArrayOptions, DataOptions, ImageOptions
    from tgonnx.data.previewing import Preview, preview
    from tgonnx.data.sources import Data, Source, arrays, feeds, folder, npz, open_dataset, read

__all__ = [
    "ArrayOptions",
    "Data",
    "DataOptions",
    "ImageOptions",
    "Preview",
    "Source",
    "arrays",
    "feeds",
    "folder",
    "npz",
    "open_dataset",
    "preview",
    "read",
]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'tgonnx.data' has no attribute {name!r}")
    home = "options" if name.endswith("Options") else "sources"
    home = "previewing" if name.lower() == "preview" else home
    value = getattr(import_module(f"tgonnx.data.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
