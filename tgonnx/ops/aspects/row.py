"""One node to differentiate, as a gradient rule sees it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto, TensorProto

from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Array, Emitter, Value, attributes_of

# ways to the same values and gradients that a CPU computes faster, by name; nowhere else
BLOCKED = "blocked"  # convolutions in blocks of channels
DEPTHWISE = "depthwise"  # the weight gradient of a depthwise convolution as a depthwise convolution
PRODUCTS = "products"  # the weight gradient for a small map as one product over batch and space
SHORTCUTS = (BLOCKED, DEPTHWISE, PRODUCTS)

Dim = int | str | None
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}

Grads = list[Value | None]  # one for each input of a node; None where there is none
Outputs = list[Value | None]  # one for each output of a node
Shapes = list[tuple[Dim, ...] | None]  # likewise


@dataclass(frozen=True)
class Types:
    """What shape inference knows of the values of a graph."""

    elem_types: Mapping[str, int]
    shapes: Mapping[str, tuple[Dim, ...]]
    constants: Mapping[str, Array]


def static_shape(shape: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    """The shape if every dimension is known."""
    fixed = tuple(d for d in shape or () if isinstance(d, int))
    return fixed if shape is not None and len(fixed) == len(shape) else None


@dataclass
class Row:
    """One node to differentiate, as a gradient rule sees it; to a definition and to sizes, no gradients arrive."""

    node: NodeProto
    emitter: Emitter
    types: Types
    output_gradients: Sequence[str | None]
    needs: Sequence[bool]
    purpose: str = "be differentiated"  # what is asked of the node, for errors: "node ... cannot ..."
    shortcuts: Collection[str] = ()  # of SHORTCUTS, those that may be taken
    attributes: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.attributes = attributes_of(self.node)

    def attribute(self, name: str, default: Any = None) -> Any:
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
        return static_shape(self.shape(value))

    def rank(self, value: Value) -> int:
        """The rank of a forward value. Raises UnsupportedError if unknown."""
        shape = self.shape(value)
        if shape is None:
            raise self.unsupported(f"the rank of {value.name!r} is unknown")
        return len(shape)

    def axis(self, default: int = 0, value: Value | None = None) -> int:
        """The attribute `axis`, not negative."""
        axis = int(self.attribute("axis", default))
        return axis if axis >= 0 else axis + self.rank(value or self.x)

    def constant(self, index: int) -> Array | None:
        """The constant behind input `index`, if it is one."""
        return self.types.constants.get(self.node.input[index]) if self.has(index) else None

    def unsupported(self, reason: str) -> UnsupportedError:
        """An error that names this node."""
        label = self.node.name or self.node.output[0]
        return UnsupportedError(f"node {label!r} ({self.node.op_type}) cannot {self.purpose}: {reason}")

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
