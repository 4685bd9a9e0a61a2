"""Small verbs on stored graphs that passes, analysis and training share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import ModelProto, helper, numpy_helper

from tgonnx.graph.types import Array


def captured_names(graph: onnx.GraphProto) -> set[str]:
    """Every name that a subgraph of a node (If, Loop, Scan) reads, its own names included."""
    names: set[str] = set()
    for node in graph.node:
        for attribute in node.attribute:
            for sub in (
                [attribute.g, *attribute.graphs] if attribute.HasField("g") or attribute.graphs else []
            ):
                names |= {name for inner in sub.node for name in inner.input}
                names |= {output.name for output in sub.output}
                names |= captured_names(sub)
    return names


def fresh_name(wish: str, taken: object) -> str:
    """`wish`, with a number behind it if it is in `taken`."""
    name, number = wish, 1
    while name in taken:  # type: ignore[operator]
        name, number = f"{wish}_{number}", number + 1
    return name


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Make `nodes` (nodes of this graph among them) the graph's nodes."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def remove_unused(graph: onnx.GraphProto) -> bool:
    """Remove nodes and initializers that no output depends on. Returns whether anything went."""
    needed = {value.name for value in graph.output} | captured_names(graph)
    kept = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            needed.update(name for name in node.input if name)
            kept.append(node)
    tensors = [t for t in graph.initializer if t.name in needed or t.name in {v.name for v in graph.input}]
    changed = len(kept) < len(graph.node) or len(tensors) < len(graph.initializer)
    if changed:
        replace_nodes(graph, kept[::-1])
        names = {t.name for t in tensors}
        for i in reversed(range(len(graph.initializer))):
            if graph.initializer[i].name not in names:
                del graph.initializer[i]
    return changed


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators that the model imports."""
    return max((int(o.version) for o in model.opset_import if o.domain in STANDARD_DOMAINS), default=1)


def attribute_of(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, or `default` if the node has none of that name."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


STANDARD_DOMAINS = ("", "ai.onnx")


def with_values(proto: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy with new values of initializers, by name, in the types they have."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            array = np.ascontiguousarray(values[tensor.name], kind).reshape(tuple(tensor.dims))
            doc = tensor.doc_string
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            tensor.doc_string = doc
    return copy


MAX_DENSE = 1 << 26  # elements of the largest sparse tensor that is made dense


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    if attribute.name == "sparse_value" and int(np.prod(value.dims, dtype=np.float64)) <= MAX_DENSE:
        return dense(value, node.output[0])
    kinds = {
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_float": np.float32,
        "value_floats": np.float32,
    }
    kind = kinds.get(attribute.name)
    return None if kind is None else numpy_helper.from_array(np.array(value, kind), node.output[0])


def dense(tensor: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    """A sparse tensor with its zeros stored. Its indices are linear ([n]) or one per axis ([n, rank])."""
    values, indices = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    full = np.zeros(tuple(tensor.dims), values.dtype)
    places = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), full.shape)
    full.reshape(-1)[places] = values
    return numpy_helper.from_array(full, name)
