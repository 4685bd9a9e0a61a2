"""Operators over space: they keep channels apart and pin the axes they mix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from onnx import TensorProto

from tgonnx.graph.algebra import Element, Size
from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.asked import Asked, Claims
from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.relations import Relation, Tie
from tgonnx.ops.aspects.row import Grads, Row, Shapes
from tgonnx.ops.aspects.tables import dims, gradient, resize, rule, sizes
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Unlabelled, View
from tgonnx.ops.convolution import Geometry, window, window_dims
from tgonnx.ops.joining import sizes_after

_SHARED = (
    "mode",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "nearest_mode",
    "antialias",
)


_CUBIC = -0.75  # the coefficient of the cubic kernel that the standard fixes


@dataclass
class _Tap:
    """One neighbour along one axis: its index (float), weight, the weight's slope; each (N, places)."""

    index: Value
    weight: Value
    slope: Value


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MaxRoiPool")
def pool(view: View) -> Iterator[Relation]:
    for y in view.outputs:
        if y is not None:
            yield Tie(view.input(0)[1], y[1])
            if view.op_type != "MaxRoiPool":
                yield Tie(view.input(0)[0], y[0])


@gradient("AveragePool")
def average_pool(row: Row) -> Grads:
    """Each dy, divided by the number of positions that it averages, goes back to all of them."""
    g = _pool_geometry(row)
    dy = row.dy
    include = bool(row.attribute("count_include_pad", 0))
    plain = not any(g.pads) and not row.attribute("ceil_mode", 0)
    if plain or (include and not row.attribute("ceil_mode", 0)):
        dy = dy * (1.0 / math.prod(g.kernel))
    else:
        dy = dy / _counts(row, g, include)
    return [_spread(row, g, dy)]


def _spread(row: Row, g: Geometry, dy: Value) -> Value:
    """The sum over the windows that see a place: a transposed convolution with ones, each channel an image."""
    x, axes = row.x, [2 + i for i in range(g.rank)]
    space = dy.shape(2)
    images = dy.reshape(row.emitter.concat([row.emitter.ints([-1, 1]), space], 0))
    ones = row.emitter.filled(row.emitter.ints([1, 1, *g.kernel]), 1.0, dy.elem_type)
    options = {"strides": g.strides, "dilations": g.dilations, "kernel_shape": g.kernel}
    full = row.op("ConvTranspose", images, ones, output_padding=[s - 1 for s in g.strides], **options)
    begin, end = list(g.pads[: g.rank]), list(g.pads[g.rank :])
    full = row.op("Pad", full, row.emitter.ints([0, 0, *[0] * g.rank, 0, 0, *end]))
    starts = row.emitter.ints(begin)
    cropped = full.slice(starts, starts + x.shape(2), axes)
    return cropped.reshape(row.shape_of(x))


@gradient("LpPool")
def lp_pool(row: Row) -> Grads:
    """y = (sum |x|^p)^(1/p) over each window."""
    arriving, slope = _norm_parts(row)
    return [_spread(row, _pool_geometry(row), arriving) * slope]


@gradient("GlobalLpPool")
def global_lp_pool(row: Row) -> Grads:
    """y = (sum |x|^p)^(1/p) over all positions."""
    arriving, slope = _norm_parts(row)
    return [arriving * slope]


def _norm_parts(row: Row) -> tuple[Value, Value]:
    """dy / y^(p-1), 0 where the norm is 0, and sign(x) |x|^(p-1); their product is the gradient."""
    power = row.like(float(row.attribute("p", 2)) - 1.0)
    safe = row.op("Where", row.y > 0.0, row.y, row.like(1.0))
    arriving = row.dy * (row.y > 0.0).cast_like(row.y) / safe**power
    return arriving, row.op("Sign", row.x) * row.op("Abs", row.x) ** power


def _pool_geometry(row: Row) -> Geometry:
    return window(row, tuple(row.attribute("kernel_shape")))


