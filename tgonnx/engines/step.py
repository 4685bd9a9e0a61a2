"""The whole training step as one graph: forward, loss, backward, optimiser update.

The parameters of a group live in one flat vector (as do its moments), split at the start of the graph: the
update is then a dozen operators for the whole group instead of a dozen per parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tgonnx.engines.spec import ParameterGroup, StepSpec
from tgonnx.errors import UsageError
from tgonnx.graph.builder import Array, Emitter, Value


@dataclass(frozen=True)
class Slot:
    """Where a parameter lies in the state."""

    state: str
    start: int
    shape: tuple[int, ...]


@dataclass
class StepGraph:
    """The step graph, its initial state, and how to read the parameters out of the state.

    `carried` maps each state input to the output that holds its next value.
    """

    model: ModelProto
    state: dict[str, Array] = field(default_factory=dict)
    carried: dict[str, str] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    reported: list[str] = field(default_factory=list)


def emit_step(model: ModelProto, gradients: Mapping[str, str], spec: StepSpec) -> StepGraph:
    """Turn a model that already computes `gradients` (initializer name -> value) into a step graph.

    Raises UsageError for a parameter that is not an initializer or stands in two groups.
    """
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    step = StepGraph(model, reported=[o.name for o in spec.model.graph.output])
    before, after = Emitter("step/in/"), Emitter("step/out/")
    for index, group in enumerate(spec.groups):
        _require_input(model, group.lr)
        for name in group.names:
            if name not in stored:
                raise UsageError(f"parameter {name!r} is not an initializer of the training graph")
            if name in step.slots:
                raise UsageError(f"parameter {name!r} stands in two groups")
        for dtype in sorted({stored[name].dtype.name for name in group.names}):
            members = {n: stored[n] for n in group.names if stored[n].dtype.name == dtype}
            _emit_group(step, f"state/{index}/{dtype}", group, members, gradients, before, after)
    for name, value in spec.statistics.items():
        if name not in stored:
            raise UsageError(f"statistic {name!r} is not an initializer of the training graph")
        step.slots[name] = Slot(name, 0, stored[name].shape)
        step.state[name] = np.array(stored[name])
        step.carried[name] = after.op("Identity", after.value(value)).name
    _assemble(step, before.nodes, after.nodes)
    return step


def _emit_group(
    step: StepGraph,
    prefix: str,
    group: ParameterGroup,
    members: Mapping[str, Array],
    gradients: Mapping[str, str],
    before: Emitter,
    after: Emitter,
) -> None:
    flat = np.concatenate([array.reshape(-1) for array in members.values()])
    elem_type = int(helper.np_dtype_to_tensor_dtype(flat.dtype))
    old = _state(step, f"{prefix}/parameters", flat, after)
    sizes = [array.size for array in members.values()]
    parts = before.ops(
        "Split", before.value(old.name, elem_type), before.ints(sizes), count=len(sizes), axis=0
    )
    start = 0
    for part, (name, array) in zip(parts, members.items(), strict=True):
        step.slots[name] = Slot(old.name, start, array.shape)
        start += array.size
        part.reshape(array.shape)
        before.nodes[-1].output[0] = name
    pieces = [after.value(gradients[name], elem_type).reshape([-1]) for name in members]
    grad = after.concat(pieces, 0)
    rate = after.value(group.lr)
    if elem_type != TensorProto.FLOAT:
        rate = rate.cast(elem_type)
    new = (_adamw if group.optimizer == "adamw" else _sgd)(step, prefix, group, old, grad, rate, after)
    step.carried[old.name] = new.name


def _state(step: StepGraph, name: str, initial: Array, emitter: Emitter) -> Value:
    step.state[name] = initial
    return emitter.value(name, int(helper.np_dtype_to_tensor_dtype(initial.dtype)))


def _adamw(
    step: StepGraph, prefix: str, group: ParameterGroup, w: Value, grad: Value, rate: Value, after: Emitter
) -> Value:
    zeros = np.zeros_like(step.state[w.name])
    m = _state(step, f"{prefix}/first", zeros, after)
    v = _state(step, f"{prefix}/second", zeros.copy(), after)
    count = _state(step, f"{prefix}/count", np.zeros((), zeros.dtype), after)
    b1, b2 = group.betas
    t = count + 1.0
    m_new = m * b1 + grad * (1.0 - b1)
    v_new = v * b2 + grad * grad * (1.0 - b2)
    correct1 = 1.0 - after.op("Exp", t * math.log(b1)) if b1 > 0 else after.scalar(1.0, w.elem_type)
    correct2 = 1.0 - after.op("Exp", t * math.log(b2))
    root = after.op("Sqrt", v_new) / after.op("Sqrt", correct2) + group.eps
    new = w - m_new * (rate / correct1) / root
    if group.weight_decay:
        new = new - w * (rate * group.weight_decay)
    step.carried.update({m.name: m_new.name, v.name: v_new.name, count.name: t.name})
    return new


def _sgd(
    step: StepGraph, prefix: str, group: ParameterGroup, w: Value, grad: Value, rate: Value, after: Emitter
) -> Value:
    if group.weight_decay:
        grad = grad + w * group.weight_decay
    if group.momentum:
        velocity = _state(step, f"{prefix}/velocity", np.zeros_like(step.state[w.name]), after)
        grad = velocity * group.momentum + grad
        step.carried[velocity.name] = grad.name
    return w - grad * rate


def _require_input(model: ModelProto, name: str) -> None:
    if name not in {i.name for i in model.graph.input}:
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))


def _assemble(step: StepGraph, first: list[NodeProto], last: list[NodeProto]) -> None:
    graph = step.model.graph
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *body, *last])
    kept = [t for t in graph.initializer if t.name not in step.slots]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inputs = [i for i in graph.input if i.name not in step.slots]
    del graph.input[:]
    graph.input.extend(inputs)
    for name, array in step.state.items():
        kind = int(helper.np_dtype_to_tensor_dtype(array.dtype))
        graph.input.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
    outputs = [o for o in graph.output if o.name in step.reported]
    del graph.output[:]
    graph.output.extend(outputs)
    for name, target in step.carried.items():
        kind = int(helper.np_dtype_to_tensor_dtype(step.state[name].dtype))
        graph.output.append(helper.make_tensor_value_info(target, kind, list(step.state[name].shape)))
