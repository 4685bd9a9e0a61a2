"""The whole training step as one graph: forward, loss, backward, optimiser update.

Parameters of a group live in flat vectors (as do their moments), split at the start of the graph: the update is then a
dozen operators for each vector instead of a dozen per parameter. A vector ends where it would be larger than the
processor's own memory: its dozen passes would all wait for the machine's (ViT-tiny: 72 ms a step with one vector, 66
with vectors of a megabyte).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tgonnx.engines.optimizers import Memory, clipped, named
from tgonnx.engines.spec import ParameterGroup, StepSpec
from tgonnx.errors import UsageError
from tgonnx.graph.builder import Array, Emitter, Value

PORTION = 2**18  # elements, a megabyte: what is computed of them stays near the processor


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

    Raises UsageError for a parameter that is not an initializer or stands in two groups, and for an unknown optimiser.
    """
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    step = StepGraph(model, reported=[o.name for o in spec.model.graph.output])
    before, after = Emitter("step/in/"), Emitter("step/out/")
    vectors: list[_Vector] = []
    for index, group in enumerate(spec.groups):
        _require_input(model, group.lr)
        _check_names(step, group, stored)
        for dtype in sorted({stored[name].dtype.name for name in group.names}):
            members = {n: stored[n] for n in group.names if stored[n].dtype.name == dtype}
            for number, some in enumerate(_portions(members)):
                prefix = f"state/{index}/{dtype}/{number}"
                vectors.append(_vector(step, prefix, group, some, gradients, before, after))
    updates = _accumulate(step, vectors, spec.accumulate, after)
    if spec.clip:
        _clip(vectors, spec.clip, after)
    for vector in vectors:
        _update(step, vector, after, updates)
    for name, value in spec.statistics.items():
        if name not in stored:
            raise UsageError(f"statistic {name!r} is not an initializer of the training graph")
        step.slots[name] = Slot(name, 0, stored[name].shape)
        step.state[name] = np.array(stored[name])
        step.carried[name] = after.op("Identity", after.value(value)).name
    _assemble(step, before.nodes, after.nodes)
    return step


@dataclass
class _Vector:
    """Parameters of a group and one type as one flat vector, and their gradients."""

    prefix: str
    group: ParameterGroup
    parameters: Value
    grads: Value


def _portions(members: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Parameters that are updated together, in order: large ones alone, so that what an update needs for a while is
    small, and small ones with others, so that there are few nodes."""
    some: dict[str, Array] = {}
    for name, array in members.items():
        if some and sum(each.size for each in some.values()) + array.size > PORTION:
            yield some
            some = {}
        some[name] = array
    if some:
        yield some


def _check_names(step: StepGraph, group: ParameterGroup, stored: Mapping[str, Array]) -> None:
    for name in group.names:
        if name not in stored:
            raise UsageError(f"parameter {name!r} is not an initializer of the training graph")
        if name in step.slots:
            raise UsageError(f"parameter {name!r} stands in two groups")


def _vector(
    step: StepGraph,
    prefix: str,
    group: ParameterGroup,
    members: Mapping[str, Array],
    gradients: Mapping[str, str],
    before: Emitter,
    after: Emitter,
) -> _Vector:
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
    return _Vector(prefix, group, old, after.concat(pieces, 0))


def _accumulate(step: StepGraph, vectors: Sequence[_Vector], parts: int, after: Emitter) -> Value | None:
    """Make gradients the mean over `parts` calls. Returns whether this call is the last of them; None if all are."""
    if parts == 1 or not vectors:
        return None
    count = _state(step, "state/part", np.zeros((), np.int64), after)
    following = count + 1
    last, more = following.equals(parts), following < parts
    step.carried[count.name] = after.op("Mod", following, after.scalar(parts, TensorProto.INT64)).name
    for vector in vectors:
        zeros = np.zeros_like(step.state[vector.parameters.name])
        sums = _state(step, f"{vector.prefix}/gradients", zeros, after)
        total = sums + vector.grads
        step.carried[sums.name] = after.where(more, total, 0.0).name
        vector.grads = total / parts
    return last


def _clip(vectors: Sequence[_Vector], largest: float, after: Emitter) -> None:
    chosen = [vector for vector in vectors if vector.group.clipped]
    if chosen:
        grads = clipped([vector.grads for vector in chosen], largest, after)
        for vector, grad in zip(chosen, grads, strict=True):
            vector.grads = grad


def _update(step: StepGraph, vector: _Vector, after: Emitter, updates: Value | None) -> None:
    """New parameters and moments; where `updates` is false, the old ones."""
    group, w = vector.group, vector.parameters
    rate = after.value(group.lr)
    if w.elem_type != TensorProto.FLOAT:
        rate = rate.cast(w.elem_type)
    memory = Memory(vector.prefix, step.state[w.name], after)
    new = w - named(group.optimizer).change(group, memory, vector.grads, rate)
    if group.weight_decay:
        new = new - w * (rate * group.weight_decay)
    memory.keep(w, new)
    step.state.update(memory.state)
    for name, value in memory.carried.items():
        held = value if updates is None else after.where(updates, value, after.value(name, value.elem_type))
        step.carried[name] = held.name


def _state(step: StepGraph, name: str, initial: Array, emitter: Emitter) -> Value:
    step.state[name] = initial
    return emitter.value(name, int(helper.np_dtype_to_tensor_dtype(initial.dtype)))


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
