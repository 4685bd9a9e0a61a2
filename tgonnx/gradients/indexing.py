"""Gathers, scatters and selections."""

from __future__ import annotations

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
    """Add the slices of dy at their places."""
    if int(row.attr("batch_dims", 0)):
        raise row.unsupported("batch_dims is not 0")
    return [row.op("ScatterND", row.zeros_like(row.x), row.input(1), row.dy, reduction="add")]


@gradient("ScatterElements", "Scatter")
def scatter_elements(row: Row) -> Grads:
    """With reduction none or add."""
    axis, reduction, index = row.axis(0), row.attr("reduction", "none"), row.input(1)
    if reduction not in ("none", "add"):
        raise row.unsupported(f"reduction={reduction}")
    dx: Value | None = None
    if row.need(0):
        updates = row.input(2)
        zeros = row.zeros_like(updates)
        dx = row.op("Identity", row.dy)
        if reduction == "none":
            dx = row.op("ScatterElements", row.dy, index, zeros, axis=axis)
    return [dx, None, row.op("GatherElements", row.dy, index, axis=axis) if row.need(2) else None]


@gradient("ScatterND")
def scatter_nd(row: Row) -> Grads:
    """With reduction none or add."""
    reduction, index = row.attr("reduction", "none"), row.input(1)
    if reduction not in ("none", "add"):
        raise row.unsupported(f"reduction={reduction}")
    dx: Value | None = None
    if row.need(0):
        dx = row.op("Identity", row.dy)
        if reduction == "none":
            dx = row.op("ScatterND", row.dy, index, row.zeros_like(row.input(2)))
    return [dx, None, row.op("GatherND", row.dy, index) if row.need(2) else None]


@gradient("TopK")
def top_k(row: Row) -> Grads:
    """The values came from the places in output 1."""
    axis, places = row.axis(-1), row.output(1)
    return [row.op("ScatterElements", row.zeros_like(row.x), places, row.dy, axis=axis)]
