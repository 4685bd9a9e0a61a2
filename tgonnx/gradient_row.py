"""One node to differentiate, as a gradient row sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tgonnx.emit import Array, Emitter, Value, attributes_of
from tgonnx.errors import UnsupportedError
from tgonnx.shapes import sweep

Dim = int | str | None
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}

Grads = list[Value | None]  # one for each input of a node; None where there is none


@dataclass(frozen=True)
class Types:
    """What shape inference knows of the values of a graph."""

    elem_types: Mapping[str, int]
    shapes: Mapping[str, tuple[Dim, ...]]
    constants: Mapping[str, Array]

    @staticmethod
    def of(model: ModelProto) -> Types:
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
        fixed = _static(shapes.get(info.name))
        if fixed is None:
            return
        inputs[info.name] = (elem_types[info.name], fixed)
    hints = {name: fixed for name in produced if (fixed := _static(shapes.get(name))) is not None}
    found = sweep(model, inputs, hints)
    for name in produced:
        if name in found.shapes and _static(shapes.get(name)) is None:
            shapes[name] = found.shapes[name]
            elem_types[name] = elem_types.get(name) or found.types[name]
        if name in found.known and found.known[name].dtype.kind in "iub":
            constants.setdefault(name, found.known[name])


def _static(shape: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    fixed = tuple(d for d in shape or () if isinstance(d, int))
    return fixed if shape is not None and len(fixed) == len(shape) else None


@dataclass
class Row:
    """One node to differentiate, as a gradient row sees it."""

    node: NodeProto
    emitter: Emitter
    types: Types
    output_gradients: Sequence[str | None]
    needs: Sequence[bool]
    attributes: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.attributes = attributes_of(self.node)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Is input `index` connected?"""
        return index < len(self.node.input) and bool(self.node.input[index])

    def need(self, index: int) -> bool:
        """Is the gradient of input `index` wanted?"""
        return index < len(self.needs) and self.needs[index]

    def value(self, name: str) -> Value:
        """A value of the forward graph."""
        return self.emitter.value(name, self.types.elem_types.get(name) or TensorProto.FLOAT)

    def input(self, index: int) -> Value:
        """Input `index`."""
        return self.value(self.node.input[index])

    def output(self, index: int) -> Value:
        """Output `index`; an output that was left out is added to the forward node."""
        while len(self.node.output) <= index:
            self.node.output.append("")
        if not self.node.output[index]:
            self.node.output[index] = f"{self.node.output[0]}.{index}"
        return self.value(self.node.output[index])

    @property
    def x(self) -> Value:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Value:
        """The first output."""
        return self.output(0)

    @property
    def dy(self) -> Value:
        """The gradient of the first output; zeros if only other outputs have one."""
        arrived = self.gradient(0)
        if arrived is None:
            return self.emitter.filled(self.y.shape(), 0.0, self.y.elem_type)
        return arrived

    def gradient(self, index: int) -> Value | None:
        """The gradient that arrives at output `index`, if any."""
        name = self.output_gradients[index] if index < len(self.output_gradients) else None
        if name is None:
            return None
        return self.emitter.value(name, self.value(self.node.output[index]).elem_type)

    def shape(self, value: Value) -> tuple[Dim, ...] | None:
        """Dimensions of a forward value: int if known, str if symbolic, else None; None without a rank."""
        return self.types.shapes.get(value.name)

    def static(self, value: Value) -> tuple[int, ...] | None:
        """The shape if every dimension is known."""
        return _static(self.shape(value))

    def rank(self, value: Value) -> int:
        """The rank of a forward value. Raises UnsupportedError if unknown."""
        shape = self.shape(value)
        if shape is None:
            raise self.unsupported(f"the rank of {value.name!r} is unknown")
        return len(shape)

    def axis(self, default: int = 0, value: Value | None = None) -> int:
        """The attribute `axis`, not negative."""
        axis = int(self.attr("axis", default))
        return axis if axis >= 0 else axis + self.rank(value or self.x)

    def constant(self, index: int) -> Array | None:
        """The constant behind input `index`, if it is one."""
        return self.types.constants.get(self.node.input[index]) if self.has(index) else None

    def unsupported(self, reason: str) -> UnsupportedError:
        """An error that names this node."""
        label = self.node.name or self.node.output[0]
        return UnsupportedError(f"node {label!r} ({self.node.op_type}) cannot be differentiated: {reason}")

    def op(self, op_type: str, *inputs: Value | None, **attributes: Any) -> Value:
        """Emit a node with one output."""
        return self.emitter.op(op_type, *inputs, **attributes)

    def like(self, number: float, value: Value | None = None) -> Value:
        """A scalar of the type of a value (default: input 0)."""
        return self.emitter.scalar(number, (value or self.x).elem_type)

    def zeros_like(self, value: Value) -> Value:
        """Zeros in the shape of a value."""
        return self.emitter.filled(value.shape(), 0.0, value.elem_type)

    def shape_of(self, value: Value) -> Value:
        """The shape as int64 value, a constant where known."""
        static = self.static(value)
        return value.shape() if static is None else self.emitter.ints(static)

    def unbroadcast(self, grad: Value, like: Value, shaped: Value | None = None) -> Value:
        """Sum a gradient that has the shape of `shaped` (default: output 0) down to the shape of `like`."""
        full, small = self.shape(shaped or self.y), self.shape(like)
        if full is None or small is None:
            return self._unbroadcast_dynamic(grad, like)
        lead = len(full) - len(small)
        axes = list(range(lead))
        for i, (d, s) in enumerate(zip(full[lead:], small, strict=True)):
            if s == 1 and d != 1:
                axes.append(lead + i)
            elif not isinstance(s, int) and (s is None or s != d):
                return self._unbroadcast_dynamic(grad, like)
        if not axes:
            return grad
        if len(axes) == lead:
            return grad.sum(axes, keepdims=False)
        result = grad.sum(axes)
        return result.squeeze(list(range(lead))) if lead else result

    def _unbroadcast_dynamic(self, grad: Value, like: Value) -> Value:
        full, small = grad.shape(), like.shape()
        missing = full.shape() - small.shape()
        padded = self.op("Concat", self.emitter.filled(missing, 1, TensorProto.INT64), small, axis=0)
        differs = self.op("Not", padded.equals(full))
        axes = self.op("NonZero", differs).reshape([-1])
        return self.op("ReduceSum", grad, axes, keepdims=1, noop_with_empty_axes=1).reshape(small)


# Defined by functions whose bodies shape inference does not see through
_SHAPE_KEEPING = {"GroupNormalization", "RMSNormalization"}


def _infer(model: ModelProto) -> ModelProto:
    """Shape inference, helped over operators that keep the shape of their first input."""
    while True:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        graph = model.graph
        known = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output) if _ranked(v)}
        stored = {t.name: t for t in graph.initializer}
        added = False
        for node in graph.node:
            if node.op_type not in _SHAPE_KEEPING or node.output[0] in known:
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
