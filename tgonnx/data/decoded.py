"""Decoded images, kept so that each is decoded once: in a temporary file without a name, gone with the process."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class Decoded:
    """Images by number, decoded at the first request and read from the file afterwards.

    The first of them are kept, as many as fit into `limit` bytes, and none where the disk is full. An image counts as
    kept when it was written completely. Several threads may ask at once.
    """

    def __init__(self, files: Sequence[Path], shape: tuple[int, int, int], limit: int) -> None:
        self._files, self._shape = files, shape
        self._bytes = int(np.prod(shape))
        self._kept = np.zeros(min(len(files), limit // max(1, self._bytes)), bool)
        self._file = tempfile.TemporaryFile(prefix="tgonnx-", buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()
        weakref.finalize(self, self._file.close)

    def get(self, index: int, decode: Callable[[Path], Pixels]) -> Pixels:
        """The pixels of one image."""
        if index < len(self._kept) and self._kept[index]:
            return self._read(index)
        pixels = decode(self._files[index])
        if index < len(self._kept):
            self._write(index, pixels)
        return pixels

    def _read(self, index: int) -> Pixels:
        with self._lock:
            self._file.seek(index * self._bytes)
            data = self._file.read(self._bytes)
        return np.frombuffer(data, np.uint8).reshape(self._shape)

    def _write(self, index: int, pixels: Pixels) -> None:
        try:
            with self._lock:
                self._file.seek(index * self._bytes)
                written = self._file.write(pixels.tobytes())
        except OSError:
            self._kept = self._kept[:0]  # the disk is full: everything is decoded anew
            return
        if written == self._bytes and index < len(self._kept):
            self._kept[index] = True
