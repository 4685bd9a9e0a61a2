"""Bring a training copy to the form that the gradient rules expect. The user's graph is never touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

import onnx.version_converter
from onnx import FunctionProto, ModelProto, NodeProto, OperatorSetIdProto, helper

from tgonnx.analysis.inference import types_of
from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Emitter, attributes_of
from tgonnx.graph.expand import SETTLED, write_out
from tgonnx.graph.proto import opset_of
from tgonnx.ops.aspects.row import Row
from tgonnx.ops.aspects.tables import definition, gradient
from tgonnx.ops.aspects.traits import traits_named
from tgonnx.passes import PassResult, perform
from tgonnx.passes.fold_shapes import fold
from tgonnx.passes.normalize import ConstantsToInitializers

M = TypeVar("M", ModelProto, NodeProto, FunctionProto, OperatorSetIdProto)
OLDEST = 18
WRITTEN = "be written in operators that can be differentiated"


@dataclass(frozen=True)
class MakeDifferentiable:
    """`make_differentiable` as a pass."""

    name: ClassVar = "make-differentiable"
    in_place: ClassVar = False
    keeps_values: ClassVar = True

    newest: int | None = None
    newest_ir: int | None = None

    def __call__(self, model: ModelProto) -> PassResult:
        result = _differentiable(model, self.newest, self.newest_ir)
        return PassResult(result, result != model)


def make_differentiable(
    model: ModelProto, newest: int | None = None, newest_ir: int | None = None
) -> ModelProto:
    """A copy at opset 18 or later (at most `newest`), with BatchNormalization statistics explicit, Einsum of one
    operand as sum and transpose, and definitions in place of forms that no gradient rule reaches.

    Raises UnsupportedError if the opset cannot be converted.
    """
    return perform(MakeDifferentiable(newest, newest_ir), model).model


def _differentiable(model: ModelProto, newest: int | None, newest_ir: int | None) -> ModelProto:
    model = _convert(_spelled_out(model, newest), newest)
    model.ir_version = max(model.ir_version, 8)
    if newest_ir is not None:
        model.ir_version = min(model.ir_version, newest_ir)
    nodes: list[NodeProto] = []
    for index, node in enumerate(_defined(model)):
        if node.op_type == "BatchNormalization":
            nodes.extend(_explicit_statistics(node, index))
        else:
            nodes.extend(_plain_sum(node) if node.op_type == "Einsum" else [node])
    names: set[str] = set()
    for index, node in enumerate(nodes):  # onnxruntime-training refuses duplicate names
        if not node.name or node.name in names:
            node.name = f"{node.name or node.op_type}#{index}"
        names.add(node.name)
    nodes = [_copy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _spelled_out(model: ModelProto, newest: int | None) -> ModelProto:
    """Standard operators that have neither a gradient rule nor a form at opset `newest`, as their definitions."""

    def wanted(op_type: str) -> bool:
        too_new = newest is not None and not onnx.defs.has(op_type, min(newest, SETTLED), "")
        return too_new or (gradient.get(op_type, "") is None and not traits_named(op_type).stops)

    written = write_out(model, wanted)
    if written is model:
        return model
    return fold(perform(ConstantsToInitializers(), written).model, {})[
        0
    ]  # definitions compute axes and sizes


def _defined(model: ModelProto) -> list[NodeProto]:
    """The nodes, with what an operator's `definition` emits in place of those that have one."""
    found = list(model.graph.node)
    if not any(definition.get(node.op_type, node.domain) for node in found):
        return found
    types, opset = types_of(model), opset_of(model)
    nodes: list[NodeProto] = []
    for node in found:
        define = definition.get(node.op_type, node.domain)
        emitter = Emitter(f"{next(filter(None, node.output), '')}/steps/")
        outputs = define(Row(node, emitter, types, [], [], WRITTEN), opset) if define else None
        if outputs is None:
            nodes.append(node)
            continue
        for name, value in zip(node.output, outputs, strict=False):
            if name and value is not None:
                emitter.nodes.append(helper.make_node("Identity", [value.name], [name], name=f"{name}/whole"))
        nodes.extend(emitter.nodes)
    return nodes


def _convert(model: ModelProto, newest: int | None) -> ModelProto:
    opset = opset_of(model)
    wanted = max(opset, OLDEST)
    if newest is not None:
        wanted = min(wanted, newest)
    copy = _copy(model)
    for entry in copy.opset_import:  # onnxruntime-training does not know the other name
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    if wanted == opset:
        return copy
    functions = [_copy(f) for f in model.functions]
    foreign = [_copy(o) for o in model.opset_import if o.domain not in ("", "ai.onnx")]
    del copy.functions[:]
    try:
        copy = onnx.version_converter.convert_version(copy, wanted)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedError(
            f"opset {opset} cannot be converted to {wanted} for training: {reason}"
        ) from error
    known = {o.domain for o in copy.opset_import}
    copy.opset_import.extend(o for o in foreign if o.domain not in known)
    for function in functions:
        for entry in function.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = wanted
    copy.functions.extend(functions)
    return copy


def _plain_sum(node: NodeProto) -> list[NodeProto]:
    """Einsum of one operand as ReduceSum and Transpose: onnxruntime 1.19 writes out of bounds for it."""
    equation = str(attributes_of(node)["equation"]).replace(" ", "")
    term, arrow, result = equation.partition("->")
    if not arrow:
        result = "".join(sorted(c for c in set(term) if term.count(c) == 1))
    if len(node.input) != 1 or "." in term or len(set(term)) < len(term):
        return [node]
    emitter = Emitter(f"{node.output[0]}/sum/")
    value = emitter.value(node.input[0])
    summed = [axis for axis, index in enumerate(term) if index not in result]
    kept = [index for index in term if index in result]
    value = value.sum(summed, False) if summed else value
    emitter.op("Transpose", value, perm=[kept.index(c) for c in result])
    emitter.nodes[-1].output[0] = node.output[0]
    return list(emitter.nodes)


def _explicit_statistics(node: NodeProto, index: int) -> list[NodeProto]:
    """Training-mode BatchNormalization with momentum 0, then the running averages as nodes of their own.

    onnxruntime writes outputs 1 and 2 into the buffers of inputs 3 and 4, even where those are constants or
    have other readers. So the node gets inputs of its own there: small slices of its data, whose values do
    not matter with momentum 0, times different numbers, so that no optimiser folds or merges them.
    """
    attributes = attributes_of(node)
    if not attributes.get("training_mode", 0):
        return [node]
    momentum = float(attributes.get("momentum", 0.9))
    emitter = Emitter(f"{node.output[0]}/statistics{index}/")
    plain = _copy(node)
    del plain.output[1:]
    kept = [a for a in node.attribute if a.name != "momentum"]
    del plain.attribute[:]
    plain.attribute.extend([*kept, helper.make_attribute("momentum", 0.0)])
    sample = emitter.value(node.input[0]).reshape([0, 0, -1]).slice([0, 0], [1, 1], [0, 2]).reshape([-1])
    for position in (3, 4):
        plain.input[position] = (sample * float(2 * index + position)).name
    first = list(emitter.nodes)
    emitter.nodes.clear()
    for position, name in list(enumerate(node.output))[1:]:
        batch = emitter.value(emitter.fresh("batch"))
        plain.output.append(batch.name)
        if name:
            blend = emitter.value(node.input[position + 2]) * momentum + batch * (1.0 - momentum)
            emitter.nodes[-1].output[0] = name
            del blend
    return [*first, plain, *emitter.nodes]


def _copy(message: M) -> M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
