"""Reading .npz files of unknown origin: what they declare is held against what they hold before memory is taken."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from tgonnx.errors import DataError
from tgonnx.graph.types import Array
from tgonnx.io.checker import describe

# Deflate makes a thousandth of zeros. Data that shrink more than this to start with, and are this large, are no data.
MAX_RATIO, SUSPICIOUS_BYTES = 200, 2**30


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays by name. Raises `DataError` naming the file and the array."""
    try:
        with path.open("rb") as file:
            _check_kind(path, file.read(512))
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_entry(archive, entry, f"{path}: array {_array_name(entry)!r}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except MemoryError:
        raise DataError(f"{path}: its arrays do not fit into memory") from None
    except (
        tokenize.TokenError,
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise DataError(f"{path}: not a readable .npz file: {describe(error, 120)}") from None


_ARRAY = b"\x93NUMPY"
_ACCEPTED = "data are an .npz file of named arrays, a folder of images, or a .csv of image paths and labels"
_KINDS = (  # how files begin
    (_ARRAY, "a single array; save named arrays with numpy.savez"),
    (b"\x89PNG", "an image"), (b"\xff\xd8\xff", "an image"), (b"GIF8", "an image"), (b"BM", "an image"),
    (b"\x80\x02", "a Python pickle"), (b"\x80\x03", "a Python pickle"), (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"), (b"\x1f\x8b", "a gzip archive"), (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet file"), (b"%PDF", "a PDF"), (b"{", "a JSON file"), (b"[", "a JSON file"),
)  # fmt: skip


def _check_kind(path: Path, start: bytes) -> None:
    """Raise `DataError` that says what a file is that is plainly no .npz file."""
    if start.startswith(b"PK") or not start:
        return
    for begins, what in _KINDS:
        if start.startswith(begins):
            raise DataError(f"{path}: {what}; {_ACCEPTED}")
    if _is_text(start):
        raise DataError(f"{path}: not a readable .npz file but text; {_ACCEPTED}")


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # the last character may be cut
            return False
        text = start[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n" for character in text)


def _array_name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> None:
    """The header's shape and type need as many bytes as are there, and these are not blown up from nothing."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where}: it is compressed in a way that numpy does not use")
    with archive.open(entry) as file:
        dtype, shape = _header(file, where)
        held = entry.file_size - file.tell()
    if dtype.hasobject:
        raise DataError(f"{where}: it holds no plain arrays, but Python objects")
    needed = math.prod(shape) * dtype.itemsize
    if needed != held:
        raise DataError(f"{where}: shape {shape} and type {dtype} need {needed} bytes, there are {held}")
    if needed > SUSPICIOUS_BYTES and needed > MAX_RATIO * max(entry.compress_size, 1):
        raise DataError(
            f"{where}: {entry.compress_size} bytes say they are {needed}; if that is so, save it with "
            "numpy.savez, uncompressed"
        )


def _header(file: IO[bytes], where: str) -> tuple[np.dtype, tuple[int, ...]]:
    if file.read(len(_ARRAY)) != _ARRAY:
        raise DataError(f"{where}: it is no array")
    version = tuple(file.read(2))
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise DataError(f"{where}: format {version} of arrays is not known")
    shape, _, dtype = read[version](file)
    return dtype, shape
