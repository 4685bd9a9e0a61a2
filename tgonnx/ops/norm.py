"""Normalisations: which channels share statistics, and the statistics over the open channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.gating import Gating
from tgonnx.ops.aspects.relations import Alternative, Choice, Free, Labels, Relation, Site, Tie
from tgonnx.ops.aspects.row import Grads, Outputs, Row, Shapes
from tgonnx.ops.aspects.sums import Sum
from tgonnx.ops.aspects.tables import definition, fixes, gated, gradient, resize, rule, sizes, sums
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Operand, View, broadcast, same

if TYPE_CHECKING:  # heavy, and needed for gates only
    import onnx_graphsurgeon as gs

traits("BatchNormalization", are=Traits(weights=(1, 2), statistics=(3, 4), keeps_shape=True))


@fixes("BatchNormalization", "InstanceNormalization")
def channels(node: NodeProto, weight: tuple[int, ...], rank: int) -> tuple[int, int] | None:
    return (1, weight[0]) if rank > 1 else None


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


@gradient("BatchNormalization")
def batch_normalization(row: Row) -> Grads:
    """X (N, C, space). Training mode: with momentum 0 the outputs 1 and 2 are the batch statistics."""
    x, scale, dy = row.x, row.input(1), row.dy
    rank, epsilon = row.rank(x), float(row.attribute("epsilon", 1e-5))
    axes = [0, *range(2, rank)]
    training = bool(row.attribute("training_mode", 0))
    if not training:
        mean, variance = row.input(3), row.input(4)
    elif float(row.attribute("momentum", 0.9)) == 0.0:
        mean, variance = row.output(1), row.output(2)
    else:
        mean = x.mean(axes, False)
        centred = x - _channels(mean, rank)
        variance = (centred * centred).mean(axes, False)
    inverse = 1.0 / row.op("Sqrt", variance + epsilon)
    if not (row.need(0) or row.need(1) or row.need(2)):
        return []
    dbias = dy.sum(axes, False)
    if not training and not row.need(1):
        return [
            _affine(row, dy, scale * inverse) if row.need(0) else None,
            None,
            dbias if row.need(2) else None,
        ]
    centred = _affine(row, x, None, -mean)
    dscale = (dy * centred).sum(axes, False) * inverse
    dx = None
    if row.need(0):
        a = scale * inverse
        if training:
            count = row.op("Size", x).cast_like(x) / row.op("Size", mean).cast_like(x)
            static = row.static(x)
            if static is not None:
                count = row.like(float(math.prod(static) // static[1]))
            dx = _affine(row, dy, a, -(a * dbias / count)) - _affine(
                row, centred, a * inverse * dscale / count
            )
        else:
            dx = _affine(row, dy, a)
    return [dx, dscale, dbias]


def _channels(vector: Value, rank: int) -> Value:
    """A (C) vector as (C, 1, ...), to broadcast against (N, C, space)."""
    return vector.unsqueeze(list(range(1, rank - 1))) if rank > 2 else vector


def _affine(row: Row, x: Value, scale: Value | None, bias: Value | None = None) -> Value:
    """scale x + bias per channel; an inference BatchNormalization does it in one fast pass."""
    some = scale or bias
    assert some is not None
    one = row.op("ConstantOfShape", some.shape(), value=_tensor(1.0, x.elem_type))
    zero = row.op("ConstantOfShape", some.shape(), value=_tensor(0.0, x.elem_type))
    one.elem_type = zero.elem_type = x.elem_type
    return row.op("BatchNormalization", x, scale or one, bias or zero, zero, one, epsilon=0.0)


def _tensor(number: float, elem_type: int) -> object:
    import numpy as np
    from onnx import helper, numpy_helper

    return numpy_helper.from_array(np.array([number], helper.tensor_dtype_to_np_dtype(elem_type)))


def _normalized(row: Row, x: Value, axes: list[int], epsilon: float) -> tuple[Value, Value]:
    """(x - mean) / std over `axes`, and 1 / std."""
    centred = x - x.mean(axes)
    inverse = 1.0 / row.op("Sqrt", (centred * centred).mean(axes) + epsilon)
    return centred * inverse, inverse


def _denormalize(dn: Value, normalized: Value, inverse: Value, axes: list[int]) -> Value:
    """Gradient through (x - mean) / std."""
    return inverse * (dn - dn.mean(axes) - normalized * (dn * normalized).mean(axes))


traits("LayerNormalization", are=Traits(weights=(1, 2), keeps_shape=True, in_runtime=True))
traits("RMSNormalization", are=Traits(weights=(1,), keeps_shape=True))
traits("SimplifiedLayerNormalization", are=Traits(keeps_shape=True, in_runtime=True))


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


@gradient("RMSNormalization")
def rms_normalization(row: Row) -> Grads:
    """x / rms(x) over the axes from `axis` on, times scale."""
    x, dy, scale = row.x, row.dy, row.input(1)
    axes = list(range(row.axis(-1), row.rank(x)))
    inverse = 1.0 / row.op("Sqrt", (x * x).mean(axes) + float(row.attribute("epsilon", 1e-5)))
    n, dn = x * inverse, dy * scale
    dx = inverse * (dn - n * (dn * n).mean(axes)) if row.need(0) else None
    return [dx, row.unbroadcast(dy * n, scale) if row.need(1) else None]


@definition("LayerNormalization")
def layer_norm_definition(row: Row, opset: int) -> Outputs | None:
    """onnxruntime has this operator in older opsets than the standard."""
    if opset >= 17:
        return None
    axes = list(range(row.axis(-1), row.rank(row.x)))
    y = normalised(row, row.x, axes, float(row.attribute("epsilon", 1e-5)), center=True) * row.input(1)
    return [y + row.input(2) if row.has(2) else y]


@definition("SimplifiedLayerNormalization")
def simplified_layer_norm_definition(row: Row, opset: int) -> Outputs:
    """Division by the root mean square; onnxruntime keeps it in the standard domain, where it has no schema."""
    axes = list(range(row.axis(-1), row.rank(row.x)))
    return [normalised(row, row.x, axes, float(row.attribute("epsilon", 1e-5)), center=False) * row.input(1)]


def normalised(row: Row, x: Value, axes: list[int], epsilon: float, center: bool) -> Value:
    centred = x - x.mean(axes) if center else x
    return centred / row.op("Sqrt", (centred * centred).mean(axes) + epsilon)


@gradient("LayerNormalization")
def layer_normalization(row: Row) -> Grads:
    """Statistics over the axes from `axis` on; scale and bias broadcast."""
    x, dy = row.x, row.dy
    axes = list(range(row.axis(-1), row.rank(x)))
    n, inverse = _normalized(row, x, axes, float(row.attribute("epsilon", 1e-5)))
    dscale = row.unbroadcast(dy * n, row.input(1)) if row.need(1) else None
    dbias = row.unbroadcast(dy, row.input(2)) if row.need(2) else None
    return [_denormalize(dy * row.input(1), n, inverse, axes) if row.need(0) else None, dscale, dbias]


traits("InstanceNormalization", are=Traits(weights=(1, 2), keeps_shape=True))


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


@gradient("InstanceNormalization")
def instance_normalization(row: Row) -> Grads:
    """Statistics over space; scale and bias (C)."""
    x, dy, rank = row.x, row.dy, row.rank(row.x)
    space = list(range(2, rank))
    n, inverse = _normalized(row, x, space, float(row.attribute("epsilon", 1e-5)))
    dx = _denormalize(dy * _channels(row.input(1), rank), n, inverse, space) if row.need(0) else None
    return [
        dx,
        (dy * n).sum([0, *space], False) if row.need(1) else None,
        dy.sum([0, *space], False) if row.need(2) else None,
    ]


traits("GroupNormalization", are=Traits(weights=(1, 2), keeps_shape=True, in_runtime=True))


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


@sizes("GroupNormalization")
def group_norm_sizes(row: Row) -> Shapes:
    """For opset 18 to 20, where the standard has withdrawn it."""
    return [row.shape(row.x)]


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


@gradient("GroupNormalization")
def group_normalization(row: Row) -> Grads:
    """Statistics over the channels of a group and space; scale and bias (C), before opset 21 (groups)."""
    x, dy, groups = row.x, row.dy, int(row.attribute("num_groups"))
    shape, scale_shape = row.shape(x), row.static(row.input(1))
    if shape is None or not isinstance(shape[1], int) or scale_shape is None:
        raise row.unsupported("the number of channels is unknown")
    channels = shape[1]
    grouped = [0, groups, channels // groups, -1]
    n, inverse = _normalized(row, x.reshape(grouped), [2, 3], float(row.attribute("epsilon", 1e-5)))
    scale = row.input(1)
    per_channel = scale_shape[0] == channels
    scale = scale.reshape([groups, channels // groups, 1] if per_channel else [groups, 1, 1])
    dyg = dy.reshape(grouped)
    lost, size = ([0, 3], channels) if per_channel else ([0, 2, 3], groups)
    dx = None
    if row.need(0):
        dx = _denormalize(dyg * scale, n, inverse, [2, 3]).reshape(row.shape_of(x))
    return [
        dx,
        (dyg * n).sum(lost, False).reshape([size]) if row.need(1) else None,
        dyg.sum(lost, False).reshape([size]) if row.need(2) else None,
    ]


@rule("LpNormalization")
def lp_norm(view: View) -> Iterator[Relation]:
    x, axis = view.input(0), view.attribute("axis", -1) % view.input(0).rank
    yield from same(x, view.output())
    yield Site("normalize", 0, axis, x[axis])


@sums("LpNormalization")
def lp_norm_sum(view: View) -> Sum | None:
    axis = view.attribute("axis", -1) % view.input(0).rank
    return Sum([axis], "squares", -0.5, divides=True) if view.attribute("p", 2) == 2 else None


@gated("LpNormalization")
def gated_lp_norm(g: Gating) -> None:
    rank, order = g.view.input(0).rank, g.view.attribute("p", 2)
    x = g.node.inputs[0]
    norm = g.reduce(f"ReduceL{order}", g.emit("Mul", x, g.mask), [g.view.attribute("axis", -1) % rank])
    g.finish(g.emit("Div", x, norm))


@gradient("LpNormalization")
def lp_normalization(row: Row) -> Grads:
    """x / ||x||_p along `axis`, p = 1 or 2."""
    x, dy, axis = row.x, row.dy, [row.axis(-1)]
    if int(row.attribute("p", 2)) == 1:
        norm = row.op("Abs", x).sum(axis)
        return [(dy - row.op("Sign", x) * (dy * row.y).sum(axis)) / norm]
    norm = row.op("Sqrt", (x * x).sum(axis))
    return [(dy - row.y * (dy * row.y).sum(axis)) / norm]


@rule("LRN")
def local_response_norm(view: View) -> Iterator[Relation]:
    yield from same(view.input(0), view.output(), skip=[1])


@gradient("LRN")
def local_response_normalization(row: Row) -> Grads:
    """y = x / s^beta, s = bias + alpha / size * (sum of squares over neighbouring channels)."""
    x, dy, size = row.x, row.dy, int(row.attribute("size"))
    alpha, beta, bias = (
        float(row.attribute(k, d)) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    s = bias + _channel_window(row, x * x, before, after, size) * (alpha / size)
    power = row.op("Pow", s, row.like(-beta))
    back = _channel_window(row, dy * x * power / s, after, before, size)
    return [dy * power - x * back * (2.0 * alpha * beta / size)]


def _channel_window(row: Row, x: Value, before: int, after: int, size: int) -> Value:
    """Sums over a window of channels."""
    rank = row.rank(row.x)
    padded = row.op("Pad", x, row.emitter.ints([0, before, *[0] * (rank - 2), 0, after, *[0] * (rank - 2)]))
    total: Value | None = None
    length = x.shape(1, 2)
    for i in range(size):
        start = row.emitter.ints([i])
        part = padded.slice(start, start + length, [1])
        total = part if total is None else total + part
    assert total is not None
    return total


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
