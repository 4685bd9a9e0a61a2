"""Reverse-mode differentiation of an ONNX graph: the backward graph in standard ONNX operators.

A gradient rule, `@gradient("Relu")` in tgonnx.ops, receives a `Row` (one node and the gradients that
arrive at its outputs) and returns one gradient per input, None where there is none. Rows may assume
opset >= 18; `tgonnx.passes.make_differentiable` converts older graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto

from tgonnx.analysis.inference import types_of
from tgonnx.graph.builder import Emitter, Value
from tgonnx.ops.aspects.row import FLOATS, Grads, Row, Types
from tgonnx.ops.aspects.tables import gradient
from tgonnx.ops.aspects.traits import traits_of


@dataclass(frozen=True)
class Backward:
    """A graph with its backward part: `model`, and the name of the gradient of each asked initializer."""

    model: ModelProto
    gradients: Mapping[str, str]


def backward(model: ModelProto, loss: str, names: Iterable[str], shortcuts: Collection[str] = ()) -> Backward:
    """Append the gradients of the scalar value `loss` with respect to `names` (initializers or inputs).

    The graph must be flat; model-local functions without a gradient rule are inlined. An initializer that the
    loss does not depend on gets zeros. Raises UnsupportedError naming the node without a gradient rule.
    """
    model = inline(model)
    names = list(names)
    types = types_of(model)
    graph = model.graph
    active = relevant(model, types, loss, names)
    taken = {n for node in graph.node for n in (*node.input, *node.output)} | {
        i.name for i in graph.initializer
    }
    emitter = Emitter("grad/", taken)
    seed = emitter.op("Identity", emitter.scalar(1.0, types.elem_types.get(loss) or TensorProto.FLOAT))
    arrived: dict[str, list[str]] = {loss: [seed.name]}
    wanted = set(names)

    def total(name: str) -> str | None:
        parts = arrived.get(name)
        if not parts:
            return None
        if len(parts) > 1:
            operands = [emitter.value(p) for p in parts]
            arrived[name] = [emitter.op("Add" if len(parts) == 2 else "Sum", *operands).name]
        return arrived[name][0]

    for node in reversed(list(graph.node)):
        if is_stop(node) or not any(o in active for o in node.output):
            continue
        output_gradients = [total(o) if o in active else None for o in node.output]
        if not any(output_gradients):
            continue
        needs = [i in active for i in node.input]
        row = gradient.get(node.op_type, node.domain)
        asked = Row(node, emitter, types, output_gradients, needs, shortcuts=shortcuts)
        grads = differentiate_row(row, asked)
        for name, grad in zip(node.input, grads, strict=True):
            if grad is not None and name in active:
                arrived.setdefault(name, []).append(grad.name)
    result = {}
    for name in sorted(wanted):
        found = total(name)
        if found is None:
            shape = emitter.op("Shape", emitter.value(name))
            found = emitter.filled(shape, 0.0, types.elem_types.get(name, TensorProto.FLOAT)).name
        result[name] = found
    graph.node.extend(emitter.nodes)
    return Backward(model, result)


def differentiate_row(row: Callable[[Row], Grads] | None, context: Row) -> list[Value | None]:
    """Apply a gradient rule: one gradient per input, None where there is none or none is needed."""
    node = context.node
    if row is None:
        label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        advice = traits_of(node).advice or f"add a rule @gradient({label!r})"
        raise context.unsupported(
            f"no gradient is known for {label}; {advice}, or prune without data, by the size of the weights"
        )
    found: list[Value | None] = list(row(context))
    found += [None] * (len(node.input) - len(found))
    needs = [context.need(i) for i in range(len(node.input))]
    return [grad if need else None for grad, need in zip(found, needs, strict=False)]


def relevant(model: ModelProto, types: Types, loss: str, names: Iterable[str]) -> set[str]:
    """The floating-point values on a differentiable path from `names` to `loss`."""
    forward = set(names)
    for node in model.graph.node:
        if not is_stop(node) and any(i in forward for i in reads(node)):
            forward.update(o for o in node.output if o and types.elem_types.get(o, 1) in (*FLOATS, 0))
    backward_values = {loss}
    for node in reversed(model.graph.node):
        if not is_stop(node) and any(o in backward_values and o in forward for o in node.output):
            backward_values.update(i for i in reads(node) if i)
    return forward & backward_values


def reads(node: NodeProto) -> Iterator[str]:
    """The inputs of a node, and what its subgraphs read."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from reads(inner)


def is_stop(node: NodeProto) -> bool:
    """Do gradients end at this node?"""
    return traits_of(node).stops


def inline(model: ModelProto) -> ModelProto:
    """A copy in which model-local functions without a gradient rule are inlined."""
    plain = [(f.domain, f.name) for f in model.functions if gradient.get(f.name, f.domain) is None]
    if not plain:
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy
    return onnx.inliner.inline_selected_functions(model, plain)
