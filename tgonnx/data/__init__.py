"""Training data: arrays, .npz files, iterables of feed dicts, folders of images."""

from tgonnx.data.options import ArrayOptions, ImageOptions
from tgonnx.data.sources import Data, Source, arrays, feeds, folder, npz, open_dataset, read

__all__ = [
    "ArrayOptions",
    "Data",
    "ImageOptions",
    "Source",
    "arrays",
    "feeds",
    "folder",
    "npz",
    "open_dataset",
    "read",
]
