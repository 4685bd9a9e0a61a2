"""Normalisations."""

from __future__ import annotations

import math

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.ops.registry import gradient

Grads = list[Value | None]


@gradient("BatchNormalization")
def batch_normalization(row: Row) -> Grads:
    """X (N, C, space). Training mode: with momentum 0 the outputs 1 and 2 are the batch statistics."""
    x, scale, dy = row.x, row.input(1), row.dy
    rank, epsilon = row.rank(x), float(row.attr("epsilon", 1e-5))
    axes = [0, *range(2, rank)]
    training = bool(row.attr("training_mode", 0))
    if not training:
        mean, variance = row.input(3), row.input(4)
    elif float(row.attr("momentum", 0.9)) == 0.0:
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


@gradient("LayerNormalization")
def layer_normalization(row: Row) -> Grads:
    """Statistics over the axes from `axis` on; scale and bias broadcast."""
    x, dy = row.x, row.dy
    axes = list(range(row.axis(-1), row.rank(x)))
    n, inverse = _normalized(row, x, axes, float(row.attr("epsilon", 1e-5)))
    dscale = row.unbroadcast(dy * n, row.input(1)) if row.need(1) else None
    dbias = row.unbroadcast(dy, row.input(2)) if row.need(2) else None
    return [_denormalize(dy * row.input(1), n, inverse, axes) if row.need(0) else None, dscale, dbias]


@gradient("RMSNormalization")
def rms_normalization(row: Row) -> Grads:
    """x / rms(x) over the axes from `axis` on, times scale."""
    x, dy, scale = row.x, row.dy, row.input(1)
    axes = list(range(row.axis(-1), row.rank(x)))
    inverse = 1.0 / row.op("Sqrt", (x * x).mean(axes) + float(row.attr("epsilon", 1e-5)))
    n, dn = x * inverse, dy * scale
    dx = inverse * (dn - n * (dn * n).mean(axes)) if row.need(0) else None
    return [dx, row.unbroadcast(dy * n, scale) if row.need(1) else None]


@gradient("InstanceNormalization")
def instance_normalization(row: Row) -> Grads:
    """Statistics over space; scale and bias (C)."""
    x, dy, rank = row.x, row.dy, row.rank(row.x)
    space = list(range(2, rank))
    n, inverse = _normalized(row, x, space, float(row.attr("epsilon", 1e-5)))
    dx = _denormalize(dy * _channels(row.input(1), rank), n, inverse, space) if row.need(0) else None
    return [
        dx,
        (dy * n).sum([0, *space], False) if row.need(1) else None,
        dy.sum([0, *space], False) if row.need(2) else None,
    ]


@gradient("GroupNormalization")
def group_normalization(row: Row) -> Grads:
    """Statistics over the channels of a group and space; scale and bias (C), before opset 21 (groups)."""
    x, dy, groups = row.x, row.dy, int(row.attr("num_groups"))
    shape, scale_shape = row.shape(x), row.static(row.input(1))
    if shape is None or not isinstance(shape[1], int) or scale_shape is None:
        raise row.unsupported("the number of channels is unknown")
    channels = shape[1]
    grouped = [0, groups, channels // groups, -1]
    n, inverse = _normalized(row, x.reshape(grouped), [2, 3], float(row.attr("epsilon", 1e-5)))
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


@gradient("LpNormalization")
def lp_normalization(row: Row) -> Grads:
    """x / ||x||_p along `axis`, p = 1 or 2."""
    x, dy, axis = row.x, row.dy, [row.axis(-1)]
    if int(row.attr("p", 2)) == 1:
        norm = row.op("Abs", x).sum(axis)
        return [(dy - row.op("Sign", x) * (dy * row.y).sum(axis)) / norm]
    norm = row.op("Sqrt", (x * x).sum(axis))
    return [(dy - row.y * (dy * row.y).sum(axis)) / norm]


@gradient("MeanVarianceNormalization")
def mean_variance_normalization(row: Row) -> Grads:
    """(x - mean) / std over `axes`."""
    axes = [int(a) for a in row.attr("axes", [0, 2, 3])]
    n, inverse = _normalized(row, row.x, axes, 1e-9)
    return [_denormalize(row.dy, n, inverse, axes)]


@gradient("LRN")
def local_response_normalization(row: Row) -> Grads:
    """y = x / s^beta, s = bias + alpha / size * (sum of squares over neighbouring channels)."""
    x, dy, size = row.x, row.dy, int(row.attr("size"))
    alpha, beta, bias = (float(row.attr(k, d)) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
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