def _counts(row: Row, g: Geometry, include: bool) -> Value:
    """How many positions each output averages, (1, 1, out space)."""
    space = row.x.shape(2)
    ones = row.emitter.filled(row.emitter.concat([row.emitter.ints([1, 1]), space], 0), 1.0, row.x.elem_type)
    begin, end = list(g.pads[: g.rank]), list(g.pads[g.rank :])
    if include:  # padding counts; what ceil_mode reads beyond it does not
        padded = row.op("Pad", ones, row.emitter.ints([0, 0, *begin, 0, 0, *end]), row.like(1.0))
    else:
        padded = row.op("Pad", ones, row.emitter.ints([0, 0, *begin, 0, 0, *end]))
    if row.attribute("ceil_mode", 0):
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


@dims("MaxPool", "AveragePool", "LpPool")
def pool_dims(asked: Asked) -> Claims | None:
    x = asked.dims()
    if len(asked.node.output) > 1:
        return None
    return [*x[:2], *window_dims(asked, x[2:], asked.attribute("kernel_shape"))]


@gradient("MaxPool")
def max_pool(row: Row) -> Grads:
    """dy is added at the positions that the pool's second output names."""
    if int(row.attribute("storage_order", 0)):
        attributes = {k: v for k, v in row.attributes.items() if k != "storage_order"}
        _, places = row.emitter.ops("MaxPool", row.x, count=2, **attributes)
    else:
        places = row.output(1)
    places.elem_type = TensorProto.INT64  # of a row.output, too, whose type may be unknown
    zeros = row.emitter.filled(row.op("Size", row.x).reshape([1]), 0.0, row.x.elem_type)
    flat = row.op(
        "ScatterElements", zeros, places.reshape([-1]), row.dy.reshape([-1]), axis=0, reduction="add"
    )
    return [flat.reshape(row.shape_of(row.x))]


traits("MaxUnpool", are=Traits(sizes=(2,), grows=True))


@rule("MaxUnpool")
def unpool(view: View) -> Iterator[Relation]:
    """Indices count through all of the pool's input: they follow a cut if a pool makes them, not if stored.

    They do so only if one image of the result is as large as the pool's input, which a size given here may change.
    """
    x, indices, y = view.input(0), view.input(1), view.output()
    if indices.static:
        raise Unlabelled("MaxUnpool: its indices are stored, and count through all channels")
    view.needs_sizes(2)
    if view.has(2) and y.shape[2:] != _unpooled(view):
        raise Unlabelled("MaxUnpool: its indices count through all channels of another size")
    for operand in (indices, y):
        yield from map(Tie, x.axes[:2], operand.axes[:2])


def _unpooled(view: View) -> tuple[int, ...]:
    """The sizes that the pool's windows cover."""
    kernel = view.attribute("kernel_shape")
    rank = len(kernel)
    strides, pads = view.attribute("strides", [1] * rank), view.attribute("pads", [0] * 2 * rank)
    places = zip(view.input(0).shape[2:], kernel, strides, pads[:rank], pads[rank:], strict=True)
    return tuple((n - 1) * stride + k - before - after for n, k, stride, before, after in places)


@sizes("MaxUnpool")
def unpool_sizes(row: Row) -> Shapes:
    """For a size that is given, which the standard's inference does not read."""
    given = row.constant(2) if row.has(2) else None
    return [] if given is None else [tuple(int(n) for n in given)]


@resize("MaxUnpool")
def resize_max_unpool(view: View, cut: Cut) -> None:
    cut.set_elements(2, sizes_after(cut, view.output().axes))


@gradient("MaxUnpool")
def max_unpool(row: Row) -> Grads:
    """Each element went to one place of the flattened output, which input 1 names."""
    places = row.input(1)
    return [row.op("Gather", row.dy.reshape([-1]), places.reshape([-1]), axis=0).reshape(places.shape())]


@gradient("GlobalMaxPool")
def global_max(row: Row) -> Grads:
    """Shared equally among the maxima."""
    hit = row.x.equals(row.y).cast_like(row.x)
    return [row.dy / hit.sum(list(range(2, row.rank(row.x)))) * hit]


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


traits("AffineGrid", are=Traits(sizes=(1,), grows=True))


