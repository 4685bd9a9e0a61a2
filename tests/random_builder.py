"""What random models are built with: a builder of graphs, and the layers that most of their blocks use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

REDUCE_WITH_INPUT = {"ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18, "ReduceL2": 18}


class Builder:
    """A graph under construction; every `op` appends a node and returns the name of its first output."""

    def __init__(
        self, rng: np.random.Generator, opset: int, constant_nodes: bool, dynamic_batch: bool
    ) -> None:
        self.rng, self.opset, self.constant_nodes, self.dynamic_batch = (
            rng,
            opset,
            constant_nodes,
            dynamic_batch,
        )
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        array, name = np.asarray(value, kind), self.name("c")
        tensor = numpy_helper.from_array(array, name)
        if self.constant_nodes and self.rng.random() < 0.5:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def ints(self, *value: int) -> str:
        return self.constant(value, np.int64)

    def weight(self, *shape: int) -> str:
        fan = max(int(np.prod(shape[1:])), 1)
        return self.constant(self.rng.standard_normal(shape) / np.sqrt(fan))

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [self.name(op_type.lower()) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(op_type, list(inputs), names, name=self.name(op_type), **attributes)
        )
        return names[0] if outputs == 1 else names

    def reduce(self, op_type: str, x: str, axes: Sequence[int], keepdims: int = 1) -> str:
        if self.opset >= REDUCE_WITH_INPUT[op_type]:
            return self.op(op_type, x, self.ints(*axes), keepdims=keepdims)
        return self.op(op_type, x, axes=list(axes), keepdims=keepdims)

    def split(self, x: str, axis: int, sizes: Sequence[int]) -> list[str]:
        if self.opset >= 13:
            return self.op("Split", x, self.ints(*sizes), outputs=len(sizes), axis=axis)
        return self.op("Split", x, outputs=len(sizes), axis=axis, split=list(sizes))

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def activation(self, x: str) -> str:
        name = self.pick("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus", "Identity")
        return self.op(name, x)


def conv(b: Builder, x: str, c: int, out: int, kernel: int = 3, group: int = 1, stride: int = 1) -> str:
    w = b.weight(out, c // group, kernel, kernel)
    extra = [b.weight(out)] if b.rng.random() < 0.7 else []
    pad = [kernel // 2] * 4
    y = b.op("Conv", x, w, *extra, group=group, pads=pad, strides=[stride] * 2, kernel_shape=[kernel] * 2)
    return batch_norm(b, y, out) if b.rng.random() < 0.5 else y


def batch_norm(b: Builder, x: str, c: int) -> str:
    scale, shift, mean = (b.constant(b.rng.standard_normal(c)) for _ in range(3))
    return b.op("BatchNormalization", x, scale, shift, mean, b.constant(b.rng.random(c) + 0.5))


def linear(b: Builder, x: str, c: int, out: int) -> str:
    y = b.op("MatMul", x, b.weight(c, out))
    return b.op("Add", y, b.weight(out)) if b.rng.random() < 0.7 else y


def layer_norm(b: Builder, x: str, c: int) -> str:
    if b.opset >= 17 and b.rng.random() < 0.6:
        return b.op("LayerNormalization", x, b.weight(c), b.weight(c), axis=-1, epsilon=1e-2)
    mean = sum_mean if b.rng.random() < 0.3 else lambda b, x, c: b.reduce("ReduceMean", x, [-1])
    centred = b.op("Sub", x, mean(b, x, c))
    spread = mean(b, b.op("Mul", centred, centred), c)
    y = b.op("Div", centred, b.op("Sqrt", b.op("Add", spread, b.constant(1e-2))))
    return b.op("Mul", y, b.weight(c))


def sum_mean(b: Builder, x: str, c: int) -> str:
    """The mean over the last axis as compilers of JAX and TensorFlow write it: the sum, times 1/N."""
    total = b.reduce("ReduceSum", x, [-1])
    return (
        b.op("Mul", total, b.constant(1 / c)) if b.rng.random() < 0.5 else b.op("Div", total, b.constant(c))
    )


def rms_norm(b: Builder, x: str, c: int) -> str:
    spread = b.reduce("ReduceMean", b.op("Mul", x, x), [-1])
    return b.op("Mul", b.op("Div", x, b.op("Sqrt", b.op("Add", spread, b.constant(1e-2)))), b.weight(c))


def feed_forward(b: Builder, x: str, c: int) -> tuple[str, int]:
    hidden = int(b.rng.integers(3, 9))
    y = layer_norm(b, x, c)
    if b.rng.random() < 0.5:
        gate, value = b.split(linear(b, y, c, 2 * hidden), -1 if b.opset >= 11 else 2, [hidden, hidden])
        y = b.op("Mul", b.op("Sigmoid", gate), value)
    else:
        y = b.activation(linear(b, y, c, hidden))
    return b.op("Add", x, linear(b, y, hidden, c)), c
