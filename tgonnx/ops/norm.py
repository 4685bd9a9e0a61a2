"""Normalisations: which channels share statistics, and the statistics over the open channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from tgonnx.labels import Alternative, Choice, Free, Labels, Relation, Site, Tie
from tgonnx.ops.cut import Cut
from tgonnx.ops.gating import Gating
from tgonnx.ops.registry import gated, resize, rule
from tgonnx.ops.view import Operand, View, broadcast, same


@rule("BatchNormalization")
def batch_norm(view: View) -> Iterator[Relation]:
    x = view.input(0)
    training = bool(view.attribute("training_mode", 0))
    if not view.attribute("spatial", 1):  # opset 8 and below: statistics of each position
        return
    axes = [axis for axis in range(x.rank) if axis != 1] if training else []
    extras = [extra for extra in view.outputs[1:] if extra is not None]
    for operand in [*(view.input(i) for i in range(1, 5)), *extras]:
        yield Tie(operand[0], x[1])
    yield from _standardized(view, axes, extras)


@gated("BatchNormalization")
def gated_batch_norm(g: Gating) -> None:
    rank = g.view.input(0).rank
    axes = [axis for axis in range(rank) if axis != 1]
    y = g.standardize(g.node.inputs[0], axes, g.view.attribute("epsilon", 1e-5))
    finish_affine(g, y, 1, [1, -1] + [1] * (rank - 2))


def finish_affine(g: Gating, y: gs.Variable, scale: int, shape: list[int] | None = None) -> None:
    """Scale and shift `y` by the node's inputs `scale` and `scale + 1`, where they are there."""
    for op_type, i in (("Mul", scale), ("Add", scale + 1)):
        if g.view.has(i):
            operand = g.node.inputs[i]
            if shape is not None:
                operand = g.emit("Reshape", operand, g.constant(np.array(shape, np.int64)))
            y = g.emit(op_type, y, operand)
    g.finish(y)


def _standardized(view: View, axes: list[int], extras: Sequence[Operand] = ()) -> Iterator[Relation]:
    """Statistics over `axes`. The gated form makes the first output only: with `extras`, the axes stay."""
    x = view.input(0)
    yield from same(x, view.output(), skip=axes if extras else ())
    for axis in axes if not extras else ():
        yield Site("normalize", 0, axis, x[axis])


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(view: View) -> Iterator[Relation]:
    x, first = view.input(0), view.attribute("axis", -1) % view.input(0).rank
    if any(extra is not None for extra in view.outputs[1:]):  # the gated form makes the first output only
        return
    yield from broadcast([view.inputs[i] for i in (1, 2) if view.has(i)], view.output())
    yield from _standardized(view, list(range(first, x.rank)))