@rule("GridSample", "AffineGrid")
def grid_sample(view: View) -> Iterator[Relation]:
    if view.op_type == "GridSample":
        yield Tie(view.input(0)[1], view.output()[1])
        yield Tie(view.input(0)[0], view.output()[0])


@gradient("AffineGrid")
def affine_grid(row: Row) -> Grads:
    """grid = theta . place: the places are the grid of the identity. theta (N, r, r + 1), grid (N, O.., r)."""
    theta = row.static(row.x)
    if theta is None:
        raise row.unsupported("the shape of its theta is unknown")
    rank = theta[1]
    identity = row.emitter.constant(np.eye(rank, rank + 1)[None].astype(np.float32)).cast_like(row.x)
    size = row.emitter.concat([row.emitter.ints([1]), row.input(1).slice([1], [rank + 2], [0])], 0)
    aligned = row.attribute("align_corners", 0)
    places = row.op("AffineGrid", identity, size, align_corners=aligned).reshape([-1, rank])
    ones = (places.slice([0], [1], [1]) * 0.0) + 1.0
    homogeneous = row.emitter.concat([places, ones], 1)
    arriving = row.dy.reshape([theta[0], -1, rank]).transpose([0, 2, 1])
    return [row.op("MatMul", arriving, homogeneous)]


@gradient("GridSample")
def grid_sample_gradient(row: Row) -> Grads:
    """X (N, C, D1..Dr), grid (N, O1..Or, r) with the last axis of X first; all modes and paddings.

    dX adds dY at the neighbours of each place, dGrid is the slope of the weights.
    """
    x, rank = row.x, row.rank(row.x) - 2
    sizes = [x.shape(2 + k, 3 + k).cast_like(x) for k in range(rank)]
    axes = [_Axis(row, k, rank, sizes[k]) for k in range(rank)]
    flat = x.reshape([0, 0, -1])
    dy = row.dy.reshape([0, 0, -1])
    dx = row.zeros_like(flat)
    slopes: list[Value | None] = [None] * rank
    for taps in product(*(axis.taps() for axis in axes)):
        place, inside = None, None
        for axis, tap in zip(axes, taps, strict=True):
            index, within = axis.bounded(tap.index)
            place = index if place is None else place * axis.size + index
            if within is not None:
                inside = within if inside is None else inside * within
        assert place is not None
        index = place.cast(TensorProto.INT64).unsqueeze([1]).expand(dy.shape())
        if row.need(0):
            weight = _times([*(t.weight for t in taps), inside])
            dx = row.op("ScatterElements", dx, index, dy * weight.unsqueeze([1]), axis=2, reduction="add")
        if row.need(1) and row.attribute("mode", "linear") != "nearest":
            seen = (dy * row.op("GatherElements", flat, index, axis=2)).sum([1], False)
            for k in range(rank):
                others = [t.weight for j, t in enumerate(taps) if j != k]
                part = _times([seen, taps[k].slope, *others, inside])
                known = slopes[k]
                slopes[k] = part if known is None else known + part
    grid = None
    if row.need(1):
        found = [s if s is not None else axes[k].at * 0.0 for k, s in enumerate(slopes)]
        parts = [(s * axes[k].stretch).unsqueeze([2]) for k, s in enumerate(found)]
        grid = row.emitter.concat(parts[::-1], 2).reshape(row.input(1).shape())
    return [dx.reshape(x.shape()) if row.need(0) else None, grid]


def _times(factors: list[Value | None]) -> Value:
    found = [f for f in factors if f is not None]
    result = found[0]
    for factor in found[1:]:
        result = result * factor
    return result


