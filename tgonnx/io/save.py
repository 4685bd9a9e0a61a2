"""Writing a file: completely or not at all, and never over an input.

What is written goes into a temporary file in the same folder, is checked, flushed to disk and then renamed. A link
as destination stays a link: the file that it leads to is replaced. Devices and pipes are refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tgonnx.errors import UsageError, VerificationError
from tgonnx.graph.proto import opset_of
from tgonnx.io.checker import (
    describe,
    is_custom,
    is_external,
    is_shapeless,
    only_in_runtime,
    stored_tensors,
    without_initializers,
)
from tgonnx.io.endings import check_ending, is_ort
from tgonnx.io.interrupts import deferred

StrPath = str | os.PathLike[str]
# A protobuf file ends at 2 GiB; initializers of at least EXTERNAL_BYTES move out of larger models.
PROTOBUF_LIMIT = 2**31 - 1
EXTERNAL_BYTES = 1024
_PREFIX, _SUFFIX = ".tgonnx-", ".tmp"  # of files that are being written
LONGEST_NAME = 255  # bytes of a file name, on all common file systems


def check_destination(path: StrPath, overwrite: bool = False, protect: Iterable[StrPath] = ()) -> Path:
    """The file that writing to `path` will make (links resolved); to be called before work starts, too.

    `protect` lists the inputs of the run: none of them may be overwritten, whatever link leads to it.
    Raises `UsageError`.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"a file is written to a path, not to a {type(path).__name__}")
    try:
        there = _status(Path(path))
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise UsageError(f"{path}: the folder {str(target.parent)!r} does not exist")
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise UsageError(f"{path}: is a folder, not a file")
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise UsageError(f"{path}: is a device or a pipe, which cannot take a file")
        for source in protect:
            if _same_file(target, Path(source)):
                raise UsageError(f"{path}: is the input {str(source)!r}, which is never overwritten")
        if os.path.lexists(path) and not overwrite:
            raise UsageError(f"{path}: {_EXISTS}")
        if not os.access(target.parent, os.W_OK):
            raise UsageError(f"{path}: the folder {str(target.parent)!r} is not writable")
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    return target


_EXISTS = "exists already; pass --overwrite (overwrite=True) to replace it"


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # other errors mean that nothing can be written there: a name too long, a loop
        return None


def _same_file(target: Path, source: Path) -> bool:
    if target.exists() and source.exists():
        return target.samefile(source)
    return target.resolve() == source.resolve()


def _unwritable(path: StrPath, error: Exception) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else describe(error)
    return UsageError(f"{path}: cannot be written: {reason}")


def model_destination(path: StrPath, overwrite: bool = False, protect: Iterable[StrPath] = ()) -> Path:
    """As `check_destination`, for a model: its name may not promise another format. Raises `UsageError`."""
    if isinstance(path, str | os.PathLike):
        check_ending(path)
    return check_destination(path, overwrite, protect)


def save(
    model: onnx.ModelProto, path: StrPath, overwrite: bool = False, protect: Iterable[StrPath] = ()
) -> None:
    """Write a model to `path`.

    Models beyond the protobuf limit keep their large initializers in `<file name>.<hash>.data` beside the file; the
    data that a replaced model had is removed at the end. Whenever this is stopped, `path` is the old model or the
    new one, with its data. Raises `UsageError`, and `VerificationError` for an invalid model.
    """
    if is_ort(path):
        raise UsageError(f"{path}: is no ONNX file by its name; tgonnx.save converts to .ort")
    protect = tuple(protect)
    target = model_destination(path, overwrite, protect)
    old = _data_files(target)
    if model.ByteSize() > PROTOBUF_LIMIT:
        new = _save_large(model, target, overwrite)
    else:
        _write(target, model.SerializeToString(), overwrite, check=_checkable(model))
        new = None
    needed = {new, *(file for source in protect if old for file in _data_files(Path(source)))}
    for file in old - needed:
        with suppress(OSError):  # the new model is complete; what is left over does no harm
            file.unlink()


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
    _write(check_destination(path, overwrite, protect), text.encode(), overwrite, check=False)


