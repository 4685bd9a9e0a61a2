"""Forms of a convolution's weight gradient that a CPU computes faster than one product for each kernel element.

* `DEPTHWISE`: batch and channels become channels of one image, dy the kernels, and one depthwise convolution, for which
  onnxruntime has blocked kernels, gives a gradient for each sample. Measured (16 samples, one thread): 960 channels of
  3 x 3 from 2.3 to 0.15 ms, 384 of 6 x 6 from 1.6 to 0.18, 96 of 48 x 48 in the same time.
* `PRODUCTS`: one product over batch and space instead of one for each sample, whose sums over the batch are read and
  written again and again. Measured: 512 x 512 x 3 x 3 on 2 x 2 places from 34 (onnxruntime-training: 9.7) to 3.4 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.row import DEPTHWISE, PRODUCTS, Row

BLOCK = 16  # of channels, the largest that onnxruntime has
MOVED = 1.5  # what copying a value into patches costs, measured in sums of the product over the batch
CACHE = 2**21  # weights that stay near the processor while a batch is summed up


def depthwise_fits(row: Row, weight: tuple[int, ...], groups: int) -> bool:
    """Whether `depthwise` is there for this node and the faster form."""
    x, y = row.static(row.x), row.static(row.y)
    if DEPTHWISE not in row.shortcuts or x is None or y is None or len(weight) != 4:
        return False
    return weight[1] == 1 and weight[0] == groups and (x[0] * weight[0]) % BLOCK == 0


def depthwise(
    row: Row, x: Value, dy: Value, weight: tuple[int, ...], strides: Sequence[int], dilations: Sequence[int],
    begins: Sequence[int],
) -> Value:  # fmt: skip
    """dW (M, 1, *kernel) of a depthwise convolution over two axes with static shapes, padded by `begins` in front."""
    shape, out = row.static(row.x), row.static(row.y)
    assert shape is not None
    assert out is not None
    channels, kernel = shape[0] * weight[0], weight[2:]
    ends = [
        (o - 1) * s + (k - 1) * d + 1 - size - begin
        for o, s, k, d, size, begin in zip(
            out[2:], strides, kernel, dilations, shape[2:], begins, strict=True
        )
    ]
    image = x.reshape([1, channels, *shape[2:]])
    if min(ends) < 0:  # what no window reaches
        image = image.slice(
            [0, 0], [size + min(end, 0) for size, end in zip(shape[2:], ends, strict=True)], [2, 3]
        )
    each = row.op(
        "Conv", image, dy.reshape([channels, 1, *out[2:]]), group=channels, kernel_shape=out[2:],
        pads=[*begins, *(max(end, 0) for end in ends)], strides=dilations, dilations=strides,
    )  # fmt: skip
    return each.reshape([shape[0], -1]).sum([0], False).reshape(weight)


def product_fits(row: Row, weight: tuple[int, ...], groups: int) -> bool:
    """Whether copying patches costs less than summing over the batch."""
    y = row.static(row.y)
    if PRODUCTS not in row.shortcuts or y is None or groups > 1 or len(weight) < 3:
        return False
    places = math.prod(y[2:])
    columns = math.prod(weight[1:])
    return MOVED * places * (columns + weight[0]) <= weight[0] * columns


def sums_in_memory(row: Row, weight: tuple[int, ...]) -> bool:
    """Whether what onnxruntime-training's kernel adds up, sample by sample, does not stay near the processor."""
    y = row.static(row.y)
    return y is not None and math.prod(weight) > CACHE and 8 * math.prod(y[2:]) <= weight[0]


def product(row: Row, taps: Sequence[Value], dy: Value, weight: tuple[int, ...]) -> Value:
    """dW (M, C, *kernel): dy (M, batch and space) times patches (C and kernel, batch and space), transposed."""
    y = row.static(row.y)
    assert y is not None
    batch, places = y[0], math.prod(y[2:])
    patches = row.emitter.concat([tap.reshape([batch, weight[1], 1, places]) for tap in taps], 2)
    columns = math.prod(weight[1:])
    right = patches.reshape([batch, columns, places]).transpose([1, 0, 2]).reshape([columns, batch * places])
    left = dy.reshape([batch, weight[0], places]).transpose([1, 0, 2]).reshape([weight[0], batch * places])
    return row.op("Gemm", left, right, transB=1).reshape(weight)