class _Axis:
    """Places along one axis: `at` in pixels (N, places), `stretch` = d at / d grid."""

    def __init__(self, row: Row, k: int, rank: int, size: Value) -> None:
        self.row, self.size = row, size
        self.mode = {"bilinear": "linear", "bicubic": "cubic"}.get(
            row.attribute("mode", "linear"), row.attribute("mode", "linear")
        )
        self.padding = row.attribute("padding_mode", "zeros")
        aligned = bool(row.attribute("align_corners", 0))
        half = row.like(0.0) if aligned else row.like(0.5)
        self.low, self.high = (row.like(0.0) - half, size - 1.0 + half)
        grid = row.input(1)
        which = rank - 1 - k
        normal = grid.slice([which], [which + 1], [-1])
        normal = normal.reshape(row.emitter.concat([grid.shape(0, 1), row.emitter.ints([-1])], 0))
        stretch = (size - 1.0) / 2.0 if aligned else size / 2.0
        self.at = (normal + 1.0) * stretch - half
        self.stretch = stretch
        if self.mode != "cubic" and self.padding == "border":
            inside = ((self.at > 0.0).cast_like(size)) * ((self.at < size - 1.0).cast_like(size))
            self.at, self.stretch = self._clip(self.at), stretch * inside
        elif self.mode != "cubic" and self.padding == "reflection":
            self.at, sign = self._reflect(self.at)
            self.stretch = stretch * sign

    def _clip(self, at: Value) -> Value:
        return self.row.op("Min", self.row.op("Max", at, self.row.like(0.0)), self.size - 1.0)

    def _reflect(self, at: Value) -> tuple[Value, Value]:
        """A triangle wave between the bounds, and its slope."""
        span = self.high - self.low
        turn = (at - self.low) / (span * 2.0)
        phase = turn - self.row.op("Floor", turn)  # 0..1, of which the second half goes back
        back = (phase > 0.5).cast_like(phase)
        folded = (phase + back * (1.0 - 2.0 * phase)) * (span * 2.0) + self.low
        return folded, 1.0 - 2.0 * back

    def bounded(self, index: Value) -> tuple[Value, Value | None]:
        """The index of a pixel that is there, and whether the one that was asked for is (None: always)."""
        if self.mode == "cubic" and self.padding == "reflection":
            index = self.row.op("Round", self._reflect(index)[0])
        clipped = self._clip(index)
        if self.padding != "zeros":
            return clipped, None
        return clipped, clipped.equals(index).cast_like(clipped)

    def taps(self) -> Iterator[_Tap]:
        at, row = self.at, self.row
        if self.mode == "nearest":
            yield _Tap(row.op("Round", at), at * 0.0 + 1.0, at * 0.0)
            return
        floor = row.op("Floor", at)
        f = at - floor
        if self.mode == "linear":
            yield _Tap(floor, 1.0 - f, f * 0.0 - 1.0)
            yield _Tap(floor + 1.0, f, f * 0.0 + 1.0)
            return
        a = _CUBIC
        for k in (-1.0, 0.0, 1.0, 2.0):
            d = f - k if k <= 0 else k - f  # the distance, at least 0
            if abs(k - 0.5) < 1:
                weight = ((a + 2) * d - (a + 3)) * d * d + 1.0
                slope = (3 * (a + 2) * d - 2 * (a + 3)) * d
            else:
                weight = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
                slope = (3 * a * d - 10 * a) * d + 8 * a
            yield _Tap(floor + k, weight, slope if k <= 0 else -slope)


traits("Resize", "Upsample", are=Traits(grows=True, set_up=True))
traits("Resize", are=Traits(sizes=(2, 3), sizes_follow=True))
traits("Upsample", are=Traits(sizes=(1,)))


@rule("Resize", "Upsample")
def resize_rule(view: View) -> Iterator[Relation]:
    """An axis that is scaled by 1 is not sampled, unless a region of interest is."""
    if view.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        return
    view.needs_sizes(3)
    for axis in unscaled_axes(view):
        yield Tie(view.input(0)[axis], view.output()[axis])


def unscaled_axes(view: View) -> list[int]:
    """The axes whose scale is 1; an equal size alone may also come from a scale a little above 1."""
    x, y = view.input(0), view.output()
    named = [axis % x.rank for axis in view.attribute("axes") or range(x.rank)]
    through = [axis for axis in range(x.rank) if axis not in named]
    if view.has(3):
        stretched = view.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
        return through + [axis for axis in named if stretched and len(x[axis]) == len(y[axis])]
    scales = view.elements(1 if view.op_type == "Upsample" or view.opset < 11 else 2, "scales") or ()
    return through + [axis for axis, scale in zip(named, scales, strict=False) if scale == 1]


@dims("Resize", "Upsample")
def resized_dims(asked: Asked) -> Claims | None:
    """Sizes, or scales where they are whole numbers."""
    x = asked.dims()
    plain = asked.node.op_type == "Upsample" or asked.opset < 11
    scales = asked.parts(1 if plain else 2, "scales")
    target = None if plain else asked.parts(3)
    axes = [int(axis) % len(x) for axis in asked.attribute("axes", range(len(x)))]
    if not scales and not target:
        return None
    sizes: list[Element | None] = list(x)
    for number, axis in enumerate(axes):
        if scales:
            scale, size = scales[number], x[axis]
            whole = not isinstance(scale, Size) and float(scale).is_integer()
            other = asked.algebra.apply("Resize", size, scale, natural=True)
            sizes[axis] = asked.algebra.multiply(size, int(scale)) if whole else other  # type: ignore[arg-type]
        elif target:
            ratio = asked.attribute("keep_aspect_ratio_policy", b"stretch") == b"stretch"
            sizes[axis] = target[number] if ratio else None
    return sizes


@resize("Resize")
def resize_resize(view: View, cut: Cut) -> None:
    if view.has(3):
        y = view.output()
        axes = view.attribute("axes") or range(y.rank)
        cut.set_elements(3, sizes_after(cut, [y[axis] for axis in axes]))


@gradient("Resize")
def resize_gradient(row: Row) -> Grads:
    """dX = dY times the resizing matrix of every resized axis."""
    crops = row.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if row.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise row.unsupported("keep_aspect_ratio_policy is not stretch")
    rank, scales = row.rank(row.x), row.constant(2)
    by_scale = scales is not None and scales.size > 0
    axes = [a % rank for a in row.attribute("axes", range(rank))]
    given, result = row.shape(row.x), row.shape(row.y)
    grad = row.dy
    for position, axis in enumerate(axes):
        if not crops and given and result and given[axis] is not None and given[axis] == result[axis]:
            continue
        source = 2 if by_scale or not row.has(3) else 3
        matrix = _matrix(row, axis, position, source, _crop(row, position, len(axes)) if crops else None)
        perm = [*(i for i in range(rank) if i != axis), axis]
        moved = row.op("MatMul", grad.transpose(perm), matrix)
        grad = moved.transpose([int(i) for i in np.argsort(perm)])
    return [grad if grad is not row.dy else row.op("Identity", grad)]


def _crop(row: Row, position: int, count: int) -> Value:
    """The region of one axis, for a matrix: all of its rows, its columns from start to end."""
    roi = row.input(1).cast(TensorProto.FLOAT)
    start, end = (roi.slice([k], [k + 1], [0]) for k in (position, position + count))
    zeros, ones = (row.emitter.constant(np.full(3, v, np.float32)) for v in (0, 1))
    return row.emitter.concat([zeros, start, ones, end], 0)


def _matrix(row: Row, axis: int, position: int, source: int, crop: Value | None) -> Value:
    """(out, in): column j is what the j-th unit vector becomes."""
    length = row.x.shape(axis, axis + 1)
    square = row.emitter.concat([length, length], 0)
    eye = row.op("EyeLike", row.emitter.filled(square, 0.0, row.x.elem_type)).unsqueeze([0, 1])
    asked = row.input(source).slice([position], [position + 1], [0])
    attributes = {k: v for k, v in row.attributes.items() if k in _SHARED}
    if source == 2:
        ones = row.emitter.constant(np.ones(3, np.float32))
        resized = row.op("Resize", eye, crop, row.emitter.concat([ones, asked], 0), **attributes)
    else:
        keep = row.emitter.concat([row.emitter.ints([1, 1]), length, asked], 0)
        resized = row.op("Resize", eye, crop, None, keep, **attributes)
    return resized.squeeze([0, 1]).transpose([1, 0])
