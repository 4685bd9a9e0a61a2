"""Running a model on any installed onnxruntime, and saying what really ran it.

Runtimes lag behind the standard: onnxruntime-training 1.19.2 ends at opset 21 and IR version 10. A model
beyond that runs by the first way that works: an older IR version, an older opset (newer operators being written as
their definitions), onnx's own evaluator.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from tgonnx.errors import InstallationError, ModelError, UnsupportedError
from tgonnx.graph.expand import SETTLED, write_out
from tgonnx.graph.proto import opset_of
from tgonnx.io.checker import describe, with_open_sizes, without_initializers
from tgonnx.io.interrupts import deferred, temporary_folder
from tgonnx.io.save import save
from tgonnx.options import Device
from tgonnx.runtime import remedies
from tgonnx.runtime.sequences import as_array
from tgonnx.runtime.shelf import filled, memory, own_file, shelf_of, shelf_path, shelves

Feeds = dict[str, NDArray[Any]]
PROVIDERS: Mapping[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_SILENT = 4  # what goes wrong is raised; onnxruntime's own lines are for its developers
_WHERE_THEY_LIE = "session.use_external_initializer_file_buffers_directly"
_UNPACKED = "session.disable_prepacking"
SAFE_IR = 10  # the newest that every supported runtime reads


@dataclass(frozen=True)
class Purpose:
    """What a session is for, as far as the runtime should know.

    `exact` asks for 8-bit products that do not saturate: on x64 without VNNI the fast ones depend on which channels
    are neighbours. `thrifty` saves two thirds of the memory in 1.19, and would cost memory later. `disabled` names
    optimisers.
    """

    optimised: bool = True
    exact: bool = False
    thrifty: bool = False
    disabled: tuple[str, ...] = ()


INFERENCE = Purpose()
# in 1.19 the first optimiser loses a constant operand, the second makes two nodes of one name
TRAINING = Purpose(thrifty=True, disabled=("DivMulFusion", "GatherSliceToSplitFusion"))


@dataclass(frozen=True)
class Session:
    """A model ready to run; `ran_by` says what runs it and on what form of the model."""

    outputs: tuple[str, ...]
    ran_by: str
    _call: Callable[[Mapping[str, NDArray[Any]]], Sequence[Any]]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Feeds:
        """Outputs by name. Raises `ModelError` with the runtime's message if the model cannot run."""
        try:
            values = self._call(feeds)
        except (
            Exception
        ) as error:  # the runtimes raise unrelated classes, all meaning: this model, these feeds
            raise ModelError(f"the model cannot run on these inputs: {_reason(error)}") from None
        return {name: as_array(value) for name, value in zip(self.outputs, values, strict=True)}


def open_session(
    model: onnx.ModelProto,
    threads: int = 0,
    portable: bool = False,
    exact: bool = False,
    optimised: bool = True,
    disabled: tuple[str, ...] = (),
) -> Session:
    """A CPU session with all graph optimisations, or with none; `threads` 0 leaves the number to the runtime.

    `portable` goes straight to the last resort, onnx's (slow) reference evaluator. `exact`, `disabled`: see `Purpose`.
    Raises `UnsupportedError` if nothing can run the model.
    """
    if portable:
        return _reference(model)
    first = ""
    for form, copy in _forms(model):
        for precise in (True, False) if exact else (False,):  # some releases cannot share zero points then
            try:
                return _onnxruntime(copy, form, threads, Purpose(optimised, precise, disabled=disabled))
            except InstallationError:
                raise
            except Exception as error:  # onnxruntime has its own exceptions, and RuntimeError
                first = first or _reason(error)
    try:
        return _reference(model)
    except Exception as error:
        raise UnsupportedError(f"no runtime takes the model: {first}; {_reason(error)}") from None


