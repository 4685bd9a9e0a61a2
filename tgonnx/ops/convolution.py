"""Convolutions: by groups or within them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from onnx import NodeProto

from tgonnx.graph.algebra import Dims, Element, Size
from tgonnx.graph.builder import Value
from tgonnx.graph.proto import attribute_of
from tgonnx.graph.types import Array
from tgonnx.ops import weight_gradients as shortcuts
from tgonnx.ops.aspects.asked import Asked, Claims
from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.patches import (
    halves,
    patches,
    reach_of,
    same_padding,
    spread_patches,
    window_of,
)
from tgonnx.ops.aspects.products import Product
from tgonnx.ops.aspects.relations import Alternative, Choice, Labels, Relation, Site, Term, Tie
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.tables import cost, dims, fixes, gradient, products, resize, rule
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Operand, View


@dataclass(frozen=True)
class Geometry:
    """A convolution's attributes with defaults filled in; `pads` is begin..., end..."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def reach(self) -> tuple[int, ...]:
        """The extent of the dilated kernel."""
        return reach_of(self.kernel, self.dilations)

    def total(self, axis: int) -> int:
        """Padding at both ends of a spatial axis."""
        return self.pads[axis] + self.pads[axis + self.rank]


def window(row: Row, kernel: tuple[int, ...], transposed: bool = False) -> Geometry:
    """The window of a convolution or pool. Raises UnsupportedError if it depends on a dynamic size."""
    n = len(kernel)
    strides = tuple(row.attribute("strides", [1] * n))
    dilations = tuple(row.attribute("dilations", [1] * n))
    mode = row.attribute("auto_pad", "NOTSET")
    pads = tuple(row.attribute("pads", [0] * 2 * n)) if mode == "NOTSET" else (0,) * 2 * n
    geometry = Geometry(kernel, strides, dilations, pads, int(row.attribute("group", 1)))
    if mode not in ("SAME_UPPER", "SAME_LOWER") or transposed:
        return geometry
    shape = row.shape(row.x)
    begins, ends = [], []
    for i in range(n):
        size = shape[2 + i] if shape else None
        if isinstance(size, int):
            total = same_padding(size, strides[i], geometry.reach[i])
        elif strides[i] == 1:
            total = geometry.reach[i] - 1
        else:
            raise row.unsupported(f"auto_pad={mode} with stride {strides[i]} needs a fixed spatial size")
        begin, end = halves(total, mode)
        begins.append(begin)
        ends.append(end)
    return Geometry(kernel, strides, dilations, (*begins, *ends), geometry.groups)


def conv_geometry(row: Row) -> tuple[Geometry, tuple[int, ...]]:
    """The geometry of a Conv and the shape of its weight."""
    weight = row.static(row.input(1))
    if weight is None:
        raise row.unsupported("the shape of its weight is unknown")
    return window(row, weight[2:]), weight


traits("Conv", "ConvTranspose", are=Traits(weights=(1, 2)))
traits("Conv", are=Traits(common=True))


@rule("Conv")
def conv(view: View) -> Iterator[Relation]:
    x, w, y = view.input(0), view.input(1), view.output()
    yield Tie(x[0], y[0])
    yield Tie(w[0], y[1])
    if view.has(2):
        yield Tie(view.input(2)[0], y[1])
    yield from summed_channels(x[1], y[1], w, view.attribute("group", 1))


@rule("CausalConvWithState")
def causal_conv(view: View) -> Iterator[Relation]:
    """Depthwise, over time; the state holds the last places of every channel."""
    x = view.input(0)
    for operand in (*view.inputs[3:4], *view.outputs):
        if operand is not None:
            yield from (Tie(x[0], operand[0]), Tie(x[1], operand[1]))
    yield from (Tie(x[1], view.input(i)[0]) for i in (1, 2) if view.has(i))


@cost("CausalConvWithState")
def causal_conv_cost(view: View) -> list[Term]:
    return [(float(len(view.input(1)[2])), view.output().axes)]


