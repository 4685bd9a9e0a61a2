"""What shape inference knows of all values of a graph, with dynamic dimensions left open."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tgonnx.analysis.shapes import sweep
from tgonnx.graph.builder import Array
from tgonnx.ops.aspects.row import FLOATS, Dim, Types, static_shape
from tgonnx.ops.aspects.traits import traits_of


def types_of(model: ModelProto) -> Types:
    """Infer the types of every value of a flat graph; the constants are its integer initializers."""
    graph = _infer(model).graph
    elem_types: dict[str, int] = {}
    shapes: dict[str, tuple[Dim, ...]] = {}
    for info in (*graph.value_info, *graph.input, *graph.output):
        tensor = info.type.tensor_type
        elem_types[info.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[info.name] = tuple(_dim(d) for d in tensor.shape.dim)
    constants: dict[str, Array] = {}
    stored = list(graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            stored.extend(_named(a.t, node.output[0]) for a in node.attribute if a.name == "value")
            for a in node.attribute:
                if a.name in ("value_ints", "value_int", "value_float", "value_floats"):
                    value = helper.get_attribute_value(a)
                    kind = np.int64 if "int" in a.name else np.float32
                    stored.append(numpy_helper.from_array(np.asarray(value, kind), node.output[0]))
    for tensor in stored:
        elem_types[tensor.name] = tensor.data_type
        shapes[tensor.name] = tuple(tensor.dims)
        if tensor.data_type not in FLOATS or int(np.prod(tensor.dims)) <= 64:
            constants[tensor.name] = numpy_helper.to_array(tensor)
    _complete(graph, model, elem_types, shapes, constants)
    return Types(elem_types, shapes, constants)


def _complete(
    graph: onnx.GraphProto,
    model: ModelProto,
    elem_types: dict[str, int],
    shapes: dict[str, tuple[Dim, ...]],
    constants: dict[str, Array],
) -> None:
    """What inference left open, by following the values that shapes are computed from, if inputs are fixed."""
    produced = [name for node in graph.node for name in node.output if name]
    if all(name in shapes for name in produced):
        return
    inputs: dict[str, tuple[int, tuple[int, ...]]] = {}
    for info in graph.input:
        fixed = static_shape(shapes.get(info.name))
        if fixed is None:
            return
        inputs[info.name] = (elem_types[info.name], fixed)
    hints = {
        name: (elem_types[name], fixed)
        for name in produced
        if (fixed := static_shape(shapes.get(name))) is not None
    }
    found = sweep(model, inputs, hints)
    for name in produced:
        if name in found.shapes and static_shape(shapes.get(name)) is None:
            shapes[name] = found.shapes[name]
            elem_types[name] = elem_types.get(name) or found.types[name]
        if name in found.known and found.known[name].dtype.kind in "iub":
            constants.setdefault(name, found.known[name])


def _infer(model: ModelProto) -> ModelProto:
    """Shape inference, helped over operators that keep the shape of their first input: some are defined by functions
    whose bodies it does not see through."""
    while True:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        graph = model.graph
        known = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output) if _ranked(v)}
        stored = {t.name: t for t in graph.initializer}
        added = False
        for node in graph.node:
            if not traits_of(node).keeps_shape or node.output[0] in known:
                continue
            source = known.get(node.input[0])
            if source is not None:
                info = graph.value_info.add()
                info.CopyFrom(source)
                info.name = node.output[0]
            elif node.input[0] in stored:
                tensor = stored[node.input[0]]
                graph.value_info.append(
                    helper.make_tensor_value_info(node.output[0], tensor.data_type, tensor.dims)
                )
            else:
                continue
            known[node.output[0]] = graph.value_info[-1]
            added = True
        if not added:
            return model


def _ranked(info: onnx.ValueInfoProto) -> bool:
    return bool(info.type.tensor_type.HasField("shape"))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None


def _named(tensor: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy
