"""Axes of inputs that a weight fixes whatever the file says: [N, ?, H, W] before a convolution of three channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from tgonnx.graph.declared import fixed_size, model_inputs
from tgonnx.graph.proto import attribute_of
from tgonnx.ops.aspects.tables import fixes
from tgonnx.ops.aspects.traits import traits_of

Shape = tuple[int, ...]


def forced_sizes(proto: onnx.ModelProto) -> dict[tuple[str, int], int]:
    """Input and axis -> size, for axes that are declared open and meet a weight of one size."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        constant = attribute_of(node, "value") if node.op_type == "Constant" else None
        if constant is not None:
            shapes[node.output[0]] = tuple(constant.dims)
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found: dict[tuple[str, int], int] = {}
    for value in model_inputs(proto):
        dims = value.type.tensor_type.shape.dim
        waiting = [
            (value.name, tuple(range(len(dims))))
        ]  # a value, and which axis of the input each of its axes is
        seen = {value.name}
        while waiting:
            name, order = waiting.pop()
            for node in users.get(name, ()):
                for axis, size in _met(node, name, shapes, len(order)):
                    if fixed_size(dims[order[axis]]) is None:
                        found[value.name, order[axis]] = size
                moved = _passed_on(node, name, shapes, order)
                if moved is not None and node.output[0] not in seen:
                    seen.add(node.output[0])
                    waiting.append((node.output[0], moved))
    return found


def _met(
    node: onnx.NodeProto, name: str, shapes: Mapping[str, Shape], rank: int
) -> Iterator[tuple[int, int]]:
    """The axis of a value of `rank` axes that a weight of the node fixes, with its size."""
    meets = fixes.get(node.op_type, node.domain)
    if meets is None or node.input[0] != name or len(node.input) < 2 or node.input[1] not in shapes:
        return
    if (found := meets(node, shapes[node.input[1]], rank)) is not None:
        yield found


def _passed_on(
    node: onnx.NodeProto, name: str, shapes: Mapping[str, Shape], order: tuple[int, ...]
) -> tuple[int, ...] | None:
    are = traits_of(node)
    if are.permutes:
        permutation = attribute_of(node, "perm", range(len(order))[::-1])
        return tuple(order[axis] for axis in permutation)
    others = [other for other in node.input if other and other != name]
    small = all(other in shapes and len(shapes[other]) <= len(order) for other in others)
    return order if (are.elementwise or are.keeps_shape) and small else None


def with_forced_sizes(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must feed, with the sizes that weights force."""
    forced, inputs = forced_sizes(proto), []
    for value in model_inputs(proto):
        declared = onnx.ValueInfoProto()
        declared.CopyFrom(value)
        for axis, dim in enumerate(declared.type.tensor_type.shape.dim):
            if (value.name, axis) in forced:
                dim.dim_value = forced[value.name, axis]
        inputs.append(declared)
    return inputs
