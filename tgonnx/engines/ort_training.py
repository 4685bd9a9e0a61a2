"""onnxruntime-training's GradientGraphBuilder, with our gradient rules registered as custom gradients.

A custom gradient definition cannot read attributes, so both sides become model-local functions ("function to
function"): the forward node is wrapped in a function of its own, whose registered gradient is one node, again
a function, with the body that the gradient rule emits. Only operators whose built-in gradient was found right
and fast stay as they are (`Traits.native_gradient`); for the rest the built-in one is missing, slow, or silently wrong.
onnxruntime-training is used through its C module: its Python package would need torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, helper, load_model_from_string

from tgonnx.analysis.inference import types_of
from tgonnx.engines.autodiff import Backward, differentiate_row, inline, is_stop, reads, relevant
from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Emitter, Value
from tgonnx.ops.aspects.row import Row, Types
from tgonnx.ops.aspects.tables import gradient
from tgonnx.ops.aspects.traits import traits_of
from tgonnx.ops.convolution import conv_geometry, conv_input_gradient, conv_weight_shortcut
from tgonnx.ops.weight_gradients import depthwise_fits, sums_in_memory
from tgonnx.passes.make_differentiable import make_differentiable
from tgonnx.runtime.sessions import native_module, session_options

DOMAIN = "tgonnx.fn"
NEWEST_OPSET, NEWEST_IR = 21, 10
_registered: set[str] = set()


def conv_gradient(row: Row) -> list[Value | None]:
    """dX as in the portable engine; dW by onnxruntime-training's own kernel, told not to compute dX, or a shortcut."""
    geometry, weight = conv_geometry(row)
    grads: list[Value | None] = [None, None, None]
    if row.need(0):
        grads[0] = conv_input_gradient(row, row.dy, geometry, weight)
    small = depthwise_fits(row, weight, geometry.groups) or sums_in_memory(row, weight)
    if row.need(1) and small:
        grads[1] = conv_weight_shortcut(row, row.x, row.dy, geometry, weight)
    if row.need(1) and grads[1] is None:
        options: dict[str, Any] = {
            "strides": geometry.strides,
            "dilations": geometry.dilations,
            "pads": geometry.pads,
        }
        options |= {"group": geometry.groups, "kernel_shape": geometry.kernel}
        operands = (row.dy, row.x, row.input(1))
        unused, grads[1] = row.emitter.ops("ConvGrad", *operands, count=2, domain="com.microsoft", **options)
        row.emitter.nodes[-1].output[0] = ""
        del unused
    if row.need(2):
        grads[2] = row.dy.sum([0, *range(2, 2 + geometry.rank)], False)
    return grads


_OVERRIDES: dict[str, Callable[[Row], list[Value | None]]] = {"Conv": conv_gradient}


@dataclass
class _Wrapping:
    """The rewritten graph under construction."""

    model: ModelProto
    types: Types
    active: set[str]
    shortcuts: Collection[str] = ()
    nodes: list[NodeProto] = field(default_factory=list)
    functions: dict[str, FunctionProto] = field(default_factory=dict)


def differentiate(model: ModelProto, names: Iterable[str], shortcuts: Collection[str] = ()) -> Backward:
    """The model with the gradients of its first output with respect to `names` appended.

    Raises UnsupportedError naming the node without a gradient, or with onnxruntime-training's own reason.
    """
    names = list(names)
    model = make_differentiable(inline(model), NEWEST_OPSET, NEWEST_IR)
    loss = model.graph.output[0].name
    types = types_of(model)
    active = relevant(model, types, loss, names)
    reached = [name for name in names if name in active]
    wrapping = _Wrapping(model, types, active, shortcuts)
    reachable = _reachable(model, names)
    for node in model.graph.node:
        _wrap(wrapping, node, reachable)
    del model.graph.node[:]
    model.graph.node.extend(wrapping.nodes)
    model.functions.extend(wrapping.functions.values())
    _import_domains(model)
    result = _build(model, loss, reached)
    found = {name: f"{name}_grad" for name in reached}
    found.update(_zeros(result, types, set(names) - set(reached)))
    return Backward(result, found)


def _reachable(model: ModelProto, names: Iterable[str]) -> set[str]:
    """All values that depend on the parameters in any way."""
    reachable = set(names)
    for node in model.graph.node:
        if any(i in reachable for i in reads(node)):
            reachable.update(node.output)
    return reachable


def _wrap(wrapping: _Wrapping, node: NodeProto, reachable: set[str]) -> None:
    flows = any(o in wrapping.active for o in node.output) and not is_stop(node)
    blocks = not flows and any(i in reachable for i in reads(node))
    if not flows and not blocks:
        wrapping.nodes.append(node)
        return
    if flows and _native(node):
        _separate_repeated(wrapping, node)
        wrapping.nodes.append(node)
        return
    wrapping.nodes.append(_as_function(wrapping, node, flows))


def _native(node: NodeProto) -> bool:
    return traits_of(node).native_gradient


def _separate_repeated(wrapping: _Wrapping, node: NodeProto) -> None:
    """The builder loses a gradient when a node reads one value twice."""
    for index, name in enumerate(node.input):
        if name and name in node.input[:index]:
            alias = f"{name}/alias/{node.name}/{index}"
            wrapping.nodes.append(helper.make_node("Identity", [name], [alias], name=alias))
            node.input[index] = alias


