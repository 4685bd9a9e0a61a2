"""Training engines: one step (forward, loss, backward, update) is one graph in one ordinary session.

`ort-training` takes the backward graph from onnxruntime-training's GradientGraphBuilder, with our gradient
rules registered as custom gradients; `portable` writes it in standard operators for any onnxruntime.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping

from onnx import ModelProto, helper

from tgonnx.engines.autodiff import Backward
from tgonnx.engines.spec import Device, EngineName, ParameterGroup, StepSpec
from tgonnx.engines.step import StepGraph, emit_step
from tgonnx.engines.table import Engine, candidates
from tgonnx.engines.trainer import Trainer, session
from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Array
from tgonnx.ops.aspects.row import BLOCKED, DEPTHWISE, SHORTCUTS
from tgonnx.passes.block_convolutions import block_convolutions
from tgonnx.runtime.versions import block_size

__all__ = [
    "Device",
    "EngineName",
    "ParameterGroup",
    "StepSpec",
    "Trainer",
    "build",
    "choose",
    "first_step",
    "gradients",
]


def choose(engine: EngineName = "auto") -> str:
    """The name of the engine that is tried first.

    Raises UsageError for an unknown name, InstallationError if the engine cannot be used here.
    """
    return candidates(engine)[0].name


def differentiate(
    model: ModelProto,
    names: Iterable[str],
    engine: EngineName = "auto",
    device: Device = "cpu",
    shortcuts: Collection[str] = SHORTCUTS,
) -> tuple[Backward, str]:
    """A copy of the model that also computes the gradients of its first output, and the engine that made it.

    `auto` falls back to the next engine where one cannot differentiate the model. `shortcuts` are taken on a CPU only.
    """
    names, shortcuts = list(names), usable(shortcuts, device)
    *first, last = candidates(engine, device)
    for each in first:
        with contextlib.suppress(UnsupportedError):
            return _differentiated(each, model, names, shortcuts), each.name
    return _differentiated(last, model, names, shortcuts), last.name


def usable(shortcuts: Collection[str], device: Device) -> tuple[str, ...]:
    """Those of the shortcuts that the device and its onnxruntime have."""
    if device != "cpu":
        return ()
    needs_blocks = () if block_size() and BLOCKED in shortcuts else (BLOCKED, DEPTHWISE)
    return tuple(name for name in shortcuts if name not in needs_blocks)


def _differentiated(
    engine: Engine, model: ModelProto, names: list[str], shortcuts: tuple[str, ...]
) -> Backward:
    if engine.quick is None or not shortcuts:
        return engine.differentiate(model, names)
    return engine.quick(model, names, shortcuts)


def build(
    spec: StepSpec,
    engine: EngineName = "auto",
    threads: int | None = None,
    seed: int | None = None,
    device: Device = "cpu",
) -> Trainer:
    """Make the step graph and a session for it. `seed` fixes Dropout.

    Raises UnsupportedError, UsageError, and InstallationError if the engine or the device is not there.
    """
    step, chosen, _ = _step_graph(spec, engine, device)
    return Trainer(step, chosen, threads, seed, device)


def first_step(
    spec: StepSpec,
    feeds: Mapping[str, Array],
    engine: EngineName = "auto",
    threads: int | None = None,
    device: Device = "cpu",
) -> tuple[dict[str, Array], str]:
    """Build the step, run it once, and return the gradient of every parameter and the engine that was used."""
    step, chosen, names = _step_graph(spec, engine, device)
    graph = step.model.graph
    for name, value in names.items():
        if value not in step.reported:
            kind = helper.np_dtype_to_tensor_dtype(step.state[step.slots[name].state].dtype)
            graph.output.append(helper.make_tensor_value_info(value, int(kind), step.slots[name].shape))
            step.reported.append(value)
    found = Trainer(step, chosen, threads, 0, device).step(feeds)
    return {name: found[value] for name, value in names.items()}, chosen


def _step_graph(
    spec: StepSpec, engine: EngineName, device: Device
) -> tuple[StepGraph, str, Mapping[str, str]]:
    names = [name for group in spec.groups for name in group.names]
    found, chosen = differentiate(spec.model, names, engine, device, spec.shortcuts)
    model = found.model
    if BLOCKED in usable(
        spec.shortcuts, device
    ):  # now, as shape inference takes gigabytes for the optimiser's vectors
        model = block_convolutions(model, block_size())
    return emit_step(model, found.gradients, spec), chosen, found.gradients


def gradients(
    model: ModelProto,
    names: Iterable[str],
    feeds: Mapping[str, Array],
    engine: EngineName = "auto",
    shortcuts: Collection[str] = SHORTCUTS,
) -> dict[str, Array]:
    """The gradients of the model's first output, a scalar, with respect to initializers; for tests."""
    names = list(names)
    found, _ = differentiate(model, names, engine, shortcuts=shortcuts)
    graph = found.model.graph
    kinds = {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}
    del graph.output[:]
    for name in names:
        kind, shape = kinds[name]
        graph.output.append(helper.make_tensor_value_info(found.gradients[name], kind, shape))
    taken = usable(shortcuts, "cpu")
    runner = session(block_convolutions(found.model, block_size()) if BLOCKED in taken else found.model)
    values = runner.run([found.gradients[name] for name in names], dict(feeds))
    return dict(zip(names, values, strict=True))
