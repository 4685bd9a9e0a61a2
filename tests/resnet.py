"""A ResNet of three stages for 28 x 28 grey images, as a training graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.engines import ParameterGroup, StepSpec
from tgonnx.graph.builder import Emitter, Value
from tgonnx.ops import trainable_gate as gates


class ResNet:
    """Builds the training copy: cross-entropy loss, BatchNormalization in training mode, optional gates."""

    def __init__(self, depth: int, width: int, gated: bool, seed: int = 0) -> None:
        self.e = Emitter("")
        self.rng = np.random.default_rng(seed)
        self.initializers: list[TensorProto] = []
        self.parameters: list[str] = []
        self.statistics: dict[str, str] = {}
        self.gated = gated
        self.gates: list[str] = []
        self.spec = self._build((depth - 2) // 6, width)

    def store(self, name: str, array: np.ndarray) -> Value:
        self.initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return self.e.value(name)

    def conv(self, x: Value, name: str, c: int, m: int, k: int, stride: int) -> Value:
        w = self.store(f"{name}.w", self.rng.normal(size=(m, c, k, k)) * np.sqrt(2 / (c * k * k)))
        self.parameters.append(w.name)
        if self.gated and c > 1:
            logits = self.store(f"{name}.gates", np.full(c, 0.5))
            self.gates.append(logits.name)
            gate = self.e.op(gates.op_type("one"), logits, domain=gates.DOMAIN)
            w = w * gate.reshape([1, c, 1, 1])
        pads = [k // 2] * 4
        y = self.e.op("Conv", x, w, kernel_shape=[k, k], pads=pads, strides=[stride, stride])
        values = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}
        stored = {key: self.store(f"{name}.{key}", np.full(m, v)) for key, v in values.items()}
        self.parameters += [stored["scale"].name, stored["bias"].name]
        out, mean, var = self.e.ops("BatchNormalization", y, *stored.values(), count=3, training_mode=1)
        self.statistics.update({stored["mean"].name: mean.name, stored["var"].name: var.name})
        return out

    def _build(self, blocks: int, width: int) -> StepSpec:
        e = self.e
        x = e.op("Relu", self.conv(e.value("x"), "stem", 1, width, 3, 1))
        c = width
        for stage in range(3):
            for block in range(blocks):
                m, stride = width * 2**stage, 2 if stage and not block else 1
                name = f"s{stage}b{block}"
                y = e.op("Relu", self.conv(x, f"{name}a", c, m, 3, stride))
                y = self.conv(y, f"{name}b", m, m, 3, 1)
                skip = self.conv(x, f"{name}skip", c, m, 1, stride) if c != m else x
                x, c = e.op("Relu", y + skip), m
        features = e.op("Flatten", e.op("GlobalAveragePool", x))
        w, b = self.store("fc.w", self.rng.normal(size=(c, 10)) * 0.1), self.store("fc.b", np.zeros(10))
        self.parameters += [w.name, b.name]
        scores = e.op("Gemm", features, w, b)
        loss = e.op("SoftmaxCrossEntropyLoss", scores, e.value("t", TensorProto.INT64))
        info = helper.make_tensor_value_info
        inputs = [info("x", 1, ["N", 1, 28, 28]), info("t", 7, ["N"])]
        graph = helper.make_graph(e.nodes, "resnet", inputs, [info(loss.name, 1, [])], self.initializers)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(gates.DOMAIN, 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=8, functions=[gates.function("one")]
        )
        groups = [ParameterGroup(tuple(self.parameters), "sgd", "lr", weight_decay=1e-4)]
        if self.gates:
            groups.append(ParameterGroup(tuple(self.gates), "adamw", "gate_lr"))
        onnx.checker.check_model(model)
        return StepSpec(model, tuple(groups), self.statistics)