def runtime_accepts(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime makes a session of the model, or of a form of it that means the same."""
    for form, copy in _forms(model):
        try:
            _onnxruntime(copy, form, threads=1)
            return True
        except Exception:  # onnxruntime has its own exceptions, and RuntimeError
            continue
    return False


def refusal(model: onnx.ModelProto) -> str:
    """Why onnxruntime makes no session of the model; empty if it does."""
    try:
        native_session(model, 1, Purpose(optimised=False))
    except InstallationError:
        raise
    except Exception as error:  # onnxruntime has its own exceptions, and RuntimeError
        return _reason(error)
    return ""


def _forms(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The model itself and the copies worth trying, each with what to call it."""
    model = with_open_sizes(model)
    yield "", model
    model = filled(model)
    opset = opset_of(model)
    if model.ir_version > SAFE_IR:
        yield f", on a copy with IR version {SAFE_IR}", _with_ir(model, SAFE_IR)
    if opset > SETTLED:
        try:
            copy = write_out(model, lambda op_type: not onnx.defs.has(op_type, SETTLED, ""))
            copy = onnx.version_converter.convert_version(copy, SETTLED)
        except Exception:  # no adapter for an operator: the next form is tried
            return
        yield f", on a copy converted from opset {opset} to {SETTLED}", _with_ir(copy, SAFE_IR)


def recording_session(model: onnx.ModelProto, threads: int, recorded: Path) -> Any:
    """onnxruntime's own session of the first form that it takes, which records how long each operator takes.

    Raises `UnsupportedError` if it takes none.
    """
    first = ""
    for _, copy in _forms(model):
        try:
            return native_session(copy, threads, recorded=recorded)
        except InstallationError:
            raise
        except Exception as error:  # onnxruntime has its own exceptions, and RuntimeError
            first = first or _reason(error)
    raise UnsupportedError(f"onnxruntime does not take the model: {first}")


def _with_ir(model: onnx.ModelProto, ir_version: int) -> onnx.ModelProto:
    copy = without_initializers(model)
    copy.graph.initializer.extend(model.graph.initializer)
    copy.ir_version = min(model.ir_version, ir_version)
    return copy


def _onnxruntime(model: onnx.ModelProto, form: str, threads: int, purpose: Purpose = INFERENCE) -> Session:
    return session_of(native_session(model, threads, purpose), form)


def session_of(native: Any, form: str = "") -> Session:
    """onnxruntime's own session as one of ours; `form` says what became of the model."""
    names = tuple(output.name for output in native.get_outputs())
    ran_by = f"onnxruntime {import_onnxruntime().__version__}{form}"
    return Session(names, ran_by, lambda feeds: native.run(None, feeds))


def _reference(model: onnx.ModelProto) -> Session:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(filled(model))
    names = tuple(output.name for output in model.graph.output)

    def call(feeds: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
        return list(evaluator.run(None, dict(feeds)))

    return Session(names, f"onnx {onnx.__version__} reference evaluator", call)


def _reason(error: Exception) -> str:
    """The message without onnxruntime's prefix and source position."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", describe(error, 2000))
    return text if len(text) <= 300 else text[:297] + "..."


# --- the door ---------------------------------------------------------------------------------------


def native_session(
    model: onnx.ModelProto,
    threads: int | None = None,
    purpose: Purpose = INFERENCE,
    device: Device = "cpu",
    seed: int | None = None,
    written: Path | None = None,
    data: bytes | None = None,
    recorded: Path | None = None,
) -> Any:
    """onnxruntime's own session of this very model: the only place that makes one.

    Waiting threads sleep instead of spinning; `threads` of 0 or None leave the number to the runtime.
    What `device` has no kernel for runs on the CPU. `seed` fixes what is random, `written` is where the optimised
    model goes (ending in .ort: in that format), `data` is the model serialised, where it is already, `recorded` how
    the file begins that says how long each operator took.
    Raises `InstallationError` if onnxruntime is broken or lacks the device, and what the runtime raises.
    """
    runtime = import_onnxruntime()
    options = session_options()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", str(int(purpose.exact)))
    if not purpose.optimised:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if purpose.thrifty and runtime.__version__.startswith("1.19."):
        options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
    if written is not None:
        options.optimized_model_filepath = str(written)
    if recorded is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(recorded)
    if seed is not None:
        runtime.set_seed(seed)
    more = {"providers": providers(device), "disabled_optimizers": list(purpose.disabled) or None}
    if data is None and shelves(model):
        try:
            return _borrowing(model, options, more)
        except Exception:  # the runtime says of the whole model what is wrong with it
            options.add_session_config_entry(_UNPACKED, "0")
            options.enable_cpu_mem_arena = True
            model = filled(model)
    data = data or serialised(model)
    if data is not None:
        return runtime.InferenceSession(data, options, **more)
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        save(model, path)
        return runtime.InferenceSession(str(path), options, **more)


def _borrowing(model: onnx.ModelProto, options: Any, more: dict[str, Any]) -> Any:
    """A session that reads the weights on the shelf where they lie. Raises what the runtime raises if it cannot."""
    runtime = import_onnxruntime()
    options.add_session_config_entry(_UNPACKED, "1")  # packing copies them
    options.enable_cpu_mem_arena = False  # which grows by doubling, and keeps what it has
    lend = getattr(options, "add_external_initializers_from_files_in_memory", None)
    if lend is not None:
        lent = {name: memory(name) for name in sorted(shelves(model))}
        options.add_session_config_entry(_WHERE_THEY_LIE, "1")
        lend(list(lent), list(lent.values()), [len(shelf) for shelf in lent.values()])
        session = runtime.InferenceSession(model.SerializeToString(), options, **more)
        session.lent = lent  # must live as long
        return session
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    for tensor in graph.graph.initializer:
        if name := shelf_of(tensor):
            next(entry for entry in tensor.external_data if entry.key == "location").value = shelf_path(name)
    # optimisers of 1.19 read weights only if the graph is a file, too
    with own_file(graph.SerializeToString()) as file:
        return runtime.InferenceSession(file, options, **more)


def serialised(model: onnx.ModelProto) -> bytes | None:
    """The model as bytes; None if it is larger than a protobuf may be."""
    return model.SerializeToString() if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF else None


def session_options() -> Any:
    """Options of a session that prints nothing."""
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = _SILENT
    return options


def providers(device: Device) -> list[str]:
    """Execution providers in order of preference. Raises `InstallationError` if onnxruntime lacks the device's."""
    runtime, wanted = import_onnxruntime(), PROVIDERS[device]
    available = runtime.get_available_providers()
    if wanted not in available:
        raise InstallationError(
            f"device {device}: onnxruntime {runtime.__version__} has no {wanted} "
            f"(it has {', '.join(available)}); {remedies.CUDA}"
        )
    return list(dict.fromkeys([wanted, PROVIDERS["cpu"]]))


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises `InstallationError` if it is missing or broken."""
    if reason := broken():
        raise InstallationError(f"onnxruntime does not work ({reason}); {remedies.DOCTOR}")
    runtime = import_module("onnxruntime")
    runtime.set_default_logger_severity(_SILENT)  # errors are raised, too
    return runtime


def native_module() -> Any:
    """onnxruntime's C module. Raises `InstallationError` if it is missing or broken."""
    import_onnxruntime()
    return import_module("onnxruntime.capi._pybind_state")


def broken() -> str:
    """Why onnxruntime cannot be imported; empty if it can.

    Its telemetry is off unless the environment says otherwise: from 1.32 on it leaves a file in the temporary folder
    as soon as it is imported.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read during the import alone
    try:
        with deferred():  # a signal in the middle of an import would be taken for a broken package
            runtime: Any = import_module("onnxruntime")
            import_module("onnxruntime.capi._pybind_state")
        runtime.InferenceSession  # noqa: B018 (a half-removed package imports but is empty)
    except (ImportError, AttributeError, OSError) as error:
        return describe(error)
    return ""
