"""Gathers, scatters and selections."""

from __future__ import annotations

import numpy as np

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.ops.registry import gradient

Grads = list[Value | None]


@gradient("Gather")
def gather(row: Row) -> Grads:
    """Add the slices of dy at their places in zeros."""
    x, axis = row.x, row.axis(0)
    shape = row.shape_of(x)
    rank = row.rank(x)
    count = row.op("Size", row.input(1)).reshape([1])
    parts = [
        p for p in (_part(row, shape, 0, axis), count, _part(row, shape, axis + 1, rank)) if p is not None
    ]
    target = row.emitter.concat(parts, 0)
    index = row.input(1).reshape([-1, *[1] * (rank - 1 - axis)]).expand(target)
    zeros = row.emitter.filled(shape, 0.0, x.elem_type)
    return [row.op("ScatterElements", zeros, index, row.dy.reshape(target), axis=axis, reduction="add")]


def _part(row: Row, shape: Value, start: int, end: int) -> Value | None:
    return shape.slice([start], [end], [0]) if end > start else None


@gradient("GatherElements")
def gather_elements(row: Row) -> Grads:
    """Add every element of dy at its place."""
    axis, zeros = row.axis(0), row.zeros_like(row.x)
    return [row.op("ScatterElements", zeros, row.input(1), row.dy, axis=axis, reduction="add")]


@gradient("GatherND")
def gather_nd(row: Row) -> Grads:
    """Add the slices of dy at their places; batch_dims become leading coordinates."""
    index, dims = row.input(1), int(row.attr("batch_dims", 0))
    if dims:
        shape = row.shape(index)
        batch = shape[:dims] if shape else ()
        sizes = [d for d in batch if isinstance(d, int)]
        if shape is None or len(sizes) < dims:
            raise row.unsupported("batch_dims is not 0 and the sizes of the batch are not fixed")
        places = np.stack(list(np.indices(sizes, np.int64)), -1)  # (*sizes, dims)
        places = places.reshape([*sizes, *[1] * (len(shape) - 1 - dims), dims])
        last = row.emitter.ints([dims])
        target = row.emitter.concat([index.shape(0, -1), last], 0)
        index = row.emitter.concat([row.emitter.constant(places).expand(target), index], -1)
    return [row.op("ScatterND", row.zeros_like(row.x), index, row.dy, reduction="add")]


@gradient("ScatterElements", "Scatter")
def scatter_elements(row: Row) -> Grads:
    """All reductions."""
    return _scattered(row, "ScatterElements", "GatherElements", {"axis": row.axis(0)})


@gradient("ScatterND")
def scatter_nd(row: Row) -> Grads:
    """All reductions."""
    return _scattered(row, "ScatterND", "GatherND", {})


def _scattered(row: Row, scatter: str, gather: str, where: dict[str, int]) -> Grads:
    """`mul` needs updates that are not zero; of equal elements, `max` and `min` serve all."""
    x, index, updates = row.x, row.input(1), row.input(2)
    reduction = row.attr("reduction", "none")
    dx, du = row.op("Identity", row.dy), row.op(gather, row.dy, index, **where)
    if reduction == "none":
        dx = row.op(scatter, row.dy, index, row.zeros_like(updates), **where)
    elif reduction == "mul":
        ones = row.emitter.filled(x.shape(), 1.0, x.elem_type)
        dx = row.dy * row.op(scatter, ones, index, updates, reduction="mul", **where)
        du = du * row.op(gather, row.y, index, **where) / updates
    elif reduction in ("max", "min"):
        dx = row.dy * x.equals(row.y).cast_like(x)
        du = du * updates.equals(row.op(gather, row.y, index, **where)).cast_like(x)
    return [dx, None, du]


@gradient("TopK")
def top_k(row: Row) -> Grads:
    """The values came from the places in output 1."""
    axis, places = row.axis(-1), row.output(1)
    return [row.op("ScatterElements", row.zeros_like(row.x), places, row.dy, axis=axis)]
