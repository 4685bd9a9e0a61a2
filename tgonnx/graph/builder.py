"""A small builder of ONNX nodes: values with operators, so that formulas read like formulas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, defs, helper, numpy_helper

Array = npt.NDArray[Any]


class Value:
    """A named value under construction; `+ - * /` and comparisons emit nodes, numbers become constants."""

    __slots__ = ("elem_type", "emitter", "name")

    def __init__(self, emitter: Emitter, name: str, elem_type: int = TensorProto.FLOAT) -> None:
        self.emitter, self.name, self.elem_type = emitter, name, elem_type

    def _with(self, op_type: str, other: Value | float, swap: bool = False) -> Value:
        operand = other if isinstance(other, Value) else self.emitter.scalar(other, self.elem_type)
        return self.emitter.op(op_type, *((operand, self) if swap else (self, operand)))

    def __add__(self, other: Value | float) -> Value:
        return self._with("Add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._with("Sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._with("Mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._with("Div", other)

    def __radd__(self, other: float) -> Value:
        return self._with("Add", other, swap=True)

    def __rsub__(self, other: float) -> Value:
        return self._with("Sub", other, swap=True)

    def __rmul__(self, other: float) -> Value:
        return self._with("Mul", other, swap=True)

    def __rtruediv__(self, other: float) -> Value:
        return self._with("Div", other, swap=True)

    def __neg__(self) -> Value:
        return self.emitter.op("Neg", self)

    def __pow__(self, other: Value | float) -> Value:
        return self._with("Pow", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._with("Greater", other)

    def __lt__(self, other: Value | float) -> Value:
        return self._with("Less", other)

    def __ge__(self, other: Value | float) -> Value:
        return self._with("GreaterOrEqual", other)

    def __le__(self, other: Value | float) -> Value:
        return self._with("LessOrEqual", other)

    def equals(self, other: Value | float) -> Value:
        """Elementwise equality, a boolean value."""
        return self._with("Equal", other)

    def cast(self, elem_type: int) -> Value:
        """The value converted to another element type."""
        return self.emitter.op("Cast", self, to=elem_type)

    def cast_like(self, other: Value) -> Value:
        """The value converted to the element type of `other`."""
        return self.cast(other.elem_type)

    def reduce(self, kind: str, axes: Sequence[int] | Value | None, keepdims: bool = True) -> Value:
        """`ReduceSum`, `ReduceMean`, ... over `axes` (all axes when None)."""
        operands = [] if axes is None else [self.emitter.ints(axes)]
        return self.emitter.op(f"Reduce{kind}", self, *operands, keepdims=int(keepdims))

    def sum(self, axes: Sequence[int] | Value | None, keepdims: bool = True) -> Value:
        """Sum over `axes`."""
        return self.reduce("Sum", axes, keepdims)

    def mean(self, axes: Sequence[int] | Value | None, keepdims: bool = True) -> Value:
        """Mean over `axes`."""
        return self.reduce("Mean", axes, keepdims)

    def reshape(self, shape: Sequence[int] | Value) -> Value:
        """Reshape; 0 keeps a dimension, -1 is inferred."""
        return self.emitter.op("Reshape", self, self.emitter.ints(shape))

    def transpose(self, perm: Sequence[int]) -> Value:
        """Permute the axes."""
        return self if list(perm) == sorted(perm) else self.emitter.op("Transpose", self, perm=list(perm))

    def expand(self, shape: Sequence[int] | Value) -> Value:
        """Broadcast to a shape."""
        return self.emitter.op("Expand", self, self.emitter.ints(shape))

    def unsqueeze(self, axes: Sequence[int] | Value) -> Value:
        """Insert axes of length one."""
        return self.emitter.op("Unsqueeze", self, self.emitter.ints(axes))

    def squeeze(self, axes: Sequence[int] | Value) -> Value:
        """Drop axes of length one."""
        return self.emitter.op("Squeeze", self, self.emitter.ints(axes))

    def slice(
        self,
        starts: Sequence[int] | Value,
        ends: Sequence[int] | Value,
        axes: Sequence[int] | Value,
        steps: Sequence[int] | Value | None = None,
    ) -> Value:
        """Slice along `axes`."""
        operands = [self.emitter.ints(v) for v in (starts, ends, axes)]
        if steps is not None:
            operands.append(self.emitter.ints(steps))
        return self.emitter.op("Slice", self, *operands)

    def flip(self, axes: Sequence[int]) -> Value:
        """Reverse the order along `axes`."""
        n = len(axes)
        return self.slice([-1] * n, [-(2**62)] * n, axes, [-1] * n) if n else self

    def shape(self, start: int | None = None, end: int | None = None) -> Value:
        """The run-time shape, int64."""
        limits: dict[str, Any] = {name: v for name, v in (("start", start), ("end", end)) if v is not None}
        return self.emitter.op("Shape", self, **limits)


class Emitter:
    """Collects nodes with fresh names. Constants are nodes too, so the result fits graphs and functions."""

    def __init__(self, prefix: str, taken: Iterable[str] = ()) -> None:
        self.nodes: list[NodeProto] = []
        self._prefix = prefix
        self._taken = set(taken)
        self._count = 0
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], Value] = {}

    def fresh(self, hint: str) -> str:
        """A value name that nothing has yet."""
        while True:
            self._count += 1
            name = f"{self._prefix}{hint}_{self._count}"
            if name not in self._taken:
                return name

    def value(self, name: str, elem_type: int = TensorProto.FLOAT) -> Value:
        """An existing value of the graph."""
        return Value(self, name, elem_type)

    def op(self, op_type: str, *inputs: Value | None, domain: str = "", **attributes: Any) -> Value:
        """Emit a node with one output."""
        return self.ops(op_type, *inputs, count=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Value | None, count: int, domain: str = "", **attributes: Any
    ) -> list[Value]:
        """Emit a node with `count` outputs, of the element types that the standard says."""
        elem_types = _result_types("" if domain else op_type, inputs, count)
        if "to" in attributes:
            elem_types = [int(attributes["to"])]
        names = [self.fresh(op_type) for _ in range(count)]
        operands = ["" if v is None else v.name for v in inputs]
        node = helper.make_node(op_type, operands, names, domain=domain, **attributes)
        node.name = names[0]
        self.nodes.append(node)
        return [Value(self, name, elem_type) for name, elem_type in zip(names, elem_types, strict=True)]

    def constant(self, array: Array) -> Value:
        """A constant; equal constants are emitted once."""
        key = (array.tobytes(), str(array.dtype), array.shape)
        if key not in self._constants:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
            name = self.fresh("Constant")
            self.nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
            self._constants[key] = Value(self, name, tensor.data_type)
        return self._constants[key]

    def scalar(self, number: float, elem_type: int = TensorProto.FLOAT) -> Value:
        """A rank-0 constant."""
        return self.constant(np.asarray(number, dtype=helper.tensor_dtype_to_np_dtype(elem_type)))

    def ints(self, numbers: Sequence[int] | Value) -> Value:
        """A one-dimensional int64 constant (a value passes through)."""
        return numbers if isinstance(numbers, Value) else self.constant(np.asarray(numbers, dtype=np.int64))

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """Concatenate."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=axis)

    def filled(self, shape: Value, number: float, elem_type: int = TensorProto.FLOAT) -> Value:
        """A tensor of a run-time shape full of one number."""
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        result = self.op("ConstantOfShape", shape, value=numpy_helper.from_array(np.array([number], dtype)))
        result.elem_type = elem_type
        return result

    def matmul(self, a: Value, b: Value) -> Value:
        """Matrix product."""
        return self.op("MatMul", a, b)

    def where(self, condition: Value, a: Value, b: Value | float) -> Value:
        """Elementwise choice."""
        other = b if isinstance(b, Value) else self.scalar(b, a.elem_type)
        return self.op("Where", condition, a, other)


