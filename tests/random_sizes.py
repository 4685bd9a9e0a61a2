"""Blocks and models whose sizes are not known before they run: what exporters write for dynamic axes.

Sizes come from `Shape` and go through arithmetic, comparisons and `If` into reshape targets, pads, slices and `k`.
All blocks take and give images [batch, channels, height, width], or sequences [batch, length, channels].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from random_builder import Builder, conv, feed_forward, layer_norm, linear, rms_norm

INT64 = TensorProto.INT64


def size(b: Builder, x: str, axis: int) -> str:
    """The size of one axis as a vector of one element, in one of the ways that exporters write."""
    if b.opset >= 15 and b.rng.random() < 0.4:
        return b.op("Shape", x, start=axis, end=axis + 1)
    shape = b.op("Shape", x)
    way = b.pick("gather", "scalar", "slice")
    if way == "scalar":
        return unsqueeze(b, b.op("Gather", shape, b.constant(axis, np.int64), axis=0), 0)
    if way == "gather":
        return b.op("Gather", shape, b.ints(axis), axis=0)
    return b.op("Slice", shape, b.ints(axis), b.ints(axis + 1), b.ints(0))


def unsqueeze(b: Builder, x: str, *axes: int) -> str:
    if b.opset >= 13:
        return b.op("Unsqueeze", x, b.ints(*axes))
    return b.op("Unsqueeze", x, axes=list(axes))


def squeeze(b: Builder, x: str, *axes: int) -> str:
    return b.op("Squeeze", x, b.ints(*axes)) if b.opset >= 13 else b.op("Squeeze", x, axes=list(axes))


def vector(b: Builder, *parts: int | str) -> str:
    """A vector of sizes, numbers or computed."""
    return b.op("Concat", *(b.ints(p) if isinstance(p, int) else p for p in parts), axis=0)


def least(b: Builder, x: str, limit: int) -> str:
    """min(x, limit), as a `Min`, a `Where`, or a `Clip`."""
    way = b.pick("min", "where", "clip") if b.opset >= 12 else "where"
    if way == "min":
        return b.op("Min", x, b.ints(limit))
    if way == "clip":
        return b.op("Clip", x, "", b.constant(limit, np.int64))
    return b.op("Where", b.op("Less", x, b.ints(limit)), x, b.ints(limit))


def larger(b: Builder, x: str, y: str) -> str:
    if b.opset >= 12 and b.rng.random() < 0.5:
        return b.op("Max", x, y)
    return b.op("Where", b.op("Greater", x, y), x, y)


def missing(b: Builder, x: str, multiple: int) -> str:
    """How much a size lacks to a multiple."""
    m = b.ints(multiple)
    if b.rng.random() < 0.5:
        return b.op("Mod", b.op("Sub", m, b.op("Mod", x, m)), m)
    above = b.op("Div", b.op("Add", x, b.ints(multiple - 1)), m)
    return b.op("Sub", b.op("Mul", above, m), x)


def branch(b: Builder, make: Callable[[], str], shape: Any = None) -> onnx.GraphProto:
    """What `make` appends, as the body of an `If`."""
    outer, b.nodes = b.nodes, []
    y = make()
    body = helper.make_graph(
        b.nodes, b.name("body"), [], [helper.make_tensor_value_info(y, TensorProto.FLOAT, shape)]
    )
    b.nodes = outer
    return body


def either(
    b: Builder, condition: str, yes: Callable[[], str], no: Callable[[], str], shape: Any = None
) -> str:
    return str(b.op("If", condition, then_branch=branch(b, yes, shape), else_branch=branch(b, no, shape)))


# images


def split_channels(b: Builder, x: str, c: int) -> tuple[str, int]:
    """[n, c, h, w] to [n, c/k, k, h, w] and back, as in YOLO's heads, heat maps and shuffles."""
    k, each = b.pick(2, 3, 7), int(b.rng.integers(2, 4))
    y = conv(b, x, c, k * each, kernel=1)
    n, h, w = (size(b, y, axis) for axis in (0, 2, 3))
    y = b.op("Reshape", y, vector(b, n, each, k, h, w))
    way = b.pick("shuffle", "last", "softmax")
    if way == "shuffle":
        y = b.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    elif way == "last":
        y = b.op(
            "Transpose", b.op("Sigmoid", b.op("Transpose", y, perm=[0, 1, 3, 4, 2])), perm=[0, 1, 4, 2, 3]
        )
    else:
        y = b.op("Softmax", y, axis=1) if b.opset >= 13 else b.op("Relu", y)
    return b.op("Reshape", y, vector(b, n, b.pick(k * each, -1), h, w)), k * each


def padded_to_multiple(b: Builder, x: str, c: int) -> tuple[str, int]:
    block, out = b.pick(2, 4), int(b.rng.integers(2, 6))
    h, w = size(b, x, 2), size(b, x, 3)
    pads = vector(b, 0, 0, 0, 0, 0, 0, missing(b, h, block), missing(b, w, block))
    y = b.op("SpaceToDepth", b.op("Pad", x, pads), blocksize=block)
    y = conv(b, b.activation(y), c * block * block, out * block * block, kernel=1)
    y = b.op("DepthToSpace", y, blocksize=block)
    return b.op("Slice", y, b.ints(0, 0), vector(b, h, w), b.ints(2, 3)), out


def padded_to_square(b: Builder, x: str, c: int) -> tuple[str, int]:
    h, w = size(b, x, 2), size(b, x, 3)
    side = larger(b, h, w)
    pads = vector(b, 0, 0, 0, 0, 0, 0, b.op("Sub", side, h), b.op("Sub", side, w))
    y = b.op("Pad", x, pads)
    y = b.op("Add", y, b.op("Transpose", y, perm=[0, 1, 3, 2]))
    return b.op("Slice", y, b.ints(0, 0), vector(b, h, w), b.ints(2, 3)), c


def tokens(b: Builder, x: str, c: int) -> tuple[str, int]:
    """Pixels as tokens, and back to the image."""
    out = int(b.rng.integers(3, 9))
    n, h, w = (size(b, x, axis) for axis in (0, 2, 3))
    y = b.op("Reshape", x, vector(b, n, c, b.pick(b.op("Mul", h, w), -1)))
    y = linear(b, b.op("Transpose", y, perm=[0, 2, 1]), c, out)
    y = b.op("Transpose", b.activation(layer_norm(b, y, out)), perm=[0, 2, 1])
    return b.op("Reshape", y, vector(b, n, b.pick(out, -1), h, w)), out


def up_to(b: Builder, x: str, c: int) -> tuple[str, int]:
    """Down by a stride, and up to the size of what it came from."""
    out = int(b.rng.integers(3, 8))
    y = conv(b, x, c, out, stride=2)
    sizes = b.op("Slice", b.op("Shape", x), b.ints(2), b.ints(4), b.ints(0))
    target = b.op("Concat", b.op("Slice", b.op("Shape", y), b.ints(0), b.ints(2), b.ints(0)), sizes, axis=0)
    options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    y = (
        b.op("Resize", y, "", "", target, **options)
        if b.opset >= 13
        else b.op("Resize", y, b.constant([]), b.constant([]), target, **options)
    )
    return b.op("Concat", x, y, axis=1), c + out


def cropped(b: Builder, x: str, c: int) -> tuple[str, int]:
    """A slice with clamped ends: at most 40 rows, the last 50 columns."""
    h, w = size(b, x, 2), size(b, x, 3)
    start = larger(b, b.op("Sub", w, b.ints(50)), b.ints(0))
    y = b.op("Slice", x, b.ints(0), least(b, h, 40), b.ints(2))
    return b.op("Slice", y, start, w, b.ints(3)), c


def mean_by_hand(b: Builder, x: str, c: int) -> tuple[str, int]:
    """Centred by the sum over the pixels, divided by how many there are."""
    count = b.op("Cast", b.op("Mul", size(b, x, 2), size(b, x, 3)), to=TensorProto.FLOAT)
    mean = b.op("Div", b.reduce("ReduceSum", x, [2, 3]), count)
    return b.op("Sub", x, mean), c


def coordinates(b: Builder, x: str, c: int) -> tuple[str, int]:
    """A channel that counts the rows, made of `Range`."""
    n, h, w = (size(b, x, axis) for axis in (0, 2, 3))
    rows = b.op("Range", b.constant(0, np.int64), squeeze(b, h, 0), b.constant(1, np.int64))
    rows = b.op("Mul", b.op("Cast", rows, to=TensorProto.FLOAT), b.constant(0.1))
    rows = b.op("Expand", unsqueeze(b, rows, 0, 1, 3), vector(b, n, 1, h, w))
    return b.op("Concat", x, rows, axis=1), c + 1


def filled(b: Builder, x: str, c: int) -> tuple[str, int]:
    """A constant image of a computed shape, and a bias expanded to one."""
    if b.rng.random() < 0.5:
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.3])
        y = b.op("ConstantOfShape", b.op("Shape", x), value=value)
        return b.op("Add", x, y), c
    shape = vector(b, size(b, x, 0), c, size(b, x, 2), size(b, x, 3))
    return b.op("Mul", x, b.op("Expand", b.weight(1, c, 1, 1), shape)), c


def decided_by_size(b: Builder, x: str, c: int) -> tuple[str, int]:
    """An `If` on a comparison of a size; a branch may hold a convolution."""
    axis, limit = b.pick((2, 41), (3, 60), (0, 2))
    condition = squeeze(b, b.op(b.pick("Greater", "Less", "Equal"), size(b, x, axis), b.ints(limit)), 0)
    return _either(b, condition, x, c)


def decided_by_input(b: Builder, x: str, c: int) -> tuple[str, int]:
    if not any(value.name == "flag" for value in b.inputs):
        b.inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    return _either(b, "flag", x, c)


def _either(b: Builder, condition: str, x: str, c: int) -> tuple[str, int]:
    declared = b.pick(None, [None, c, None, None])
    if b.rng.random() < 0.5:
        return either(b, condition, lambda: b.op("Tanh", x), lambda: b.op("Sigmoid", x), declared), c
    w = b.weight(c, c, 3, 3)
    yes, no = lambda: b.op("Conv", x, w, pads=[1] * 4), lambda: b.op("Neg", x)
    return b.op("Add", either(b, condition, yes, no, declared), x), c


def best_pixels(b: Builder, x: str, c: int) -> str:
    """The tail of a detector: the scores of the k = min(pixels, 100) best ones, which vary smoothly."""
    y = b.op("Transpose", b.op("Reshape", x, b.ints(0, c, -1)), perm=[0, 2, 1])
    scores = squeeze(b, linear(b, y, c, 1), 2)
    best, _ = b.op("TopK", scores, least(b, size(b, scores, 1), 100), outputs=2, axis=1)
    return linear(b, unsqueeze(b, best, 2), 1, 4)


def grouped_statistics(b: Builder, x: str, c: int) -> tuple[str, int]:
    """GroupNormalization as exporters write it: an axis of some channels times all of space."""
    group, each = b.pick(1, 2, 3), int(b.rng.integers(2, 4))
    y = conv(b, x, c, group * each)
    z = b.op("Reshape", y, b.ints(0, group, -1))
    z = b.op("InstanceNormalization", z, b.constant(np.ones(group)), b.constant(np.zeros(group)))
    return b.op("Mul", b.op("Reshape", z, b.op("Shape", y)), b.weight(group * each, 1, 1)), group * each


def shuffled(b: Builder, x: str, c: int) -> tuple[str, int]:
    """Channels of groups in turn."""
    group, each = b.pick(2, 3), int(b.rng.integers(2, 5))
    y = conv(b, x, c, group * each, kernel=1)
    z = b.op("Transpose", b.op("Reshape", y, b.ints(0, group, each, -1)), perm=[0, 2, 1, 3])
    return b.op("Reshape", z, b.op("Shape", y)), group * each


SIZED_BLOCKS = (
    split_channels, padded_to_multiple, padded_to_square, tokens, up_to, cropped, mean_by_hand, coordinates,
    filled, decided_by_size, decided_by_input, grouped_statistics, shuffled,
)  # fmt: skip


def sized_image_model(b: Builder, length: int, blocks: tuple[Any, ...]) -> tuple[str, int]:
    """Images of any height and width; the output and its rank."""
    batch, height, width = b.pick(
        ("batch", "height", "width"), (None, None, None), (1, "h", "w"), ("?", "?", "?")
    )
    b.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, height, width]))
    x, c = conv(b, "image", 3, 8, kernel=b.pick(1, 3)), 8
    for _ in range(length):
        x, c = b.pick(*(SIZED_BLOCKS if b.rng.random() < 0.6 else blocks))(b, x, c)
    tail = b.pick("pool", "map", "best", "flat")
    if tail == "best":
        return best_pixels(b, x, c), 3
    if tail == "map":
        return str(b.op("Conv", x, b.weight(4, c, 1, 1))), 4
    if tail == "pool":
        return squeezed_if_one(b, linear(b, b.op("Flatten", b.op("GlobalAveragePool", x)), c, 5)), 2
    n, h, w = (size(b, x, axis) for axis in (0, 2, 3))
    y = b.op("Reshape", conv(b, x, c, 6), vector(b, n, 2, 3, b.op("Mul", h, w)))
    return str(b.op("Transpose", y, perm=[0, 3, 1, 2])), 4


def squeezed_if_one(b: Builder, x: str) -> str:
    """torch.squeeze(x, 0) of a batch that may be anything."""
    if b.rng.random() < 0.5:
        return x
    one = squeeze(b, b.op("Equal", size(b, x, 0), b.ints(1)), 0)
    return either(b, one, lambda: squeeze(b, x, 0), lambda: b.op("Identity", x))


# sequences


def sized_attention(b: Builder, x: str, c: int) -> tuple[str, int]:
    return cross_attention(b, x, x, c), c


def cross_attention(b: Builder, x: str, memory: str, c: int) -> str:
    """Heads by computed reshape targets; a causal mask made from the lengths, or cut from a table."""
    heads, dim = int(b.rng.integers(2, 4)), int(b.rng.integers(2, 5))
    y = b.pick(layer_norm, rms_norm)(b, x, c)
    n, t, s = size(b, x, 0), size(b, x, 1), size(b, memory, 1)

    def split(z: str, length: str) -> str:
        target = b.pick(
            vector(b, n, length, heads, dim), vector(b, n, -1, heads, dim), b.ints(0, 0, heads, dim)
        )
        return str(
            b.op("Transpose", b.op("Reshape", linear(b, z, c, heads * dim), target), perm=[0, 2, 1, 3])
        )

    q, k, v = split(y, t), split(memory, s), split(memory, s)
    scores = b.op("Mul", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2])), b.constant(dim**-0.5))
    scores = b.op("Where", causal(b, t, s), scores, b.constant(-1e4)) if b.rng.random() < 0.6 else scores
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1 if b.opset >= 13 else 3), v)
    mixed = b.op("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = b.op("Reshape", mixed, b.pick(vector(b, n, t, heads * dim), b.ints(0, 0, -1)))
    return str(b.op("Add", x, linear(b, mixed, heads * dim, c)))


def causal(b: Builder, t: str, s: str) -> str:
    if b.rng.random() < 0.4:
        table = b.constant(np.tril(np.ones((128, 128), bool)), bool)
        return str(b.op("Slice", table, b.ints(0, 0), vector(b, t, s), b.ints(0, 1)))

    def places(length: str) -> str:
        return str(b.op("Range", b.constant(0, np.int64), squeeze(b, length, 0), b.constant(1, np.int64)))

    later = b.op("Greater", unsqueeze(b, places(s), 0), unsqueeze(b, places(t), 1))
    return str(b.op("Not", later))


def stateful(b: Builder, x: str, c: int) -> tuple[str, int]:
    """A recurrent net whose first state is zeros for as many samples as come, perhaps through an `If`."""
    kind, hidden = b.pick(("GRU", 3), ("LSTM", 4)), int(b.rng.integers(3, 7))
    y = b.op("Transpose", x, perm=[1, 0, 2])
    shape = vector(b, 1, size(b, x, 0), hidden)
    state = b.op("ConstantOfShape", shape)
    if b.rng.random() < 0.3:
        one = squeeze(b, b.op("Equal", size(b, x, 0), b.ints(1)), 0)
        state = either(
            b,
            one,
            lambda: b.op("ConstantOfShape", shape),
            lambda: b.op("Expand", b.weight(1, 1, hidden), shape),
        )
    states = [state] * (2 if kind[0] == "LSTM" else 1)
    w, r = b.weight(1, kind[1] * hidden, c), b.weight(1, kind[1] * hidden, hidden)
    y = b.op(kind[0], y, w, r, b.weight(1, 2 * kind[1] * hidden), "", *states, hidden_size=hidden)
    return b.op("Transpose", squeeze(b, y, 1), perm=[1, 0, 2]), hidden


def last_steps(b: Builder, x: str, c: int) -> tuple[str, int]:
    """At most the last ten steps."""
    t = size(b, x, 1)
    return b.op("Slice", x, larger(b, b.op("Sub", t, b.ints(10)), b.ints(0)), t, b.ints(1)), c


def mean_of_steps(b: Builder, x: str, c: int) -> tuple[str, int]:
    count = b.op("Cast", size(b, x, 1), to=TensorProto.FLOAT)
    return b.op("Sub", x, b.op("Div", b.reduce("ReduceSum", x, [1]), count)), c


SIZED_STEPS = (sized_attention, feed_forward, stateful, last_steps, mean_of_steps, sized_attention)


def sized_sequence_model(b: Builder, length: int) -> tuple[str, int]:
    """Sequences of any length, sometimes with a second one of another length; the output and its rank."""
    c = int(b.rng.integers(8, 13))
    names = b.pick(("batch", "length", "source"), (None, None, None))
    if b.rng.random() < 0.5:
        b.inputs.append(helper.make_tensor_value_info("tokens", INT64, list(names[:2])))
        x = b.op("Gather", b.weight(11, c), "tokens", axis=0)
        x = b.op("Add", x, b.op("Slice", b.weight(128, c), b.ints(0), size(b, "tokens", 1), b.ints(0)))
    else:
        b.inputs.append(helper.make_tensor_value_info("sequence", TensorProto.FLOAT, [*names[:2], 5]))
        x = linear(b, "sequence", 5, c)
    memory = ""
    if b.rng.random() < 0.3 and names[0]:
        b.inputs.append(helper.make_tensor_value_info("memory", TensorProto.FLOAT, [names[0], names[2], 7]))
        memory = b.activation(linear(b, "memory", 7, c))
    for _ in range(length):
        before, (x, c) = c, b.pick(*SIZED_STEPS)(b, x, c)
        if memory and c == before and b.rng.random() < 0.5:
            x = cross_attention(b, x, memory, c)
        elif c != before:
            memory = ""  # its width no longer fits
    if b.rng.random() < 0.5:
        return linear(b, x, c, 4), 3
    return squeezed_if_one(b, linear(b, b.reduce("ReduceMean", x, [1], keepdims=0), c, 4)), 2