def _as_function(wrapping: _Wrapping, node: NodeProto, flows: bool) -> NodeProto:
    """Wrap a node in a function with a registered gradient (if none flows, with all its inputs stopped)."""
    body, types = _normalised(node, wrapping.types)
    needs = [flows and i in wrapping.active for i in node.input]
    arrives = [f"g{j}" if o in wrapping.active else None for j, o in enumerate(node.output)]
    emitter = Emitter("v/")
    grads: list[Value | None] = [None] * len(body.input)
    if flows:
        row = _OVERRIDES.get(body.op_type) if body.domain in ("", "ai.onnx") else None
        asked = Row(body, emitter, types, arrives, needs, shortcuts=wrapping.shortcuts)
        grads = differentiate_row(row or gradient.get(body.op_type, body.domain), asked)
    inputs = [name for name in body.input if name]
    outputs = [name for name in body.output if name]
    incoming = [name for name in arrives if name]
    opsets = [*wrapping.model.opset_import, helper.make_opsetid("com.microsoft", 1)]
    opsets = list({o.domain: o for o in opsets}.values())
    forward = helper.make_function(DOMAIN, "F", inputs, outputs, [body], opsets)
    back = _gradient_function(emitter, body, types, [*inputs, *outputs, *incoming], grads, opsets)
    identity = forward.SerializeToString() + back.SerializeToString() + bytes(needs)
    digest = hashlib.sha256(identity).hexdigest()[:16]
    forward.name, back.name = f"{node.op_type}_{digest}", f"{node.op_type}Grad_{digest}"
    wrapping.functions[forward.name] = forward
    wrapping.functions[back.name] = back
    positions = [i for i, name in enumerate(body.input) if name]
    stops = {k for k, i in enumerate(positions) if grads[i] is None}
    sources = [f"I({k})" for k in range(len(inputs))] + [f"O({k})" for k in range(len(outputs))]
    sources += [f"GO({outputs.index(body.output[j])})" for j, name in enumerate(arrives) if name]
    _register(forward.name, back.name, sources, [f"GI({k})" for k in range(len(inputs))], stops)
    names = list(node.output) + [""] * (len(body.output) - len(node.output))
    results = [n or f"{node.output[0]}/{node.name}/{j}" for j, n in enumerate(names) if body.output[j]]
    actual = [name for name in node.input if name]
    wrapper = helper.make_node(forward.name, actual, results, name=node.name, domain=DOMAIN)
    _separate_repeated(wrapping, wrapper)
    return wrapper


def _normalised(node: NodeProto, types: Types) -> tuple[NodeProto, Types]:
    """The node with inputs i0, i1, ... and outputs o0, ...: equal nodes then share their functions."""
    body = NodeProto()
    body.CopyFrom(node)
    body.name = ""
    renamed = {}
    for index, name in enumerate(node.input):
        body.input[index] = f"i{index}" if name else ""
        renamed[f"i{index}"] = name
    for index, name in enumerate(node.output):
        body.output[index] = f"o{index}" if name else ""
        renamed[f"o{index}"] = name

    def pick(table: Any) -> dict[str, Any]:
        return {new: table[old] for new, old in renamed.items() if old in table}

    return body, Types(pick(types.elem_types), pick(types.shapes), pick(types.constants))


def _gradient_function(
    emitter: Emitter,
    body: NodeProto,
    types: Types,
    formal: list[str],
    grads: list[Value | None],
    opsets: list[Any],
) -> FunctionProto:
    """One output per forward input, zeros where no gradient flows (unused ones are optimised away)."""
    results = []
    for name, grad in zip(body.input, grads, strict=True):
        if name:
            results.append(f"d_{name}")
            if grad is None:
                shape = emitter.op("Shape", emitter.value(name))
                grad = emitter.filled(shape, 0.0, types.elem_types.get(name) or 1)
            emitter.nodes.append(helper.make_node("Identity", [grad.name], [results[-1]]))
    return helper.make_function(DOMAIN, "G", formal, results, emitter.nodes, opsets)


def _register(name: str, back: str, sources: list[str], targets: list[str], stops: set[int]) -> None:
    if name in _registered:
        return
    _registered.add(name)
    state = native_module()
    definition = state.GradientNodeDefinition()
    definition.op_type, definition.domain = back, DOMAIN
    definition.inputs, definition.outputs, definition.attributes = sources, targets, []
    state.register_gradient_definition(f"{DOMAIN}::{name}", [definition])
    if stops:
        state.register_custom_stop_gradient_edges(f"{DOMAIN}::{name}", stops)


def _import_domains(model: ModelProto) -> None:
    known = {o.domain for o in model.opset_import}
    for domain in (DOMAIN, "com.microsoft"):
        if domain not in known:
            model.opset_import.append(helper.make_opsetid(domain, 1))


def _build(model: ModelProto, loss: str, names: list[str]) -> ModelProto:
    outputs = {o.name for o in model.graph.output}
    try:
        build = native_module().GradientGraphBuilder
        builder = build(model.SerializeToString(), outputs, set(names), loss, session_options())
        builder.build()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UnsupportedError(f"onnxruntime-training cannot differentiate the model: {reason}") from error
    result = load_model_from_string(builder.get_model())
    kept = {t.name for t in result.graph.initializer}  # the builder drops what the loss does not read
    result.graph.initializer.extend(t for t in model.graph.initializer if t.name not in kept)
    return result


def _zeros(model: ModelProto, types: Types, names: Iterable[str]) -> dict[str, str]:
    """Zero gradients for parameters that the loss does not depend on."""
    emitter = Emitter("zero/")
    found = {}
    for name in sorted(names):
        shape = emitter.op("Shape", emitter.value(name))
        found[name] = emitter.filled(shape, 0.0, types.elem_types.get(name, 1)).name
    model.graph.node.extend(emitter.nodes)
    return found
