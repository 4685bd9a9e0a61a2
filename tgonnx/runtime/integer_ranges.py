"""What integers an input may hold: rows of the tables that it indexes, and the numbers that it is compared with."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tgonnx.graph.declared import fixed_size
from tgonnx.graph.proto import attribute_of
from tgonnx.ops.aspects.traits import EACH, picked, traits_of
from tgonnx.runtime.measure import Array
from tgonnx.runtime.noise import reached_from

_MOST_HINTS = 64
_FARTHEST = 2**31  # what is compared with more has no bound: it is the largest integer, for one


@dataclass(frozen=True)
class Range:
    """The integers from `low` to `high`, both included; `known` if the graph says so. `hints` are worth trying."""

    low: int = 0
    high: int = 1
    known: bool = False
    hints: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Affine:
    """The value times * input + plus."""

    times: float = 1.0
    plus_low: float = 0.0
    plus_high: float = 0.0

    def of(self, node: onnx.NodeProto, position: int, constant: Array) -> _Affine:
        """What an arithmetic node makes of it, together with a constant."""
        low, high = float(constant.min()), float(constant.max())
        does = traits_of(node)
        if does.times:
            return _Affine(self.times * high, *sorted((self.plus_low * high, self.plus_high * high)))
        if does.plus > 0:
            return _Affine(self.times, self.plus_low + low, self.plus_high + high)
        if position == 0:  # value - constant
            return _Affine(self.times, self.plus_low - high, self.plus_high - low)
        return _Affine(-self.times, low - self.plus_high, high - self.plus_low)

    def inputs_for(self, rows: int) -> tuple[float, float]:
        """The inputs for which the value is within 0 and rows - 1."""
        ends = (-self.plus_low / self.times, (rows - 1 - self.plus_high) / self.times)
        return min(ends), max(ends)


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.users: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        self.makers: dict[str, onnx.NodeProto] = {}
        for node in model.graph.node:
            if node.op_type == "Constant":
                tensor = next((item.t for item in node.attribute if item.name == "value"), None)
                if tensor is not None:
                    self.constants[node.output[0]] = tensor
            for position, name in enumerate(node.input):
                self.users[name].append((node, position))
            for name in node.output:
                self.makers[name] = node

    def small(self, name: str) -> Array | None:
        """The value of a small stored tensor of numbers."""
        tensor = self.constants.get(name)
        if tensor is None or not 0 < int(np.prod(tensor.dims)) <= 4096:
            return None
        value = numpy_helper.to_array(tensor)
        return value if value.dtype.kind in "iuf" else None

    def rows(self, name: str, axis: int) -> int | None:
        """The length of an axis of a table that is stored, or made from a stored one number by number."""
        if (tensor := self.constants.get(name)) is not None:
            return int(tensor.dims[axis]) if -len(tensor.dims) <= axis < len(tensor.dims) else None
        node = self.makers.get(name)
        if node is None or not node.input:
            return None
        are = traits_of(node)
        if are.permutes:
            order = attribute_of(node, "perm")
            return self.rows(node.input[0], order[axis]) if order else None
        return self.rows(node.input[0], axis) if are.elementwise or are.keeps_shape else None


def decides_sizes(model: onnx.ModelProto, name: str) -> bool:
    """Whether how large something is, or how often it is done, depends on the value of an input."""
    reached = reached_from(model, [name])
    return any(reached & set(picked(node.input, traits_of(node).sizes)) for node in model.graph.node)


def settings_to_try(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> list[Array]:
    """Values for an input that decides on sizes, to be tried in turn: what the file says of the result, and plain ones.

    What the file says may be wrong: it is tried, never believed.
    """
    graph, name = _Graph(model), value.name
    shape = tuple(fixed_size(dim) or 1 for dim in value.type.tensor_type.shape.dim)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    found = [np.array(dims, dtype) for dims in _stated(model, graph, name) if (len(dims),) == shape]
    if len(shape) == 1:
        found.append(
            np.array([0] * (shape[0] - 1) + [-1], dtype)
        )  # the shape that is there, flattened behind
    found += [np.full(shape, number, dtype) for number in (1, 2, 4, 8)]
    return found


def _stated(model: onnx.ModelProto, graph: _Graph, name: str) -> list[list[int]]:
    """The shapes stated of what is made with the sizes in a value, and those of what it is made from."""
    values = (*model.graph.value_info, *model.graph.output, *model.graph.input)
    stated = {value.name: [fixed_size(dim) for dim in value.type.tensor_type.shape.dim] for value in values}
    names = [each for node, _ in graph.users[name] for each in (*node.output, *node.input[:1])]
    shapes = [stated[each] for each in names if each in stated]
    return [[size for size in sizes if size] for sizes in shapes if all(sizes)]


def integer_ranges(model: onnx.ModelProto, inputs: list[onnx.ValueInfoProto]) -> dict[str, Range]:
    """The range of each input that the graph says something of."""
    graph = _Graph(model)
    found = {value.name: _range(graph, value.name) for value in inputs}
    ranges = {name: span for name, span in found.items() if span is not None}
    for name, span in ranges.items():
        if span.hints and decides_sizes(model, name):  # what is compared with a million need not be that long
            ranges[name] = replace(span, hints=())
    return ranges


def _range(graph: _Graph, start: str) -> Range | None:
    low, high, hints = -np.inf, np.inf, set()
    waiting, seen = [(start, _Affine())], {start}
    while waiting:
        name, affine = waiting.pop()
        for node, position in graph.users[name]:
            if (rows := _rows(graph, node, position)) and affine.times:
                least, most = affine.inputs_for(rows)
                low, high = max(low, least), min(high, most)
            elif traits_of(node).compares and affine.times:
                hints |= _about(graph.small(node.input[1 - position]), affine)
            follows = _through(graph, node, position, affine)
            if follows is not None and node.output[0] not in seen:
                seen.update(node.output)
                waiting += [(output, follows) for output in node.output]
    first, last = int(np.ceil(low)) if np.isfinite(low) else 0, np.floor(high)
    if np.isfinite(last):
        return Range(first, max(first, int(last)), True, tuple(sorted(hints)))
    return Range(hints=tuple(sorted(hints))) if hints else None


def _about(constant: Array | None, affine: _Affine) -> set[int]:
    """The integers at which a comparison with a constant turns: those that reach it, and their neighbours."""
    if constant is None or affine.plus_low != affine.plus_high:
        return set()
    exact = (constant.astype(np.float64).ravel()[:_MOST_HINTS] - affine.plus_low) / affine.times
    turning = {int(np.floor(item)) for item in exact if np.abs(item) < _FARTHEST}
    beside = {item + step for item in turning for step in (-1, 1)}
    return turning | {item for item in beside if item >= 0}  # below zero only what the graph names itself


def _rows(graph: _Graph, node: onnx.NodeProto, position: int) -> int | None:
    """How many rows the table has that a node looks up with this operand; None if it does not, or nobody knows."""
    table = dict(traits_of(node).looks_up).get(position)
    return None if table is None else graph.rows(node.input[table], attribute_of(node, "axis", 0))


def _through(graph: _Graph, node: onnx.NodeProto, position: int, affine: _Affine) -> _Affine | None:
    """What becomes of the input in a node's output; None where it is no index any more."""
    does = traits_of(node)
    if does.plus or does.times > 0:
        constant = graph.small(node.input[1 - position])
        return None if constant is None else affine.of(node, position, constant)
    return affine if does.carries == EACH or position in does.carries else None
