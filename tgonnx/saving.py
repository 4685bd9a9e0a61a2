"""Writing a model: completely or not at all, and never over an input."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx

from tgonnx.definitions import opset_of
from tgonnx.errors import UsageError, VerificationError
from tgonnx.wellformed import describe, is_custom, is_shapeless, only_in_runtime, without_initializers

StrPath = str | os.PathLike[str]
# A protobuf file ends at 2 GiB; initializers of at least EXTERNAL_BYTES move out of larger models.
PROTOBUF_LIMIT = 2**31 - 1
EXTERNAL_BYTES = 1024


def check_destination(path: StrPath, overwrite: bool = False, protect: Iterable[StrPath] = ()) -> Path:
    """The path as `Path`, if a file may be written there; to be called before work starts.

    `protect` lists the inputs of the run: none of them may be overwritten, whatever link leads to it.
    Raises `UsageError`.
    """
    target = Path(path)
    try:
        if not target.parent.is_dir():
            raise UsageError(f"{path}: the folder {str(target.parent)!r} does not exist")
        if target.is_dir():
            raise UsageError(f"{path}: is a folder, not a file")
        for source in protect:
            if _same_file(target, Path(source)):
                raise UsageError(f"{path}: is the input {str(source)!r}, which is never overwritten")
        if os.path.lexists(target) and not overwrite:
            raise UsageError(f"{path}: exists already; pass --overwrite (overwrite=True) to replace it")
        if not os.access(target.parent, os.W_OK):
            raise UsageError(f"{path}: the folder {str(target.parent)!r} is not writable")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be written: {describe(error)}") from None
    return target


def _same_file(target: Path, source: Path) -> bool:
    if target.exists() and source.exists():
        return target.samefile(source)
    return target.resolve() == source.resolve()


def save(
    model: onnx.ModelProto, path: StrPath, overwrite: bool = False, protect: Iterable[StrPath] = ()
) -> None:
    """Write a model to `path`: into a temporary file beside it, checked, flushed to disk, then renamed.

    Models beyond the protobuf limit keep their large initializers in `<file name>.data` beside the file.
    On failure nothing is left behind. Raises `UsageError`, and `VerificationError` for an invalid model.
    """
    target = check_destination(path, overwrite, protect)
    if model.ByteSize() > PROTOBUF_LIMIT:
        _save_large(model, target, overwrite, protect)
        return
    _write(target, model.SerializeToString(), check=_checkable(model))


def _checkable(model: onnx.ModelProto) -> bool:
    """Does onnx's checker know all that is valid in this model, and that onnxruntime takes?"""
    declared = (*model.graph.input, *model.graph.output)
    if not model.graph.name or any(is_shapeless(value) for value in declared):
        return False
    return not any(
        node.domain == "ai.onnx"
        or only_in_runtime(node, opset_of(model))
        or (not node.domain and is_custom(node))
        for node in model.graph.node
    )


def save_text(text: str, path: StrPath, overwrite: bool = False, protect: Iterable[StrPath] = ()) -> None:
    """Write a text file (a mask, a report) as safely as a model. Raises `UsageError`."""
    _write(check_destination(path, overwrite, protect), text.encode(), check=False)


def _write(target: Path, data: bytes, check: bool) -> None:
    temporary = _temporary(target)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if check:
            onnx.checker.check_model(str(temporary))
        os.replace(temporary, target)
    except onnx.checker.ValidationError as error:
        raise VerificationError(f"{target}: not written, the model is not valid: {describe(error)}") from None
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror or describe(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(target: Path) -> Path:
    """An empty file in the folder of `target`, with the permissions a new file gets there."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror or describe(error)}") from None
    return Path(name)


def _save_large(model: onnx.ModelProto, target: Path, overwrite: bool, protect: Iterable[StrPath]) -> None:
    """Two files: the data first, so that the model never names data that is not there."""
    data = check_destination(target.with_name(f"{target.name}.data"), overwrite, protect)
    slim = without_initializers(model)
    temporary = _temporary(data)
    try:
        with temporary.open("wb") as file:
            _move_weights(model, slim, data.name, file.fileno())
            os.fsync(file.fileno())
        os.replace(temporary, data)
        try:
            _write(target, slim.SerializeToString(), check=True)
        except BaseException:
            data.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{data}: cannot be written: {error.strerror or describe(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _move_weights(model: onnx.ModelProto, slim: onnx.ModelProto, location: str, handle: int) -> None:
    """Give `slim` the initializers of `model`, the large ones written to the file one by one."""
    offset = 0
    for tensor in model.graph.initializer:
        moved = slim.graph.initializer.add()
        if tensor.data_type == onnx.TensorProto.STRING or tensor.ByteSize() < EXTERNAL_BYTES:
            moved.CopyFrom(tensor)
            continue
        raw = tensor.raw_data if tensor.HasField("raw_data") else _raw(tensor)
        moved.name, moved.data_type = tensor.name, tensor.data_type
        moved.dims.extend(tensor.dims)
        moved.data_location = onnx.TensorProto.EXTERNAL
        for key, entry in (("location", location), ("offset", str(offset)), ("length", str(len(raw)))):
            moved.external_data.add(key=key, value=entry)
        _write_all(handle, raw)
        offset += len(raw)


def _write_all(handle: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[os.write(handle, view) :]


def _raw(tensor: onnx.TensorProto) -> bytes:
    array = onnx.numpy_helper.to_array(tensor)
    raw: bytes = onnx.numpy_helper.from_array(array).raw_data
    return raw