def _result_types(op_type: str, inputs: Sequence[Value | None], count: int) -> list[int]:
    """The element types of outputs: the one that there can be, else that of an input of the same type.

    Where the standard does not say, that of the first input.
    """
    present = [(place, value.elem_type) for place, value in enumerate(inputs) if value is not None]
    takes, gives = _types_in_standard(op_type)
    found = []
    for fixed, symbol in gives[:count]:
        alike = (t for place, t in present if takes and takes[min(place, len(takes) - 1)] == symbol)
        found.append(fixed or next(alike, present[0][1]))
    return found + [present[0][1]] * (count - len(found))


@cache
def _types_in_standard(op_type: str) -> tuple[list[str], list[tuple[int | None, str]]]:
    """The types that inputs and outputs have in the standard: symbols, and for outputs the one type if there is one."""
    if not defs.has(op_type):
        return [], []
    schema, gives = defs.get_schema(op_type), list[tuple[int | None, str]]()
    for output in schema.outputs:
        only = next(iter(output.types)) if len(output.types) == 1 else ""
        name = only[len("tensor(") : -1].upper() if only.startswith("tensor(") else ""
        gives.append((TensorProto.DataType.Value(name) if name else None, output.type_str))
    return [value.type_str for value in schema.inputs], gives


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values (strings decoded)."""
    result: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        result[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return result
