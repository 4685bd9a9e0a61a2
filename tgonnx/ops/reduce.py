"""Reductions, and operators that rank or accumulate along an axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tgonnx.labels import Relation, Site, Tie
from tgonnx.ops.gating import Gating
from tgonnx.ops.registry import gated, rule
from tgonnx.ops.view import Operand, View, same

ADDITIVE = "ReduceSum ReduceL1 ReduceL2 ReduceSumSquare".split()
EXTREME = "ReduceMax ReduceMin ReduceLogSumExp".split()
OTHER = "ReduceMean ReduceProd ReduceLogSum".split()
LARGE = 1e4  # far below any activation when subtracted, finite in float16


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


@gated("ReduceMax", "ReduceLogSumExp", "ReduceMin")
def gated_extreme(g: Gating) -> None:
    """Closed labels are moved far away: x * mask -+ LARGE * (1 - mask)."""
    away = g.emit("Mul", g.emit("Sub", g.mask, g.scalar(1.0)), g.scalar(LARGE))
    x = g.emit("Mul", g.node.inputs[0], g.mask)
    _reduce_like(g, g.emit("Sub" if g.view.op_type == "ReduceMin" else "Add", x, away))


def _reduce_like(g: Gating, x: object) -> None:
    g.finish(g.reduce(g.view.op_type, x, reduced_axes(g.view) or [], g.view.attribute("keepdims", 1)))


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(view: View) -> Iterator[Relation]:
    x = view.input(0)
    if view.opset >= 13:
        skip = [view.attribute("axis", -1) % x.rank]
    else:
        skip = list(range(view.attribute("axis", 1) % x.rank, x.rank))
    yield from same(x, view.output(), skip=skip)


@rule("CumSum", "CumProd")
def cumulative(view: View) -> Iterator[Relation]:
    x, axis = view.input(0), view.known(1)
    if axis is not None:
        yield from same(x, view.output(), skip=[int(np.ravel(axis)[0]) % x.rank])


@rule("ArgMax", "ArgMin")
def arg_extreme(view: View) -> Iterator[Relation]:
    x = view.input(0)
    axes = [view.attribute("axis", 0) % x.rank]
    yield from surviving(x, view.output(), axes, bool(view.attribute("keepdims", 1)))


@rule("TopK")
def top_k(view: View) -> Iterator[Relation]:
    x = view.input(0)
    for y in view.outputs:
        if y is not None:
            yield from same(x, y, skip=[view.attribute("axis", -1) % x.rank])
