"""Pooling."""

from __future__ import annotations

import itertools
import math

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.gradients.convolution import Geometry, window
from tgonnx.ops.registry import gradient

Grads = list[Value | None]


@gradient("GlobalAveragePool")
def global_average(row: Row) -> Grads:
    """dy / (number of positions), everywhere."""
    space = list(range(2, row.rank(row.x)))
    static = row.static(row.x)
    shape = row.shape(row.x)
    if shape is not None and all(isinstance(d, int) for d in shape[2:]):
        count = row.like(float(math.prod(d for d in shape[2:] if isinstance(d, int))))
    else:
        count = row.op("ReduceProd", row.x.shape(2), keepdims=0).cast(row.x.elem_type)
    del static, space
    return [(row.dy / count).expand(row.shape_of(row.x))]


@gradient("GlobalMaxPool")
def global_max(row: Row) -> Grads:
    """Shared equally among the maxima."""
    hit = row.x.equals(row.y).cast_like(row.x)
    return [row.dy / hit.sum(list(range(2, row.rank(row.x)))) * hit]


@gradient("MaxPool")
def max_pool(row: Row) -> Grads:
    """dy is added at the positions that the pool's second output names."""
    if int(row.attr("storage_order", 0)):
        attributes = {k: v for k, v in row.attributes.items() if k != "storage_order"}
        _, places = row.emitter.ops("MaxPool", row.x, count=2, **attributes)
    else:
        places = row.output(1)
    places.elem_type = 7
    zeros = row.emitter.filled(row.op("Size", row.x).reshape([1]), 0.0, row.x.elem_type)
    flat = row.op(
        "ScatterElements", zeros, places.reshape([-1]), row.dy.reshape([-1]), axis=0, reduction="add"
    )
    return [flat.reshape(row.shape_of(row.x))]


@gradient("AveragePool")
def average_pool(row: Row) -> Grads:
    """Each dy, divided by the number of positions that it averages, goes back to all of them."""
    g = _pool_geometry(row)
    x, dy = row.x, row.dy
    include = bool(row.attr("count_include_pad", 0))
    axes = [2 + i for i in range(g.rank)]
    plain = not any(g.pads) and not row.attr("ceil_mode", 0)
    if plain or (include and not row.attr("ceil_mode", 0)):
        dy = dy * (1.0 / math.prod(g.kernel))
    else:
        dy = dy / _counts(row, g, include)
    # spread: a transposed convolution with a kernel of ones, on every channel as its own image
    space = dy.shape(2)
    images = dy.reshape(row.emitter.concat([row.emitter.ints([-1, 1]), space], 0))
    ones = row.emitter.filled(row.emitter.ints([1, 1, *g.kernel]), 1.0, dy.elem_type)
    options = {"strides": g.strides, "dilations": g.dilations, "kernel_shape": g.kernel}
    full = row.op("ConvTranspose", images, ones, output_padding=[s - 1 for s in g.strides], **options)
    begin, end = list(g.pads[: g.rank]), list(g.pads[g.rank :])
    full = row.op("Pad", full, row.emitter.ints([0, 0, *[0] * g.rank, 0, 0, *end]))
    starts = row.emitter.ints(begin)
    cropped = full.slice(starts, starts + x.shape(2), axes)
    return [cropped.reshape(row.shape_of(x))]


def _pool_geometry(row: Row) -> Geometry:
    return window(row, tuple(row.attr("kernel_shape")))


def _counts(row: Row, g: Geometry, include: bool) -> Value:
    """How many positions each output averages, (1, 1, out space)."""
    space = row.x.shape(2)
    ones = row.emitter.filled(row.emitter.concat([row.emitter.ints([1, 1]), space], 0), 1.0, row.x.elem_type)
    begin, end = list(g.pads[: g.rank]), list(g.pads[g.rank :])
    if include:  # padding counts; what ceil_mode reads beyond it does not
        padded = row.op("Pad", ones, row.emitter.ints([0, 0, *begin, 0, 0, *end]), row.like(1.0))
    else:
        padded = row.op("Pad", ones, row.emitter.ints([0, 0, *begin, 0, 0, *end]))
    if row.attr("ceil_mode", 0):
        padded = row.op("Pad", padded, row.emitter.ints([0] * (2 + g.rank) + [0, 0, *g.reach]))
    outs = row.y.shape(2)
    extent = (outs - row.emitter.ints([1])) * row.emitter.ints(g.strides) + row.emitter.ints([1])
    total: Value | None = None
    for place in itertools.product(*(range(k) for k in g.kernel)):
        starts = row.emitter.ints([p * d for p, d in zip(place, g.dilations, strict=True)])
        part = padded.slice(starts, extent + starts, [2 + i for i in range(g.rank)], list(g.strides))
        total = part if total is None else total + part
    assert total is not None
    return total
