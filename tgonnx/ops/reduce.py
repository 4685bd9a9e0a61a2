"""Reductions, and operators that rank or accumulate along an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from onnx import TensorProto

from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.gating import Gating
from tgonnx.ops.aspects.relations import Relation, Site, Tie
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.sums import Sum
from tgonnx.ops.aspects.tables import elements, gated, gradient, rule, sums
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Operand, View, same

ADDITIVE = "ReduceSum ReduceL1 ReduceL2 ReduceSumSquare".split()


EXTREME = "ReduceMax ReduceMin ReduceLogSumExp".split()


OTHER = "ReduceMean ReduceProd ReduceLogSum".split()


LARGE = 1e4  # far below any activation when subtracted, finite in float16


def _axes(row: Row) -> list[int] | Value | None:
    """The reduced axes; None means all; an empty list means none."""
    if row.has(1):
        constant = row.constant(1)
        if constant is None:
            return row.input(1)
        if constant.size:
            return [int(a) for a in constant.reshape(-1)]
    elif row.attribute("axes"):
        return [int(a) for a in row.attribute("axes")]
    return [] if row.attribute("noop_with_empty_axes", 0) else None


def _restore(row: Row, value: Value) -> Value:
    """A reduced value with its lost axes back, so that it broadcasts against the input."""
    axes = _axes(row)
    if row.attribute("keepdims", 1) or (not isinstance(axes, Value) and not axes):
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


def reduced_axes(view: View) -> list[int] | None:
    """The axes of a reduction; None if they are not known."""
    rank = view.input(0).rank
    axes = view.constant(1, "axes")
    if axes is None and view.has(1):
        return None
    if not axes:
        return [] if view.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def surviving(x: Operand, y: Operand, axes: list[int], keepdims: bool) -> Iterator[Relation]:
    """The axes that are not reduced go through."""
    position = 0
    for axis, labels in enumerate(x.axes):
        if axis not in axes:
            yield Tie(labels, y[axis if keepdims else position])
            position += 1


SUMS: dict[str, Callable[[list[int]], Sum]] = {
    "ReduceSum": Sum,
    "ReduceMean": partial(Sum, averages=True),
    "ReduceL1": partial(Sum, of="magnitudes"),
    "ReduceL2": partial(Sum, of="squares", power=0.5),
    "ReduceSumSquare": partial(Sum, of="squares"),
}


@sums(*SUMS)
def summed(view: View) -> Sum | None:
    axes = reduced_axes(view)
    return SUMS[view.op_type](axes) if axes else None


traits(*ADDITIVE, *EXTREME, *OTHER, are=Traits(reduces=True))
elements("ReduceSum")(lambda asked, *parts: asked.algebra.add(*parts))
elements("ReduceProd")(lambda asked, *parts: asked.algebra.product(parts))


@rule(*ADDITIVE, *EXTREME, *OTHER)
def reduction(view: View) -> Iterator[Relation]:
    x, axes = view.input(0), reduced_axes(view)
    if axes is None:
        return
    yield from surviving(x, view.output(), axes, bool(view.attribute("keepdims", 1)))
    kind = "contract" if view.op_type in ADDITIVE else "normalize"
    for axis in axes:
        yield Site(kind, 0, axis, x[axis])  # type: ignore[arg-type]


@gated("ReduceMean")
def gated_mean(g: Gating) -> None:
    g.finish(g.mean(g.node.inputs[0], reduced_axes(g.view) or [], g.view.attribute("keepdims", 1)))


@gated("ReduceProd", "ReduceLogSum")
def gated_product(g: Gating) -> None:
    """Closed labels count as 1 in a product and as 0 in a sum."""
    x = g.emit("Mul", g.node.inputs[0], g.mask)
    if g.view.op_type == "ReduceProd":
        x = g.emit("Add", x, g.emit("Sub", g.scalar(1.0), g.mask))
    _reduce_like(g, x)


@gradient("ReduceProd")
def reduce_product(row: Row) -> Grads:
    """dy times the product of the others, which is not y / x where something is zero."""
    x = row.x
    zero = x.equals(0.0)
    safe = row.op("Where", zero, row.like(1.0), x)
    axes = row.input(1) if row.has(1) else None
    keep = {"keepdims": 1, "noop_with_empty_axes": int(row.attribute("noop_with_empty_axes", 0))}

    def reduce(kind: str, value: Value) -> Value:
        return row.op(kind, value, *([axes] if axes else []), **keep)

    zeros, rest = reduce("ReduceSum", zero.cast_like(x)), reduce("ReduceProd", safe)
    none, one = zeros.equals(0.0).cast_like(x), zeros.equals(1.0).cast_like(x)
    others = row.op("Where", zero, rest * one, rest * none / safe)
    return [_restore(row, row.dy) * others]


@gated("ReduceMax", "ReduceLogSumExp", "ReduceMin")
def gated_extreme(g: Gating) -> None:
    """Closed labels are moved far away: x * mask -+ LARGE * (1 - mask)."""
    away = g.emit("Mul", g.emit("Sub", g.mask, g.scalar(1.0)), g.scalar(LARGE))
    x = g.emit("Mul", g.node.inputs[0], g.mask)
    _reduce_like(g, g.emit("Sub" if g.view.op_type == "ReduceMin" else "Add", x, away))


def _reduce_like(g: Gating, x: object) -> None:
    g.finish(g.reduce(g.view.op_type, x, reduced_axes(g.view) or [], g.view.attribute("keepdims", 1)))


@gradient("ReduceMax", "ReduceMin")
def reduce_extremum(row: Row) -> Grads:
    """Shared equally among the elements that attain the extremum."""
    hit = row.x.equals(_restore(row, row.y)).cast_like(row.x)
    axes = _axes(row)
    count = hit if axes == [] else hit.sum(axes)
    return [_restore(row, row.dy) / count * hit]


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


traits("Softmax", "LogSoftmax", "Hardmax", are=Traits(keeps_shape=True))
traits("Hardmax", are=Traits(rounds=True, stops=True))


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(view: View) -> Iterator[Relation]:
    x = view.input(0)
    if view.opset >= 13:
        skip = [view.attribute("axis", -1) % x.rank]
    else:
        skip = list(range(view.attribute("axis", 1) % x.rank, x.rank))
    yield from same(x, view.output(), skip=skip)


@gradient("LogSoftmax")
def log_softmax(row: Row) -> Grads:
    """dy - exp(y) sum(dy)."""
    return [row.dy - row.op("Exp", row.y) * row.dy.sum([row.axis(-1)])]


@gradient("Softmax")
def softmax_gradient(row: Row) -> Grads:
    """y (dy - sum(y dy))."""
    axis = row.axis(-1)
    weighted = row.dy * row.y
    return [weighted - row.y * weighted.sum([axis])]


@rule("CumSum", "CumProd")
def cumulative(view: View) -> Iterator[Relation]:
    x, axis = view.input(0), view.known(1)
    if axis is not None:
        yield from same(x, view.output(), skip=[int(np.ravel(axis)[0]) % x.rank])


@gradient("CumSum")
def cumulative_sum(row: Row) -> Grads:
    """The cumulative sum from the other end."""
    flags = {"exclusive": row.attribute("exclusive", 0), "reverse": 1 - row.attribute("reverse", 0)}
    return [row.op("CumSum", row.dy, row.input(1), **flags)]


@gradient("CumProd")
def cumulative_product(row: Row) -> Grads:
    """For every element the cumulative product without it, by putting 1 in its place: right at zeros, too.

    Takes the square of the axis in memory.
    """
    where = row.constant(1)
    if where is None:
        raise row.unsupported("its axis is not a constant")
    rank, op = row.rank(row.x), row.op
    axis = int(np.ravel(where)[0]) % rank
    length = row.x.shape(axis, axis + 1)
    square = row.emitter.concat([length, length], 0)
    ones = row.emitter.filled(square, 1.0, row.x.elem_type)
    aside = row.emitter.concat(
        [square, row.emitter.ints([1] * (rank - 1 - axis))], 0
    )  # [left out, place, ...]
    out = op("EyeLike", ones).reshape(aside) > 0.0
    product = op(
        "CumProd",
        row.emitter.where(out, row.like(1.0), row.x.unsqueeze([axis])),
        row.emitter.scalar(axis + 1, TensorProto.INT64),
        **{name: row.attribute(name, 0) for name in ("exclusive", "reverse")},
    )
    diagonal = row.emitter.scalar(int(row.attribute("exclusive", 0)), TensorProto.INT64)
    reaches = op("Trilu", ones, diagonal, upper=1)  # the places whose product holds the one left out
    if row.attribute("reverse", 0):
        reaches = reaches.transpose([1, 0])
    return [(product * reaches.reshape(aside) * row.dy.unsqueeze([axis])).sum([axis + 1], False)]


traits("ArgMax", "ArgMin", are=Traits(rounds=True, stops=True))


@rule("ArgMax", "ArgMin")
def arg_extreme(view: View) -> Iterator[Relation]:
    x = view.input(0)
    axes = [view.attribute("axis", 0) % x.rank]
    yield from surviving(x, view.output(), axes, bool(view.attribute("keepdims", 1)))


traits("DFT", are=Traits(sizes=(1,), grows=True))


@rule("DFT")
def fourier_transform(view: View) -> Iterator[Relation]:
    """Along one axis; the last one holds real and imaginary parts."""
    x, axis = view.input(0), [view.attribute("axis", 1)] if view.opset < 20 else view.constant(2, "axis")
    if axis is None and view.has(2):
        return
    yield from same(x, view.output(), skip=[(axis or [-2])[0] % x.rank, x.rank - 1])


traits("STFT", are=Traits(sizes=(1, 3), grows=True))


@rule("STFT")
def short_time_fourier_transform(view: View) -> Iterator[Relation]:
    yield Tie(view.input(0)[0], view.output()[0])


traits("TopK", are=Traits(sizes=(1,), rounds=True))


@rule("TopK")
def top_k(view: View) -> Iterator[Relation]:
    x = view.input(0)
    for y in view.outputs:
        if y is not None:
            yield from same(x, y, skip=[view.attribute("axis", -1) % x.rank])


@gradient("TopK")
def top_k_gradient(row: Row) -> Grads:
    """The values came from the places in output 1."""
    axis, places = row.axis(-1), row.output(1)
    return [row.op("ScatterElements", row.zeros_like(row.x), places, row.dy, axis=axis)]
