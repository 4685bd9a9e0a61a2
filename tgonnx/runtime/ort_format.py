"""Writing a model: as ONNX or, where the name ends in .ort, in onnxruntime's own format.

onnxruntime converts, in the child process, and runs both files there: the converted one must compute what the ONNX
model computes. What onnxruntime would do for the CPU of this machine alone (blocks of channels) is left out, so that
the file is for any CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from tgonnx.errors import ModelError, UnsupportedError, VerificationError
from tgonnx.graph.proto import opset_of
from tgonnx.io.checker import with_open_sizes
from tgonnx.io.endings import is_ort
from tgonnx.io.interrupts import temporary_folder
from tgonnx.io.save import StrPath, model_destination, save, save_bytes
from tgonnx.runtime.child import Crash, Stage, ask
from tgonnx.runtime.equivalence import runnable_feeds
from tgonnx.runtime.measure import measure
from tgonnx.runtime.options import RTOL
from tgonnx.runtime.sessions import Purpose, Session, native_session, refusal, session_of
from tgonnx.runtime.shelf import filled

PORTABLE = Purpose(disabled=("NchwcTransformer",))  # blocks of channels are for the CPU that converts
BATCHES = (1, 3)


def save_model(
    model: onnx.ModelProto, path: StrPath, overwrite: bool = False, protect: Iterable[StrPath] = ()
) -> None:
    """Write a model to `path`, completely or not at all; converted and verified if that ends in .ort.

    Raises what `save` does; UnsupportedError if onnxruntime does not convert the model, VerificationError if what it
    makes of it computes something else.
    """
    if not is_ort(path):
        save(model, path, overwrite, protect)
        return
    model_destination(path, overwrite, protect)
    save_bytes(as_ort(model, str(path)), path, overwrite)


def as_ort(model: onnx.ModelProto, name: str = "model") -> bytes:
    """The model in onnxruntime's format, verified. Raises UnsupportedError, VerificationError naming `name`."""
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise UnsupportedError(f"{name}: not written: a model above 2 GB is no .ort file; write .onnx")
    with temporary_folder() as folder:
        try:
            reason = ask(_convert, model, folder)
            if reason:
                raise VerificationError(
                    f"{name}: not written, the .ort file differs from the model: {reason}"
                )
            return (folder / "model.ort").read_bytes()
        except Crash as crash:
            why = str(crash)
        except UnsupportedError as error:
            why = str(error)
    raise UnsupportedError(f"{name}: not written: onnxruntime does not convert the model: {why}; write .onnx")


def _convert(stage: Stage, sent: onnx.ModelProto, folder: Path) -> str:
    """In the child: write model.ort to the folder. Returns in what it differs from the model, if it does."""
    model = with_open_sizes(filled(sent))
    stage("converting")
    if why := refusal(model):
        raise UnsupportedError(f"{why} (opset {opset_of(model)}, IR version {model.ir_version})")
    place = folder / "model.ort"
    try:
        native_session(model, 1, PORTABLE, written=place)
    except Exception as error:  # onnxruntime has its own exceptions, and RuntimeError
        raise UnsupportedError(str(error).splitlines()[0]) from None
    stage("running what was converted")
    ours = session_of(native_session(model, 1, PORTABLE))
    theirs = session_of(native_session(model, 1, data=place.read_bytes()))
    return next(filter(None, (_difference(model, ours, theirs, batch) for batch in BATCHES)), "")


def _difference(model: onnx.ModelProto, ours: Session, theirs: Session, batch: int) -> str:
    """On random inputs. The same optimised graph runs in both, so that rounding is no excuse."""
    try:
        feeds = runnable_feeds(model, ours, batch=batch)[0]
        want, again = ours.run(feeds), ours.run(feeds)
    except ModelError:  # random inputs are not what it takes; `prune` and `apply` have verified it otherwise
        return ""
    got = theirs.run(feeds)
    for output, value in want.items():
        told = measure(value, got[output], RTOL)
        if told.reason and not measure(value, again[output], RTOL).reason:  # it is random otherwise
            return f"output {output!r}: {told.reason}"
    return ""
