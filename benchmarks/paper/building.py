"""What the paper's networks are built with: nodes, and weights drawn at random."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.graph.builder import Emitter, Value

OPSET = 17
Infos = list[onnx.ValueInfoProto]


class Network:
    """Nodes and initial weights of a network; `value(name)` is one of its inputs."""

    def __init__(self, seed: int) -> None:
        self.e = Emitter("")
        self.rng = np.random.default_rng(seed)
        self.stored: list[TensorProto] = []

    def value(self, name: str, elem_type: int = TensorProto.FLOAT) -> Value:
        """A value of the graph by its name."""
        return self.e.value(name, elem_type)

    def store(self, name: str, array: np.ndarray) -> Value:
        """A weight."""
        self.stored.append(numpy_helper.from_array(array.astype(np.float32), name))
        return self.e.value(name)

    def named(self, value: Value, name: str) -> None:
        """Give the last node's output, which is `value`, the name of an output of the graph."""
        assert self.e.nodes[-1].output[0] == value.name
        self.e.nodes[-1].output[0] = name

    def conv(
        self, x: Value, name: str, sizes: tuple[int, int, int], stride: int = 1, bias: bool = False
    ) -> Value:
        """Convolution of `sizes` (channels in, out, kernel), as wide as its input; He et al. 2015 initial weights."""
        channels, out, kernel = sizes
        scale = np.sqrt(2 / (channels * kernel * kernel))
        operands = [
            x,
            self.store(f"{name}.weight", self.rng.normal(0, scale, (out, channels, kernel, kernel))),
        ]
        if bias:
            operands.append(self.store(f"{name}.bias", np.zeros(out)))
        shape = {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4, "strides": [stride, stride]}
        return self.e.op("Conv", *operands, **shape)

    def batch_norm(self, x: Value, name: str, channels: int) -> Value:
        """BatchNormalization that has seen nothing yet."""
        start = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}
        norm = [self.store(f"{name}.{key}", np.full(channels, value)) for key, value in start.items()]
        return self.e.op("BatchNormalization", x, *norm, epsilon=1e-5, momentum=0.9)

    def model(self, name: str, inputs: Infos, outputs: Infos) -> onnx.ModelProto:
        """The model, checked."""
        graph = helper.make_graph(self.e.nodes, name, inputs, outputs, self.stored)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """An input or output of floats."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def resnet(depth: int, width: int, seed: int = 0) -> onnx.ModelProto:
    """He et al. 2016 for images of 28 x 28 grey pixels: three stages, projections where the width changes."""
    net = Network(seed)
    x = net.value("image")
    x = net.e.op("Relu", net.batch_norm(net.conv(x, "stem", (1, width, 3)), "stem.bn", width))
    channels = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            out, stride, name = (
                width * 2**stage,
                2 if stage and not block else 1,
                f"stage{stage + 1}.block{block + 1}",
            )
            y = net.batch_norm(net.conv(x, f"{name}.conv1", (channels, out, 3), stride), f"{name}.bn1", out)
            y = net.conv(net.e.op("Relu", y), f"{name}.conv2", (out, out, 3))
            y = net.batch_norm(y, f"{name}.bn2", out)
            if channels != out:
                x = net.batch_norm(
                    net.conv(x, f"{name}.skip", (channels, out, 1), stride), f"{name}.skip.bn", out
                )
            x, channels = net.e.op("Relu", y + x), out
    features = net.e.op("Flatten", net.e.op("GlobalAveragePool", x), axis=1)
    weight = net.store("classifier.weight", net.rng.normal(0, 0.1, (10, channels)))
    scores = net.e.op("Gemm", features, weight, net.store("classifier.bias", np.zeros(10)), transB=1)
    net.named(scores, "scores")
    return net.model(f"resnet{depth}", [floats("image", "N", 1, 28, 28)], [floats("scores", "N", 10)])