@gated("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def gated_layer_norm(g: Gating) -> None:
    rank = g.view.input(0).rank
    axes = list(range(g.view.attribute("axis", -1) % rank, rank))
    center = g.view.op_type == "LayerNormalization"
    y = g.standardize(g.node.inputs[0], axes, g.view.attribute("epsilon", 1e-5), center)
    finish_affine(g, y, 1)


@rule("InstanceNormalization")
def instance_norm(view: View) -> Iterator[Relation]:
    x = view.input(0)
    yield Tie(view.input(1)[0], x[1])
    yield Tie(view.input(2)[0], x[1])
    yield from _standardized(view, list(range(2, x.rank)))


@gated("InstanceNormalization")
def gated_instance_norm(g: Gating) -> None:
    rank = g.view.input(0).rank
    y = g.standardize(g.node.inputs[0], list(range(2, rank)), g.view.attribute("epsilon", 1e-5))
    finish_affine(g, y, 1, [1, -1] + [1] * (rank - 2))


@rule("GroupNormalization")
def group_norm(view: View) -> Iterator[Relation]:
    x, y, groups = view.input(0), view.output(), view.attribute("num_groups")
    yield Tie(x[0], y[0])
    by_group = x[1].reshape(groups, -1)
    whole: list[Tie | Free | Site] = [_spread(by_group[:, :1], by_group), Tie(x[1], y[1])]
    inside: list[Tie | Free | Site] = [_spread(by_group[:1], by_group), Tie(x[1], y[1])]
    for i in (1, 2):
        scale = view.input(i)[0]
        if len(scale) == len(x[1]):
            whole.append(Tie(scale, x[1]))
            inside.append(Tie(scale, x[1]))
        else:  # opset 18: one scale for each group
            whole.append(Tie(scale, by_group[:, 0]))
    inside.append(Site("normalize", 0, 1, x[1]))
    yield Choice((
        Alternative("whole groups", by_group[:, 0], tuple(whole)),
        Alternative("in each group", by_group[0], tuple(inside)),
    ))  # fmt: skip


def _spread(first: Labels, grouped: Labels) -> Tie:
    return Tie(np.broadcast_to(first, grouped.shape), grouped)


@resize("GroupNormalization")
def resize_group_norm(view: View, cut: Cut) -> None:
    groups = view.attribute("num_groups")
    cut.set_attribute("num_groups", int(cut.keep(view.input(0)[1]).reshape(groups, -1).any(axis=1).sum()))


@gated("GroupNormalization")
def gated_group_norm(g: Gating) -> None:
    """[n, c, ...] is seen as [n, groups, c / groups, rest]; the mask likewise."""
    x, groups = g.view.input(0), g.view.attribute("num_groups")
    each = len(x[1]) // groups
    split = g.emit("Reshape", g.node.inputs[0], g.constant(np.array([0, groups, each, -1], np.int64)))
    g.mask = g.emit("Reshape", g.mask, g.constant(np.array([1, groups, each, 1], np.int64)))
    y = g.standardize(split, [2, 3], g.view.attribute("epsilon", 1e-5))
    if len(g.view.input(1)[0]) == len(x[1]):
        y = g.emit("Reshape", y, g.emit("Shape", g.node.inputs[0]))
        finish_affine(g, y, 1, [1, -1] + [1] * (x.rank - 2))
        return
    for op_type, i in (("Mul", 1), ("Add", 2)):  # opset 18: one scale for each group
        operand = g.emit("Reshape", g.node.inputs[i], g.constant(np.array([1, groups, 1, 1], np.int64)))
        y = g.emit(op_type, y, operand)
    g.finish(g.emit("Reshape", y, g.emit("Shape", g.node.inputs[0])))


@rule("LpNormalization")
def lp_norm(view: View) -> Iterator[Relation]:
    x, axis = view.input(0), view.attribute("axis", -1) % view.input(0).rank
    yield from same(x, view.output())
    yield Site("normalize", 0, axis, x[axis])


@gated("LpNormalization")
def gated_lp_norm(g: Gating) -> None:
    rank, order = g.view.input(0).rank, g.view.attribute("p", 2)
    x = g.node.inputs[0]
    norm = g.reduce(f"ReduceL{order}", g.emit("Mul", x, g.mask), [g.view.attribute("axis", -1) % rank])
    g.finish(g.emit("Div", x, norm))


@rule("LRN")
def local_response_norm(view: View) -> Iterator[Relation]:
    yield from same(view.input(0), view.output(), skip=[1])


@rule("MeanVarianceNormalization")
def mean_variance_norm(view: View) -> Iterator[Relation]:
    x = view.input(0)
    yield from _standardized(view, [axis % x.rank for axis in view.attribute("axes", [0, 2, 3])])


@gated("MeanVarianceNormalization")
def gated_mean_variance_norm(g: Gating) -> None:
    x = g.node.inputs[0]
    axes = [axis % g.view.input(0).rank for axis in g.view.attribute("axes", [0, 2, 3])]
    x = g.emit("Sub", x, g.mean(x, axes))
    deviation = g.emit("Sqrt", g.mean(g.emit("Mul", x, x), axes))
    g.finish(g.emit("Div", x, g.emit("Add", deviation, g.scalar(1e-9))))
