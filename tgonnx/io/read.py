"""The one door through which a model enters: size, type, parse, external data, graph, weights.

Whatever passes is a self-contained `onnx.ModelProto` with sorted nodes, valid for the onnx checker.
Every rejection is a `ModelError` of one line that names the file, the node or initializer, and the reason.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tgonnx.errors import ModelError, UsageError
from tgonnx.graph.proto import STANDARD_DOMAINS
from tgonnx.io.checker import (
    accept,
    byte_size,
    check_declaration,
    describe,
    is_external,
    label,
    stored_tensors,
    subgraphs,
)
from tgonnx.io.limits import check_inputs, check_structure

PROTOBUF_LIMIT = 2**31 - 1
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model itself (run `git lfs pull`)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras weights?); export the model to ONNX first"),
    (4, b"TFL3", "a TensorFlow Lite model; convert it to ONNX first"),
    (4, b"ORTM", "an onnxruntime .ort file; the original .onnx file is needed"),
    (0, b"GGUF", "a GGUF file, which holds weights without a graph"),
    (0, b"\x1f\x8b", "gzip-compressed; decompress it first"),
    (0, b"\xfd7zXZ\x00", "xz-compressed; decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed; decompress it first"),
    (0, b"BZh", "bzip2-compressed; decompress it first"),
    (0, b"\x80\x02", "a Python pickle (PyTorch checkpoint?); export the model to ONNX first"),
    (0, b"\x93NUMPY", "a NumPy array, not a model"),
    (0, b"\x7fELF", "an executable, not a model"),
)


def read(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto, runs: Callable[[onnx.ModelProto], bool]
) -> onnx.ModelProto:
    """Accept a model from a path, from bytes or as a proto, with external data loaded into it.

    `runs` is the second opinion on a model whose shapes the standard's inference refuses.
    A proto that needs no change is returned as it is, without a copy; the caller's proto is never changed.

    Raises `UsageError` if the path is not there, `ModelError` for everything wrong with the model.
    """
    if isinstance(source, onnx.ModelProto | bytes):
        name, folder = "model", None
        model = _parse(source, name) if isinstance(source, bytes) else source
        check_structure(model, name)
        check_inputs(model, name)
        for tensor in stored_tensors(model):
            if is_external(tensor):
                raise ModelError(
                    f"{name}: initializer {tensor.name!r} is stored in another file; pass the path"
                )
    else:
        path = Path(source)
        name, folder = str(source), path.parent
        model = _parse(_read_file(path, name), name)
        check_structure(model, name)
        check_inputs(model, name)
    if folder is not None:
        _load_external_data(model, folder, name)
    _check_domains(model.graph, {entry.domain for entry in model.opset_import}, name)
    return accept(model, name, runs)


def _check_domains(graph: onnx.GraphProto, declared: set[str], name: str) -> None:
    """Every domain has an opset; onnxruntime assumes one for its own, the checker refuses the file in the end."""
    for node in graph.node:
        if node.domain not in STANDARD_DOMAINS and node.domain not in declared:
            raise ModelError(f"{name}: {label(node)}: opset_import does not name its domain {node.domain!r}")
        for inner in subgraphs(node):
            _check_domains(inner, declared, name)


# --- file -------------------------------------------------------------------------------------------


def _read_file(path: Path, name: str) -> bytes:
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            hint = " (a TensorFlow SavedModel; convert it to ONNX first)" if _is_saved_model(path) else ""
            raise UsageError(f"{name}: is a folder, not a model file{hint}")
        if not stat.S_ISREG(info.st_mode):
            raise UsageError(f"{name}: is not a regular file")
        if info.st_size > PROTOBUF_LIMIT:
            raise ModelError(f"{name}: larger than a protobuf file can be (2 GiB)")
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else describe(error)
        raise UsageError(f"{name}: cannot be read: {reason}") from None


def _is_saved_model(path: Path) -> bool:
    return (path / "saved_model.pb").exists()


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{name}: the file is empty")
    if (kind := _recognise(data)) is not None:
        raise ModelError(f"{name}: this is {kind}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{name}: not an ONNX model, or truncated (the protobuf cannot be parsed)") from None
    if not model.HasField("graph"):
        raise ModelError(f"{name}: not an ONNX model (there is no graph in it)")
    return model


def _recognise(data: bytes) -> str | None:
    """What the bytes are, if they are surely no ONNX model."""
    for offset, magic, kind in _MAGIC:
        if data.startswith(magic, offset):
            return kind
    if data.startswith(b"PK\x03\x04"):
        return _recognise_zip(data)
    if len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return "a safetensors file, which holds weights without a graph"
    head = data[:4096]
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "a text file, not an ONNX model"
    return None


def _recognise_zip(data: bytes) -> str:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile:
        return "a damaged zip archive, not an ONNX model"
    if any(entry.endswith("data.pkl") for entry in names):
        return "a PyTorch checkpoint; export the model to ONNX first"
    if "model.weights.h5" in names:
        return "a Keras model; convert it to ONNX first"
    if names and all(entry.endswith(".npy") for entry in names):
        return "a NumPy .npz archive, not a model"
    return "a zip archive; unpack it first"


# --- external data -----------------------------------------------------------------------------------


def _load_external_data(model: onnx.ModelProto, folder: Path, name: str) -> None:
    for tensor in stored_tensors(model):
        if not is_external(tensor):
            continue
        where = f"{name}: initializer {tensor.name!r}"
        check_declaration(tensor, where)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = _external_path(entries.get("location", ""), folder, where)
        raw = _read_external(path, entries, byte_size(tensor), where)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = raw


def _external_path(location: str, folder: Path, where: str) -> Path:
    """The external file, which must lie in the model's folder, links resolved."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    outside = posix.is_absolute() or windows.is_absolute() or windows.drive
    if not location or "\0" in location:
        raise ModelError(f"{where}: external data without a usable location")
    if outside or ".." in posix.parts or ".." in windows.parts:
        raise ModelError(f"{where}: external data {location!r} lies outside the model's folder")
    path = folder / location
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ModelError(f"{where}: external data file {location!r} is missing") from None
    if not resolved.is_relative_to(folder.resolve()):
        raise ModelError(f"{where}: external data {location!r} links to a file outside the model's folder")
    if not resolved.is_file():
        raise ModelError(f"{where}: external data {location!r} is not a file")
    return resolved


def _read_external(path: Path, entries: dict[str, str], needed: int, where: str) -> bytes:
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or needed)
    except ValueError:
        raise ModelError(f"{where}: external offset or length is not a number") from None
    if length != needed:
        raise ModelError(f"{where}: external data has {length} bytes, its shape and type need {needed}")
    if offset < 0 or offset + length > (size := path.stat().st_size):
        have = "" if offset < 0 else f" of {size}"
        raise ModelError(
            f"{where}: external bytes {offset}..{offset + length}{have} are not in {path.name!r}"
        )
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise ModelError(f"{where}: external data cannot be read: {error.strerror}") from None