@rule("ConvTranspose")
def conv_transpose(view: View) -> Iterator[Relation]:
    x, w, y = view.input(0), view.input(1), view.output()
    yield Tie(x[0], y[0])
    yield Tie(w[0], x[1])
    if view.has(2):
        yield Tie(view.input(2)[0], y[1])
    groups = view.attribute("group", 1)
    if groups == 1:
        yield Tie(w[1], y[1])
        yield Site("contract", w.index, 0, w[0])
        return
    inside, outside = x[1].reshape(groups, -1), y[1].reshape(groups, -1)
    yield Choice((
        _whole_groups(inside, outside),
        Alternative("in each group", np.concatenate([inside[0], outside[0]]), (
            _alike(inside), _alike(outside), Tie(outside[0], w[1]), Site("contract", w.index, 0, w[0]),
        )),
    ))  # fmt: skip


def summed_channels(x: Labels, y: Labels, w: Operand, groups: int) -> Iterator[Relation]:
    """Input channels `x` are summed over axis 1 of the weight, by groups."""
    if groups == 1:
        yield Tie(x, w[1])
        yield Site("contract", w.index, 1, w[1])
        return
    inside, outside = x.reshape(groups, -1), y.reshape(groups, -1)
    within = Alternative("in each group", np.concatenate([inside[0], outside[0]]), (
        _alike(inside), _alike(outside), Tie(inside[0], w[1]), Site("contract", w.index, 1, w[1]),
    ))  # fmt: skip
    yield Choice((_whole_groups(inside, outside), within))


def _whole_groups(inside: Labels, outside: Labels) -> Alternative:
    first = inside[:, :1]
    both = (
        Tie(np.broadcast_to(first, inside.shape), inside),
        Tie(np.broadcast_to(first, outside.shape), outside),
    )
    return Alternative("whole groups", np.concatenate([first[:, 0], outside[:, 0]]), both)


def _alike(grouped: Labels) -> Tie:
    """Position i of every group lives or dies together."""
    return Tie(np.broadcast_to(grouped[:1], grouped.shape), grouped)


@fixes("Conv")
def conv_channels(node: NodeProto, weight: tuple[int, ...], rank: int) -> tuple[int, int] | None:
    return (1, weight[1] * attribute_of(node, "group", 1)) if rank == len(weight) > 1 else None


@fixes("ConvTranspose")
def transposed_channels(node: NodeProto, weight: tuple[int, ...], rank: int) -> tuple[int, int] | None:
    return (1, weight[0]) if rank == len(weight) > 1 else None


@dims("Conv")
def conv_dims(asked: Asked) -> Claims:
    x, w = asked.dims(0), asked.dims(1)
    return [x[0], w[0], *window_dims(asked, x[2:], w[2:])]


def window_dims(asked: Asked, space: Dims, kernel: Sequence[Element]) -> list[Element | None]:
    """(size + pads - reach) / stride rounded down, plus 1; or size / stride rounded up for SAME."""
    n, algebra = len(space), asked.algebra
    strides, dilations = asked.attribute("strides", [1] * n), asked.attribute("dilations", [1] * n)
    pads = asked.attribute("pads", [0] * 2 * n)
    mode = asked.attribute("auto_pad", b"NOTSET")
    inferred = asked.symbols.first.shapes.get(asked.node.output[0], ())[2:]
    if any(isinstance(k, Size) for k in kernel) or len(inferred) != n:
        return [None] * n
    found: list[Element | None] = []
    for i, size in enumerate(space):
        if not isinstance(size, Size):  # it depends on nothing else
            found.append(inferred[i])
            continue
        if asked.attribute("ceil_mode", 0):
            found.append(None)
            continue
        if mode in (b"SAME_UPPER", b"SAME_LOWER"):
            found.append(algebra.divide(algebra.add(size, strides[i] - 1), strides[i]))
            continue
        total = 0 if mode == b"VALID" else pads[i] + pads[i + n]
        reach = (int(kernel[i]) - 1) * dilations[i] + 1  # type: ignore[arg-type]
        steps = algebra.add(size, total - reach)
        found.append(algebra.add(algebra.divide(steps, strides[i]), 1))
    return found


