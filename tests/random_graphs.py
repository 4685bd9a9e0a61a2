"""Random models for property tests: convolutional, transformer and recurrent blocks in random order and size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from random_builder import Builder, conv, feed_forward, layer_norm, linear, rms_norm


def residual(b: Builder, x: str, c: int) -> tuple[str, int]:
    hidden = int(b.rng.integers(2, 9))
    y = conv(b, b.activation(conv(b, x, c, hidden)), hidden, c)
    return b.op("Add", *b.pick((x, y), (y, x))), c


def plain(b: Builder, x: str, c: int) -> tuple[str, int]:
    out = int(b.rng.integers(3, 13))
    return b.activation(conv(b, x, c, out, kernel=b.pick(1, 3))), out


def branches(b: Builder, x: str, c: int) -> tuple[str, int]:
    sizes = [int(n) for n in b.rng.integers(2, 7, b.pick(2, 3))]
    parts = [b.activation(conv(b, x, c, n, kernel=b.pick(1, 3))) for n in sizes]
    if b.rng.random() < 0.5:
        parts, sizes = [*parts, x], [*sizes, c]
    return b.op("Concat", *parts, axis=b.pick(1, -3) if b.opset >= 11 else 1), sum(sizes)


def grouped(b: Builder, x: str, c: int) -> tuple[str, int]:
    group, each, out = b.pick(2, 3, 4), int(b.rng.integers(2, 5)), int(b.rng.integers(2, 5))
    y = conv(b, x, c, group * each, kernel=1)
    return b.activation(conv(b, y, group * each, group * out, group=group)), group * out


def depthwise(b: Builder, x: str, c: int) -> tuple[str, int]:
    times = b.pick(1, 1, 2)
    return conv(b, x, c, c * times, group=c), c * times


def squeeze_excite(b: Builder, x: str, c: int) -> tuple[str, int]:
    hidden = int(b.rng.integers(2, 6))
    pooled = b.op("GlobalAveragePool", x) if b.rng.random() < 0.5 else b.reduce("ReduceMean", x, [2, 3])
    y = b.op("Conv", pooled, b.weight(hidden, c, 1, 1), b.weight(hidden))
    y = b.op("Conv", b.op("Relu", y), b.weight(c, hidden, 1, 1), b.weight(c))
    return b.op("Mul", x, b.op("Sigmoid", y)), c


def split_join(b: Builder, x: str, c: int) -> tuple[str, int]:
    low = c // 2
    if low < 1 or c - low < 1:
        return x, c
    first, second = b.split(x, b.pick(1, -3) if b.opset >= 11 else 1, [low, c - low])
    second = b.op("Add", second, conv(b, second, c - low, c - low))
    return b.op("Concat", first, second, first, axis=1), c + low


def shuffle(b: Builder, x: str, c: int) -> tuple[str, int]:
    group, each = b.pick(2, 3), int(b.rng.integers(2, 5))
    y = conv(b, x, c, group * each, kernel=1)
    y = b.op("Reshape", y, b.ints(0, group, each, 8, 8))
    y = b.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return b.op("Reshape", y, b.ints(0, -1, 8, 8)), group * each


def pixel_shuffle(b: Builder, x: str, c: int) -> tuple[str, int]:
    out = int(b.rng.integers(2, 6))
    down = conv(b, x, c, out * 4, stride=2)
    mode = {"mode": b.pick("DCR", "CRD")} if b.opset >= 11 else {}
    return b.op("DepthToSpace", down, blocksize=2, **mode), out


def padded_shortcut(b: Builder, x: str, c: int) -> tuple[str, int]:
    more = int(b.rng.integers(1, 5))
    before = int(b.rng.integers(0, more + 1))
    pads = [0, before, 0, 0, 0, more - before, 0, 0]
    wide = b.op("Pad", x, b.ints(*pads)) if b.opset >= 11 else b.op("Pad", x, pads=pads)
    return b.op("Add", wide, conv(b, x, c, c + more)), c + more


def sliced(b: Builder, x: str, c: int) -> tuple[str, int]:
    if c < 4:
        return x, c
    start, end = 1, b.pick(c, c - 1, -1)
    size = (c if end == c else c - 1) - start
    if b.opset >= 10:
        return b.op("Slice", x, b.ints(start), b.ints(end), b.ints(b.pick(1, -3))), size
    return b.op("Slice", x, starts=[start], ends=[end], axes=[1]), size


def gathered(b: Builder, x: str, c: int) -> tuple[str, int]:
    indices = b.rng.permutation(c)[: max(2, c - 1)]
    return b.op("Gather", x, b.ints(*indices.tolist()), axis=1), len(indices)


def transposed(b: Builder, x: str, c: int) -> tuple[str, int]:
    group, each, out = b.pick(1, 1, 2), int(b.rng.integers(2, 4)), int(b.rng.integers(2, 5))
    y = conv(b, x, c, group * each, stride=2)
    w = b.weight(group * each, out, 2, 2)
    return b.op("ConvTranspose", y, w, b.weight(group * out), group=group, strides=[2, 2]), group * out


def transposed_depthwise(b: Builder, x: str, c: int) -> tuple[str, int]:
    """Learned upsampling, channel by channel."""
    times = b.pick(1, 1, 2)
    down, w = conv(b, x, c, c, stride=2), b.weight(c, times, 4, 4)
    return b.op("ConvTranspose", down, w, group=c, strides=[2, 2], pads=[1] * 4), c * times


def deinterleaved(b: Builder, x: str, c: int) -> tuple[str, int]:
    """Even channels gate odd ones."""
    half = int(b.rng.integers(2, 6))
    y = conv(b, x, c, 2 * half, kernel=1)
    if b.opset < 10:
        return y, 2 * half
    even, odd = (b.op("Slice", y, b.ints(k), b.ints(2**31 - 1), b.ints(1), b.ints(2)) for k in (0, 1))
    return b.op("Mul", b.op("Sigmoid", even), odd), half


def instance_norm(b: Builder, x: str, c: int) -> tuple[str, int]:
    return b.op("InstanceNormalization", x, b.weight(c), b.weight(c)), c


def group_norm(b: Builder, x: str, c: int) -> tuple[str, int]:
    """As exporters write it: reshape, instance norm, reshape back, scale."""
    group, each = b.pick(2, 3), int(b.rng.integers(2, 4))
    y = conv(b, x, c, group * each)
    z = b.op("Reshape", y, b.ints(0, group, -1))
    z = b.op("InstanceNormalization", z, b.constant(np.ones(group)), b.constant(np.zeros(group)))
    z = b.op("Reshape", z, b.ints(0, group * each, 8, 8))
    return b.op("Mul", z, b.weight(group * each, 1, 1)), group * each


def weight_standardized(b: Builder, x: str, c: int) -> tuple[str, int]:
    out = int(b.rng.integers(3, 9))
    w = b.weight(out, c, 3, 3)
    w = b.op("Sub", w, b.reduce("ReduceMean", w, [1, 2, 3]))
    norm = b.op("Sqrt", b.op("Add", b.reduce("ReduceMean", b.op("Mul", w, w), [1, 2, 3]), b.constant(1e-3)))
    return b.op("Conv", x, b.op("Div", w, norm), pads=[1] * 4), out


def shared(b: Builder, x: str, c: int) -> tuple[str, int]:
    w, bias = b.weight(c, c, 3, 3), b.weight(c)
    y = b.op("Relu", b.op("Conv", x, w, bias, pads=[1] * 4))
    return b.op("Conv", y, w, bias, pads=[1] * 4), c


def channel_statistics(b: Builder, x: str, c: int) -> tuple[str, int]:
    """Channels normalised in the decomposed way, and spatial attention from channel mean and maximum."""
    mean = b.reduce("ReduceMean", x, [b.pick(1, -3)])
    if b.rng.random() < 0.5:
        centred = b.op("Sub", x, mean)
        spread = b.reduce("ReduceMean", b.op("Mul", centred, centred), [1])
        return b.op("Div", centred, b.op("Sqrt", b.op("Add", spread, b.constant(1e-2)))), c
    pooled = b.op("Concat", mean, b.reduce("ReduceMax", x, [1]), axis=1)
    return b.op("Mul", x, b.op("Sigmoid", b.op("Conv", pooled, b.weight(1, 2, 3, 3), pads=[1] * 4))), c


Block = Callable[[Builder, str, int], tuple[str, int]]
IMAGE_BLOCKS: tuple[Block, ...] = (
    residual, plain, branches, grouped, depthwise, squeeze_excite, split_join, shuffle, pixel_shuffle,
    padded_shortcut, sliced, gathered, transposed, instance_norm, group_norm, weight_standardized, shared,
    channel_statistics, transposed_depthwise, deinterleaved,
)  # fmt: skip


def attention(b: Builder, x: str, c: int) -> tuple[str, int]:
    heads, dim, tokens = int(b.rng.integers(2, 4)), int(b.rng.integers(2, 5)), 6
    y = b.pick(layer_norm, rms_norm)(b, x, c)
    kind = b.pick("separate", "fused", "grouped")
    if kind == "fused":
        qkv = b.op("Reshape", linear(b, y, c, 3 * heads * dim), b.ints(0, tokens, 3, heads, dim))
        qkv = b.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
        q, k, v = (b.op("Gather", qkv, b.constant(i, np.int64), axis=0) for i in range(3))
    else:
        shared_heads = heads if kind == "separate" else 1
        q = b.op("Reshape", linear(b, y, c, heads * dim), b.ints(0, 0, heads, dim))
        k, v = (b.op("Reshape", linear(b, y, c, shared_heads * dim), b.ints(0, 0, -1, dim)) for _ in range(2))
        q, k, v = (b.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, k, v))
        if shared_heads != heads and b.rng.random() < 0.5:
            k, v = (b.op("Expand", part, b.ints(1, heads, 1, 1)) for part in (k, v))
    k = b.op("Transpose", k, perm=[0, 1, 3, 2])
    scores = b.op("Mul", b.op("MatMul", q, k), b.constant(dim**-0.5))
    if b.rng.random() < 0.4:
        scores = b.op("Add", scores, b.weight(heads, tokens, tokens))
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1 if b.opset >= 13 else 3), v)
    mixed = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.ints(0, tokens, heads * dim))
    return b.op("Add", x, linear(b, mixed, heads * dim, c)), c


def token_mixing(b: Builder, x: str, c: int) -> tuple[str, int]:
    tokens, hidden = 6, int(b.rng.integers(2, 6))
    y = b.op("Transpose", x, perm=[0, 2, 1])
    y = linear(b, b.op("Tanh", linear(b, y, tokens, hidden)), hidden, tokens)
    return b.op("Add", x, b.op("Transpose", y, perm=[0, 2, 1])), c


def recurrent(b: Builder, x: str, c: int) -> tuple[str, int]:
    kind, hidden, ways = b.pick("LSTM", "GRU", "RNN"), int(b.rng.integers(3, 7)), b.pick(1, 2)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    direction = "bidirectional" if ways == 2 else b.pick("forward", "reverse")
    w, r = b.weight(ways, gates * hidden, c), b.weight(ways, gates * hidden, hidden)
    extra = {"linear_before_reset": b.pick(0, 1)} if kind == "GRU" else {}
    y = b.op("Transpose", x, perm=[1, 0, 2])
    bias = b.weight(ways, 2 * gates * hidden)
    y = b.op(kind, y, w, r, bias, hidden_size=hidden, direction=direction, **extra)
    y = b.op("Transpose", y, perm=[2, 0, 1, 3])
    return b.op("Reshape", y, b.ints(0, 6, ways * hidden)), ways * hidden


SEQUENCE_BLOCKS: tuple[Block, ...] = (
    attention,
    feed_forward,
    token_mixing,
    recurrent,
    attention,
    feed_forward,
)


def image_model(b: Builder, length: int) -> str:
    b.inputs.append(_input("image", (b.dynamic_batch, 3, 8, 8)))
    x, c = conv(b, "image", 3, int(b.rng.integers(4, 10))), 0
    c = b_channels(b, x)
    for _ in range(length):
        x, c = b.pick(*IMAGE_BLOCKS)(b, x, c)
    if b.rng.random() < 0.5:
        x = b.op("Flatten", b.op("GlobalAveragePool", x), axis=1)
    else:
        x = b.op("Reshape", conv(b, x, c, 4), b.ints(0, -1))
        c = 4 * 64
    trans = b.pick(0, 1)
    return b.op("Gemm", x, b.weight(5, c) if trans else b.weight(c, 5), b.weight(5), transB=trans)


def b_channels(b: Builder, x: str) -> int:
    """The channels of a convolution that was just made, normalised or not."""
    shapes = {t.name: t.dims for t in b.initializers}
    shapes |= {n.output[0]: n.attribute[0].t.dims for n in b.nodes if n.op_type == "Constant"}
    last = next(n for n in reversed(b.nodes) if n.op_type == "Conv")
    return int(shapes[last.input[1]][0])


def sequence_model(b: Builder, length: int) -> str:
    c = int(b.rng.integers(8, 13))
    if b.rng.random() < 0.5:
        b.inputs.append(_input("tokens", (b.dynamic_batch, 6), TensorProto.INT64))
        x = b.op("Gather", b.weight(11, c), "tokens", axis=0)
        x = b.op("Add", x, b.weight(6, c))
    else:
        b.inputs.append(_input("sequence", (b.dynamic_batch, 6, 5)))
        x = linear(b, "sequence", 5, c)
    for _ in range(length):
        x, c = b.pick(*SEQUENCE_BLOCKS)(b, x, c)
    return linear(b, b.reduce("ReduceMean", layer_norm(b, x, c), [1], keepdims=0), c, 4)


def _input(name: str, shape: tuple[Any, ...], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    dims = ["batch" if shape[0] else 2, *shape[1:]]
    return helper.make_tensor_value_info(name, kind, dims)


def random_model(seed: int, opset: int = 17, length: int = 4) -> onnx.ModelProto:
    """A model drawn from `seed`; sometimes with Constant nodes, a dynamic batch, and an inner value as an output."""
    rng = np.random.default_rng(seed)
    b = Builder(rng, opset, bool(rng.random() < 0.5), bool(rng.random() < 0.5))
    y = (image_model if rng.random() < 0.6 else sequence_model)(b, length)
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
    inner = next(n for n in b.nodes if n.op_type in ("Conv", "MatMul"))
    if rng.random() < 0.2 and inner.output[0] != y:
        outputs.append(helper.make_tensor_value_info(inner.output[0], TensorProto.FLOAT, None))
    graph = helper.make_graph(b.nodes, "random", b.inputs, outputs, b.initializers)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10)
    return onnx.shape_inference.infer_shapes(model)
