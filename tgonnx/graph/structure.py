"""What a network is apart from its weights, as one number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from tgonnx.graph.declared import model_inputs


def first_output(outputs: Iterable[str]) -> str:
    """What a node is called by where its name may not tell: its first output that is put out; empty without any."""
    return next(filter(None, outputs), "")


def structure_hash(model: onnx.ModelProto) -> str:
    """SHA-256 over operators, attributes, names of values, and names, types and shapes of initializers, as hex.

    Values of tensors do not count, nor do the sizes of inputs and outputs, names of nodes, their order, or anything
    that describes the file: a model that was trained on or bound to other sizes has the hash that it had.
    """
    parts = [*_graph(model.graph)]
    parts += [repr(("input", value.name)) for value in model_inputs(model)]
    parts += [repr(("opset", _domain(o.domain), o.version)) for o in model.opset_import]
    parts += [
        repr(("function", f.domain, f.name, f.overload, list(f.input), sorted(map(_node, f.node))))
        for f in model.functions
    ]
    return hashlib.sha256("\0".join(sorted(parts)).encode()).hexdigest()


def _graph(graph: GraphProto) -> Iterator[str]:
    yield from map(_node, graph.node)
    yield repr(("outputs", [value.name for value in graph.output]))
    yield from (repr(("initializer", t.name, *_tensor(t))) for t in graph.initializer)
    yield from (repr(("sparse", t.values.name, list(t.dims))) for t in graph.sparse_initializer)


def _node(node: NodeProto) -> str:
    attributes = sorted((a.name, *_attribute(a)) for a in node.attribute)
    return repr((_domain(node.domain), node.op_type, list(node.input), list(node.output), attributes))


def _attribute(attribute: AttributeProto) -> Iterable[object]:
    if attribute.type == AttributeProto.TENSOR:
        return ("tensor", *_tensor(attribute.t))
    if attribute.type == AttributeProto.GRAPH:
        return ("graph", sorted(_graph(attribute.g)))
    if attribute.type == AttributeProto.SPARSE_TENSOR:
        return ("sparse", list(attribute.sparse_tensor.dims))
    return ("plain", attribute.SerializeToString(deterministic=True))


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _tensor(tensor: TensorProto) -> tuple[object, ...]:
    return (tensor.data_type, list(tensor.dims))
