"""Reductions, cumulative sums and softmax."""

from __future__ import annotations

import math

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.ops.registry import gradient

Grads = list[Value | None]


def _axes(row: Row) -> list[int] | Value | None:
    """The reduced axes; None means all; an empty list means none."""
    if row.has(1):
        constant = row.constant(1)
        if constant is None:
            return row.input(1)
        if constant.size:
            return [int(a) for a in constant.reshape(-1)]
    elif row.attr("axes"):
        return [int(a) for a in row.attr("axes")]
    return [] if row.attr("noop_with_empty_axes", 0) else None


def _restore(row: Row, value: Value) -> Value:
    """A reduced value with its lost axes back, so that it broadcasts against the input."""
    axes = _axes(row)
    if row.attr("keepdims", 1) or (not isinstance(axes, Value) and not axes):
        return value  # a scalar broadcasts as it is
    if isinstance(axes, list):
        rank = row.rank(row.x)
        axes = sorted(a % rank for a in axes)
    return value.unsqueeze(axes)


def _full(row: Row, grad: Value) -> Value:
    return grad.expand(row.shape_of(row.x))


def _scale(row: Row) -> Value:
    """One over the number of reduced elements."""
    static_in, static_out = row.static(row.x), row.static(row.y)
    if static_in is not None and static_out is not None:
        return row.like(math.prod(static_out) / math.prod(static_in))
    return row.op("Size", row.y).cast_like(row.x) / row.op("Size", row.x).cast_like(row.x)


@gradient(
    "ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"
)
def reduce_smooth(row: Row) -> Grads:
    """dy expanded, times the derivative of the summand."""
    x, dy, kind = row.x, _restore(row, row.dy), row.node.op_type[6:]
    if kind in ("Sum", "Mean"):
        return [_full(row, dy if kind == "Sum" else dy * _scale(row))]
    if kind == "L1":
        return [dy * row.op("Sign", x)]
    if kind == "SumSquare":
        return [dy * x * 2.0]
    y = _restore(row, row.y)
    if kind == "L2":
        safe = row.op("Where", y > 0.0, y, row.like(1.0))
        return [dy / safe * x]
    if kind == "LogSum":
        return [_full(row, dy / row.op("Exp", y))]
    return [dy * row.op("Exp", x - y)]


@gradient("ReduceMax", "ReduceMin")
def reduce_extremum(row: Row) -> Grads:
    """Shared equally among the elements that attain the extremum."""
    hit = row.x.equals(_restore(row, row.y)).cast_like(row.x)
    axes = _axes(row)
    count = hit if axes == [] else hit.sum(axes)
    return [_restore(row, row.dy) / count * hit]


@gradient("ReduceProd")
def reduce_product(row: Row) -> Grads:
    """dy times the product of the others, which is not y / x where something is zero."""
    x = row.x
    zero = x.equals(0.0)
    safe = row.op("Where", zero, row.like(1.0), x)
    axes = row.input(1) if row.has(1) else None
    keep = {"keepdims": 1, "noop_with_empty_axes": int(row.attr("noop_with_empty_axes", 0))}

    def reduce(kind: str, value: Value) -> Value:
        return row.op(kind, value, *([axes] if axes else []), **keep)

    zeros, rest = reduce("ReduceSum", zero.cast_like(x)), reduce("ReduceProd", safe)
    none, one = zeros.equals(0.0).cast_like(x), zeros.equals(1.0).cast_like(x)
    others = row.op("Where", zero, rest * one, rest * none / safe)
    return [_restore(row, row.dy) * others]


@gradient("CumSum")
def cumulative_sum(row: Row) -> Grads:
    """The cumulative sum from the other end."""
    flags = {"exclusive": row.attr("exclusive", 0), "reverse": 1 - row.attr("reverse", 0)}
    return [row.op("CumSum", row.dy, row.input(1), **flags)]


@gradient("Softmax")
def softmax(row: Row) -> Grads:
    """y (dy - sum(y dy))."""
    axis = row.axis(-1)
    weighted = row.dy * row.y
    return [weighted - row.y * weighted.sum([axis])]


@gradient("LogSoftmax")
def log_softmax(row: Row) -> Grads:
    """dy - exp(y) sum(dy)."""
    return [row.dy - row.op("Exp", row.y) * row.dy.sum([row.axis(-1)])]