@dims("ConvTranspose")
def transposed_dims(asked: Asked) -> Claims | None:
    """stride * (size - 1) + extra + reach - pads."""
    x, w = asked.dims(0), asked.dims(1)
    n, algebra = len(x) - 2, asked.algebra
    if asked.attribute("output_shape") or asked.attribute("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    strides, dilations = asked.attribute("strides", [1] * n), asked.attribute("dilations", [1] * n)
    pads, extra = asked.attribute("pads", [0] * 2 * n), asked.attribute("output_padding", [0] * n)
    sizes: list[Element | None] = [x[0], algebra.multiply(w[1], asked.attribute("group", 1))]
    for i, size in enumerate(x[2:]):
        if isinstance(w[i + 2], Size):
            return None
        reach = (int(w[i + 2]) - 1) * dilations[i] + 1  # type: ignore[arg-type]
        rest = extra[i] + reach - pads[i] - pads[i + n] - strides[i]
        sizes.append(algebra.add(algebra.multiply(size, strides[i]), rest))
    return sizes


@resize("Conv", "ConvTranspose")
def resize_groups(view: View, cut: Cut) -> None:
    groups = view.attribute("group", 1)
    if groups > 1:
        kept = cut.keep(view.input(0)[1]).reshape(groups, -1).any(axis=1)
        cut.set_attribute("group", int(kept.sum()))


@cost("Conv")
def conv_cost(view: View) -> list[Term]:
    w, y = view.input(1), view.output()
    return [(float(np.prod(w.shape[2:]) * np.prod(y.shape[2:])), (y[0], y[1], w[1]))]


@gradient("Conv")
def conv_gradient(row: Row) -> Grads:
    """X (N, C, space), W (M, C / groups, kernel), bias (M)."""
    g, weight = conv_geometry(row)
    return [
        conv_input_gradient(row, row.dy, g, weight) if row.need(0) else None,
        conv_weight_gradient(row, row.x, row.dy, g, weight) if row.need(1) else None,
        row.dy.sum([0, *range(2, 2 + g.rank)], False) if row.need(2) else None,
    ]


def conv_input_gradient(row: Row, dy: Value, g: Geometry, weight: tuple[int, ...]) -> Value:
    """dX: with stride 1 a convolution with the flipped weight (fast), otherwise a transposed convolution."""
    flipped_pads = [r - 1 - p for r, p in zip(g.reach * 2, g.pads, strict=True)]
    if set(g.strides) == {1} and min(flipped_pads, default=0) >= 0:
        m, c = weight[0], weight[1]
        w = row.input(1).flip([2 + i for i, k in enumerate(g.kernel) if k > 1])
        if g.groups == 1:
            w = w.transpose([1, 0, *range(2, 2 + g.rank)])
        elif c == 1 and m == g.groups:
            pass  # depthwise: already one input channel per output channel
        else:
            w = w.reshape([g.groups, m // g.groups, c, *g.kernel])
            w = w.transpose([0, 2, 1, *range(3, 3 + g.rank)]).reshape(
                [g.groups * c, m // g.groups, *g.kernel]
            )
        options = {
            "pads": flipped_pads,
            "dilations": g.dilations,
            "group": g.groups,
            "kernel_shape": g.kernel,
        }
        return row.op("Conv", dy, w, **options)
    shape = row.shape(row.x)
    space = shape[2:] if shape else ()
    options = {"strides": g.strides, "dilations": g.dilations, "group": g.groups, "kernel_shape": g.kernel}
    if space and all(isinstance(s, int) for s in space):
        extra = [
            (int(s or 0) + g.total(i) - g.reach[i]) % g.strides[i]
            for i, s in enumerate(space)
            if isinstance(s, int)
        ]
        return row.op("ConvTranspose", dy, row.input(1), pads=g.pads, output_padding=extra, **options)
    full = row.op("ConvTranspose", dy, row.input(1), output_padding=[s - 1 for s in g.strides], **options)
    pads = list(g.pads)  # the longest possible input, cropped; what the kernel never reached is zero
    full = row.op("Pad", full, row.emitter.ints([0] * (g.rank + 2) + [0, 0, *pads[g.rank :]]))
    begins = row.emitter.ints(pads[: g.rank])
    return full.slice(begins, begins + row.x.shape(2), list(range(2, 2 + g.rank)))


def _taps(row: Row, x: Value, dy: Value, g: Geometry) -> list[Value]:
    """For each kernel element the (N, C, out space) part of the padded input that it meets."""
    axes = [2 + i for i in range(g.rank)]
    if any(g.pads):
        begin, end = g.pads[: g.rank], g.pads[g.rank :]
        x = row.op("Pad", x, row.emitter.ints([0, 0, *begin, 0, 0, *end]))
    plain = all(k == 1 for k in g.kernel)
    if plain and set(g.strides) == {1}:
        return [x]
    out = row.shape(row.y)
    space = out[2:] if out else ()
    fixed = [d for d in space if isinstance(d, int)]
    extent: list[int] | Value
    if space and len(fixed) == g.rank:
        extent = [(d - 1) * s + 1 for d, s in zip(fixed, g.strides, strict=True)]
    else:
        extent = (dy.shape(2) - row.emitter.ints([1])) * row.emitter.ints(g.strides) + row.emitter.ints([1])
    taps = []
    for place in itertools.product(*(range(k) for k in g.kernel)):
        starts = [p * d for p, d in zip(place, g.dilations, strict=True)]
        ends: list[int] | Value
        if isinstance(extent, list):
            ends = [a + b for a, b in zip(starts, extent, strict=True)]
        else:
            ends = extent + row.emitter.ints(starts)
        taps.append(x.slice(starts, ends, axes, list(g.strides)))
    return taps


def conv_weight_shortcut(row: Row, x: Value, dy: Value, g: Geometry, weight: tuple[int, ...]) -> Value | None:
    """dW in a form that a CPU computes faster, where there is one and it may be taken."""
    if shortcuts.depthwise_fits(row, weight, g.groups):
        return shortcuts.depthwise(row, x, dy, weight, g.strides, g.dilations, g.pads[: g.rank])
    if shortcuts.product_fits(row, weight, g.groups):
        return shortcuts.product(row, _taps(row, x, dy, g), dy, weight)
    return None


def conv_weight_gradient(row: Row, x: Value, dy: Value, g: Geometry, weight: tuple[int, ...]) -> Value:
    """dW: one matrix product per kernel element, summed over the batch; a shortcut where there is one."""
    m, c = weight[0], weight[1]
    if (found := conv_weight_shortcut(row, x, dy, g, weight)) is not None:
        return found
    taps = _taps(row, x, dy, g)
    space = list(range(2, 2 + g.rank))
    if c == 1 and m == g.groups:
        parts = [(tap * dy).sum([0, *space], False).reshape([m, 1, 1]) for tap in taps]
        return row.emitter.concat(parts, 2).reshape([m, 1, *g.kernel])
    left = dy.reshape([0, g.groups, m // g.groups, -1])
    parts = []
    for tap in taps:
        right = tap.reshape([0, g.groups, c, -1]).transpose([0, 1, 3, 2])
        parts.append(row.op("MatMul", left, right).sum([0], False).reshape([m, c, 1]))
    return row.emitter.concat(parts, 2).reshape([m, c, *g.kernel])


@products("Conv")
def conv_products(node: NodeProto, constant: Mapping[int, tuple[int, ...]]) -> Iterator[Product]:
    if 1 not in constant:
        return
    groups = attribute_of(node, "group", 1)
    rows = partial(patches, window=window_of(node, constant[1][2:]), groups=groups)

    def matrix(weight: Array) -> Array:  # [outputs, channels of a group, *kernel]
        return weight.reshape(groups, weight.shape[0] // groups, -1).swapaxes(1, 2)

    axis = 1 - len(constant[1])  # channels
    yield Product(
        0, 1, rows, matrix, 2, lambda bias: bias.reshape(groups, -1), axis=axis, summed=(1,),
        window=math.prod(constant[1][2:]),
    )  # fmt: skip


@products("ConvTranspose")
def transposed_products(node: NodeProto, constant: Mapping[int, tuple[int, ...]]) -> Iterator[Product]:
    if 1 not in constant or attribute_of(node, "output_shape") is not None:
        return
    geometry, groups = window_of(node, constant[1][2:]), attribute_of(node, "group", 1)
    if geometry.mode != "NOTSET":
        return  # as above, its padding follows from the shape of its output

    def matrix(weight: Array) -> Array:  # [channels, outputs of a group, *kernel]
        apart = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return np.moveaxis(apart, 2, 3).reshape(groups, -1, weight.shape[1])

    rows = partial(spread_patches, window=geometry, groups=groups)
    axis = 1 - len(constant[1])  # channels
    yield Product(
        0, 1, rows, matrix, 2, lambda bias: bias.reshape(groups, -1), axis=axis, summed=(1,),
        window=math.prod(constant[1][2:]),
    )  # fmt: skip


@cost("ConvTranspose")
def conv_transpose_cost(view: View) -> list[Term]:
    x, w = view.input(0), view.input(1)
    return [(float(np.prod(w.shape[2:]) * np.prod(x.shape[2:])), (x[0], x[1], w[1]))]


@gradient("ConvTranspose")
def conv_transpose_gradient(row: Row) -> Grads:
    """X (N, C, space), W (C, M / groups, kernel): dX is a convolution, dW its weight gradient for x as dy."""
    weight = row.static(row.input(1))
    if weight is None:
        raise row.unsupported("the shape of its weight is unknown")
    kernel = weight[2:]
    n = len(kernel)
    dy = row.dy
    g = window(row, kernel, transposed=True)
    automatic = row.attribute("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER") or row.attribute("output_shape"):
        g = _transposed_pads(row, g)
    lengths = row.x.shape(2)
    # the padded dy may be longer than the windows reach (output_padding): crop so that sizes agree
    begin, end = g.pads[:n], g.pads[n:]
    padded = dy
    if any(g.pads):
        padded = row.op("Pad", dy, row.emitter.ints([0, 0, *begin, 0, 0, *end]))
    reach = (lengths - row.emitter.ints([1])) * row.emitter.ints(g.strides) + row.emitter.ints(g.reach)
    static = row.static(row.x)
    space = list(range(2, 2 + n))
    if static is not None:
        ends = [(d - 1) * s + r for d, s, r in zip(static[2:], g.strides, g.reach, strict=True)]
        padded = padded.slice([0] * n, ends, space)
    else:
        padded = padded.slice([0] * n, reach, space)
    bare = Geometry(kernel, g.strides, g.dilations, (0,) * 2 * n, g.groups)
    dx = dw = None
    if row.need(0):
        options = {"strides": g.strides, "dilations": g.dilations, "group": g.groups, "kernel_shape": kernel}
        dx = row.op("Conv", padded, row.input(1), **options)
    if row.need(1):
        dw = _transposed_weight_gradient(row, padded, bare, weight)
    return [dx, dw, dy.sum([0, *space], False) if row.need(2) else None]


def _transposed_weight_gradient(row: Row, padded: Value, g: Geometry, weight: tuple[int, ...]) -> Value:
    """The weight gradient of Conv(padded, W) where x takes the place of its dy."""
    c, m = weight[0], weight[1]
    axes, static = list(range(2, 2 + g.rank)), row.static(row.x)
    left = row.x.reshape([0, g.groups, c // g.groups, -1])
    parts = []
    for place in itertools.product(*(range(k) for k in g.kernel)):
        starts = [p * d for p, d in zip(place, g.dilations, strict=True)]
        ends: list[int] | Value
        if static is not None:
            ends = [b + (d - 1) * s + 1 for b, d, s in zip(starts, static[2:], g.strides, strict=True)]
        else:
            steps = (row.x.shape(2) - row.emitter.ints([1])) * row.emitter.ints(g.strides)
            ends = steps + row.emitter.ints([b + 1 for b in starts])
        tap = padded.slice(starts, ends, axes, list(g.strides))
        right = tap.reshape([0, g.groups, m, -1]).transpose([0, 1, 3, 2])
        parts.append(row.op("MatMul", left, right).sum([0], False).reshape([c, m, 1]))
    return row.emitter.concat(parts, 2).reshape([c, m, *g.kernel])


def _transposed_pads(row: Row, g: Geometry) -> Geometry:
    """Pads that auto_pad or output_shape imply (ONNX ConvTranspose)."""
    static_in, static_out = row.static(row.x), row.static(row.y)
    if static_in is None or static_out is None:
        raise row.unsupported("auto_pad or output_shape needs fixed sizes")
    extra = row.attribute("output_padding", [0] * g.rank)
    begins, ends = [], []
    for i in range(g.rank):
        total = g.strides[i] * (static_in[2 + i] - 1) + extra[i] + g.reach[i] - static_out[2 + i]
        half = math.floor(total / 2)
        upper = row.attribute("auto_pad", "NOTSET") == "SAME_UPPER"
        begins.append(half if upper else total - half)
        ends.append(total - begins[-1])
    return Geometry(g.kernel, g.strides, g.dilations, (*begins, *ends), g.groups)
