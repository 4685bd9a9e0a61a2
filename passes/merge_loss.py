"""A loss that is a graph of its own becomes a part of the training graph."""

from __future__ import annotations

import onnx
import onnx.compose
import onnx.inliner
import onnx.version_converter
from onnx import TensorProto

from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Value
from tgonnx.graph.declared import model_inputs
from tgonnx.graph.proto import opset_of
from tgonnx.losses.graph_loss import Given, LossGraph
from tgonnx.losses.nodes import ANSWER, Nodes
from tgonnx.passes.make_differentiable import make_differentiable

PREFIX = "tgonnx.loss_graph/"


def merged(nodes: Nodes, loss: LossGraph, model: onnx.ModelProto) -> Value:
    """The loss as a scalar of `model`, to which the graph's weights are added; they are not trained.

    Raises UnsupportedError if the graph cannot be written in the model's opset.
    """
    graph = _prefixed(loss, model)
    for value in model_inputs(loss.model):
        given = _given(nodes, loss.given[value.name])
        kind = value.type.tensor_type.elem_type
        nodes.name(given if given.elem_type == kind else given.cast(kind), PREFIX + value.name)
    nodes.emitter.nodes.extend(graph.graph.node)
    model.graph.initializer.extend(graph.graph.initializer)
    for entry in graph.opset_import:
        if entry.domain not in {each.domain for each in model.opset_import}:
            model.opset_import.append(entry)
    output = graph.graph.output[0]
    found = nodes.emitter.value(output.name, output.type.tensor_type.elem_type)
    found = found if found.elem_type == TensorProto.FLOAT else found.cast(TensorProto.FLOAT)
    return found.sum(None, False)  # of one number, in whatever shape


def _given(nodes: Nodes, each: Given) -> Value:
    if each.what == "output":
        return nodes.float32(each.output)
    if each.what == "input":
        return nodes.emitter.value(each.output, nodes.types[each.output])
    if each.what == "original":
        return nodes.taught(each.output)
    kind = TensorProto.INT64 if each.what == "label" else TensorProto.FLOAT
    return nodes.input(ANSWER + each.output, kind, nodes.answers[each.output])


def _prefixed(loss: LossGraph, model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in the model's opset, with names that the model cannot have."""
    opset = opset_of(model)
    graph = make_differentiable(onnx.inliner.inline_local_functions(loss.model), opset)
    if opset_of(graph) != opset:
        try:
            graph = onnx.version_converter.convert_version(graph, opset)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UnsupportedError(
                f"loss {loss.path}: cannot be written in opset {opset}: {reason}"
            ) from error
    del graph.graph.value_info[:]
    return onnx.compose.add_prefix(graph, PREFIX)