def save_anyway(write: Callable[[Path], None], path: StrPath) -> tuple[Path, str]:
    """Call `write` with `path`; if that fails, with other names beside it, in the current or the temporary folder.

    For results that took long. Returns where they are, and what was wrong with `path` (empty: nothing). Raises the
    first `UsageError` if nothing can be written anywhere.
    """
    wanted = Path(path)
    try:
        write(wanted)
        return wanted, ""
    except UsageError as error:
        failure = error
    for folder in (wanted.parent, Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(UsageError, OSError):
            other = _free_name(folder, wanted)
            write(other)
            return other, f"{failure}; it is in {other} instead"
    raise failure


def _free_name(folder: Path, wanted: Path) -> Path:
    """A name like the wanted one that is not taken; short, in case that was the trouble."""
    stem = wanted.stem[:40]
    number = 1
    while os.path.lexists(path := folder / f"{stem}-{number}{wanted.suffix[:10]}"):
        number += 1
    return path


def save_bytes(data: bytes, path: StrPath, overwrite: bool = False) -> None:
    """Write any file (a checkpoint) as safely as a model. Raises `UsageError`."""
    _write(check_destination(path, overwrite), data, overwrite, check=False)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; nobody else may be writing there."""
    for file in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):
            file.unlink()


# --- one file ---------------------------------------------------------------------------------------


def _write(target: Path, data: bytes, overwrite: bool, check: bool) -> None:
    with _temporary(target) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
            _flush(file)
        if check:
            try:
                onnx.checker.check_model(str(temporary))
            except onnx.checker.ValidationError as error:
                reason = describe(error)
                raise VerificationError(f"{target}: not written, the model is not valid: {reason}") from None
        _place(temporary, target, overwrite)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """An empty file beside `target`, with the permissions a new file gets there; gone in the end."""
    name = None
    try:
        with deferred():
            handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=target.parent)
        os.close(handle)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        yield Path(name)
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _place(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give the file its name, in one step, and make that last."""
    if overwrite:
        os.replace(temporary, target)
    else:
        try:
            os.link(temporary, target)  # which, unlike a renaming, fails if the name has been taken meanwhile
        except FileExistsError:
            raise UsageError(f"{target}: {_EXISTS}") from None
        except OSError:  # a file system without links
            if os.path.lexists(target):
                raise UsageError(f"{target}: {_EXISTS}") from None
            os.replace(temporary, target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Where folders cannot be synced, the system does it in its own time."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- two files --------------------------------------------------------------------------------------


def _save_large(model: onnx.ModelProto, target: Path, overwrite: bool) -> Path:
    """Write the data, then the graph that names it. Returns the data file.

    The data file is named by its content, so that a graph can only meet the data that it was written with.
    """
    slim = without_initializers(model)
    with _temporary(target) as temporary:
        with temporary.open("wb") as file:
            digest = _move_weights(model, slim, file)
            _flush(file)
        data = target.with_name(_data_name(target.name, digest))
        for tensor in filter(is_external, slim.graph.initializer):
            tensor.external_data.add(key="location", value=data.name)
        was_there = data.exists()  # then the old graph may use it
        os.replace(temporary, data)
    try:
        _sync_folder(target.parent)
        _write(target, slim.SerializeToString(), overwrite, check=_checkable(slim))
    except BaseException:
        if not was_there:
            data.unlink(missing_ok=True)
        raise
    return data


def _data_name(name: str, digest: str) -> str:
    suffix = f".{digest}.data"
    stem = os.fsencode(name)[: LONGEST_NAME - len(suffix)]
    return stem.decode(errors="ignore") + suffix


def _data_files(path: Path) -> set[Path]:
    """The data files of a model that was written in two files."""
    try:
        if not any(name.endswith(".data") for name in os.listdir(path.parent)):
            return set()  # the usual case, found without reading the model
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError):  # there is no model yet, or it is something else
        return set()
    locations = {
        entry.value
        for tensor in filter(is_external, stored_tensors(model))
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {
        path.parent / name for name in locations if name.endswith(".data") and name == os.path.basename(name)
    }


def _move_weights(model: onnx.ModelProto, slim: onnx.ModelProto, file: IO[bytes]) -> str:
    """Give `slim` the initializers of `model`, the large ones written to the file one by one.

    Returns a hash of what was written.
    """
    digest, offset = hashlib.sha256(), 0
    for tensor in model.graph.initializer:
        moved = slim.graph.initializer.add()
        if tensor.data_type == onnx.TensorProto.STRING or tensor.ByteSize() < EXTERNAL_BYTES:
            moved.CopyFrom(tensor)
            continue
        raw = tensor.raw_data if tensor.HasField("raw_data") else _raw(tensor)
        moved.name, moved.data_type = tensor.name, tensor.data_type
        moved.dims.extend(tensor.dims)
        moved.data_location = onnx.TensorProto.EXTERNAL
        for key, entry in (("offset", str(offset)), ("length", str(len(raw)))):
            moved.external_data.add(key=key, value=entry)
        file.write(raw)
        digest.update(raw)
        offset += len(raw)
    return digest.hexdigest()[:16]


def _raw(tensor: onnx.TensorProto) -> bytes:
    array = onnx.numpy_helper.to_array(tensor)
    raw: bytes = onnx.numpy_helper.from_array(array).raw_data
    return raw
