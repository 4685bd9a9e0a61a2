"""Random inputs that a model can digest, made from the types and shapes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tgonnx.errors import UnsupportedError
from tgonnx.wellformed import fixed_size

# A value keeps its meaning as an index through these.
_CARRIERS = frozenset(
    (
        "Cast",
        "Identity",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Transpose",
        "Slice",
        "Concat",
        "Flatten",
        "Expand",
    )
)
_SEQUENCE = 8  # sizes of unknown axes that are neither batch nor space


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must feed: those without an initializer as default."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    defaults |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in defaults]


def random_feeds(
    model: onnx.ModelProto,
    rng: np.random.Generator,
    batch: int = 2,
    sizes: Mapping[str, int] | None = None,
    space: int = 64,
) -> dict[str, NDArray[Any]]:
    """One array for each input of the model.

    Floats are standard normal. Integers are ids below the smallest table that they index (`Gather`), else
    0 or 1; masks (by name) are all ones. Unknown axes: `sizes` by axis name; else `batch` for the first axis,
    `space` for the axes of images, 8 for the rest. Axes with one name get one size.

    Raises `UnsupportedError` for inputs that are not tensors of numbers.
    """
    bound = dict(sizes or {})
    limits = _index_limits(model)
    feeds = {}
    for value in model_inputs(model):
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or tensor.elem_type == TensorProto.STRING:
            raise UnsupportedError(f"input {value.name!r} is not a tensor of numbers; give real inputs")
        shape = _shape(tensor.shape.dim, bound, batch, space)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        feeds[value.name] = _draw(value.name, shape, dtype, limits.get(value.name, 2), rng)
    return feeds


def _shape(dims: Any, bound: dict[str, int], batch: int, space: int) -> tuple[int, ...]:
    shape = []
    for axis, dim in enumerate(dims):
        default = batch if axis == 0 else space if len(dims) >= 4 and axis >= 2 else _SEQUENCE
        if (size := fixed_size(dim)) is not None:
            shape.append(size)
        elif dim.dim_param:
            shape.append(bound.setdefault(dim.dim_param, default))
        else:
            shape.append(default)
    return tuple(shape)


def _draw(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], limit: int, rng: np.random.Generator
) -> NDArray[Any]:
    if dtype.kind in "iub":
        if "mask" in name.lower():
            return np.ones(shape, dtype)
        return rng.integers(0, 2 if dtype.kind == "b" else limit, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _index_limits(model: onnx.ModelProto) -> dict[str, int]:
    """For each input that reaches the indices of a Gather: the length of the shortest axis it indexes."""
    graph = model.graph
    tables = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for item in node.attribute:
                if item.name == "value":
                    tables[node.output[0]] = tuple(item.t.dims)
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    limits = {}
    for value in model_inputs(model):
        found = [limit for node in _reached(value.name, users) for limit in _limit(*node, tables)]
        if found:
            limits[value.name] = max(1, min(found))
    return limits


def _reached(start: str, users: Mapping[str, list[onnx.NodeProto]]) -> list[tuple[onnx.NodeProto, str]]:
    """The nodes that read the value `start`, as it is or carried; each with the name it is read by."""
    reached, waiting, seen = [], [start], {start}
    while waiting:
        name = waiting.pop()
        for node in users.get(name, []):
            reached.append((node, name))
            if node.op_type in _CARRIERS and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append(node.output[0])
    return reached


def _limit(node: onnx.NodeProto, read_as: str, tables: Mapping[str, tuple[int, ...]]) -> list[int]:
    """How far `read_as` may index as the index operand of `node`; [1] if the table's size is unknown."""
    if node.op_type not in ("Gather", "GatherElements") or len(node.input) < 2 or node.input[1] != read_as:
        return []
    axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
    table = tables.get(node.input[0])
    return [table[axis]] if table and -len(table) <= axis < len(table) else [1]
