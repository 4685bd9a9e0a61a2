"""Training data: arrays, .npz files, iterables of feed dicts, folders of images."""

from tgonnx.data.sources import Data, Source, arrays, feeds, folder, npz, open_dataset

__all__ = ["Data", "Source", "arrays", "feeds", "folder", "npz", "open_dataset"]
