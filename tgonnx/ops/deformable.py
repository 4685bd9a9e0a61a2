"""DeformConv: a convolution that samples where its offsets say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tgonnx.graph.builder import Array
from tgonnx.ops.aspects.relations import Relation, Tie
from tgonnx.ops.aspects.row import Outputs, Row
from tgonnx.ops.aspects.tables import cost, definition, resize, rule
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import View
from tgonnx.ops.convolution import conv_cost, resize_groups, summed_channels

traits("DeformConv", are=Traits(weights=(1, 3)))


@rule("DeformConv")
def deform_conv(view: View) -> Iterator[Relation]:
    """A convolution that reads where `offset` says; with groups of offsets, its input channels stay."""
    x, w, y = view.input(0), view.input(1), view.output()
    for operand in (y, view.input(2), *(o for o in view.inputs[4:5] if o is not None)):
        yield Tie(x[0], operand[0])
    yield Tie(w[0], y[1])
    if view.has(3):
        yield Tie(view.input(3)[0], y[1])
    if view.attribute("offset_group", 1) == 1:
        yield from summed_channels(x[1], y[1], w, view.attribute("group", 1))


resize("DeformConv")(resize_groups)
cost("DeformConv")(conv_cost)


@definition("DeformConv")
def deformable(row: Row, opset: int) -> Outputs | None:
    """Samples of X (N, C, H, W) at every kernel element, masked, times W (M, C / groups, h, w).

    offset (N, groups' * h * w * 2, OH, OW) holds y, x pairs; mask (N, groups' * h * w, OH, OW).
    """
    x, w, y = (row.static(v) for v in (row.x, row.input(1), row.y))
    if x is None or w is None or y is None or len(x) != 4:
        return None
    (n, c, high, wide), (m, _, kh, kw), (oh, ow), taps = x, w, y[2:], w[2] * w[3]
    groups, sets = int(row.attribute("group", 1)), int(row.attribute("offset_group", 1))
    places = row.input(2).reshape([n, sets, taps, 2, oh, ow]) + row.emitter.constant(
        _grid(row, (kh, kw), (oh, ow)).astype(np.float32)
    ).cast_like(row.x)
    size = row.emitter.constant(np.array([high, wide], np.float32).reshape(2, 1, 1)).cast_like(row.x)
    normal = ((places * 2.0 + 1.0) / size - 1.0).transpose([0, 1, 2, 4, 5, 3]).flip([5])  # x comes first
    samples = row.op(
        "GridSample",
        row.x.reshape([n * sets, c // sets, high, wide]),
        normal.reshape([n * sets, taps * oh, ow, 2]),
        mode="linear" if opset >= 20 else "bilinear",
        padding_mode="zeros",
    )
    if row.has(4):
        samples = samples * row.input(4).reshape([n * sets, 1, taps * oh, ow])
    columns = samples.reshape([n, groups, c // groups * taps, oh * ow])
    result = row.op("MatMul", row.input(1).reshape([groups, m // groups, -1]), columns).reshape(
        [n, m, oh, ow]
    )
    return [result + row.input(3).reshape([1, m, 1, 1]) if row.has(3) else result]


def _grid(row: Row, kernel: tuple[int, int], out: tuple[int, ...]) -> Array:
    """Where the kernel's elements lie without offsets, (1, 1, taps, 2, OH, OW)."""
    strides, dilations = (row.attribute(name, [1, 1]) for name in ("strides", "dilations"))
    pads = row.attribute("pads", [0] * 4)
    axes = [
        (np.arange(out[k]) * strides[k] - pads[k])[None, :] + (np.arange(kernel[k]) * dilations[k])[:, None]
        for k in (0, 1)
    ]
    shape = (kernel[0], kernel[1], out[0], out[1])
    high = np.broadcast_to(axes[0][:, None, :, None], shape)
    wide = np.broadcast_to(axes[1][None, :, None, :], shape)
    return np.stack([high, wide], 2).reshape(1, 1, kernel[0] * kernel[1], 2, *out)
