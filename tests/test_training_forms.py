"""Models of every opset and floating-point type train with both engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tgonnx import engines
from tgonnx.data.samples import Batch
from tgonnx.engines.gradient_check import judge
from tgonnx.loading import load
from tgonnx.losses.fit import Fit
from tgonnx.runtime.versions import newest_versions
from tgonnx.training.recipe import Settings
from tgonnx.training.step import make_spec
from tgonnx.training.task import Task, Teacher

TRAINS = engines.choose() == "ort-training"
ENGINES: list[Any] = ["portable", "ort-training"] if TRAINS else ["portable"]


class Builder:
    """A convolutional classifier with operators whose form changed between opsets."""

    def __init__(self, opset: int, kind: Any) -> None:
        self.opset, self.kind = opset, kind
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def store(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        scale = np.sqrt(np.prod(shape[1:]))
        return self.store(name, (self.rng.normal(size=shape) / scale).astype(self.kind))

    def node(self, op_type: str, inputs: list[str], *outputs: str, **attributes: Any) -> None:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, list(outputs), name=name, **attributes))

    def moved(
        self, op_type: str, data: str, result: str, since: int, later: dict[str, Any], **fixed: Any
    ) -> None:
        """A node whose attributes `later` are inputs since an opset."""
        if self.opset < since:
            values = {k: v.tolist() for k, v in later.items()}
            self.node(op_type, [data], *result.split(), **values, **fixed)
            return
        names = [self.store(f"{result.split()[0]}.{k}", v) for k, v in later.items()]
        self.node(op_type, [data, *names], *result.split(), **fixed)

    def build(self) -> onnx.ModelProto:
        kind, opset = self.kind, self.opset
        self.node("Conv", ["x", self.weight("w1", 6, 3, 3, 3)], "a", kernel_shape=[3, 3], pads=[1] * 4)
        values = {"scale": 1, "shift": 0, "mean": 0, "variance": 1}
        stored = [self.store(name, np.full(6, value, kind)) for name, value in values.items()]
        self.node("BatchNormalization", ["a", *stored], "b")
        self.moved("Clip", "b", "c", 11, {"min": np.array(-2, kind), "max": np.array(2, kind)})
        self.moved("Dropout", "c", "d", 12, {"ratio": np.array(0.5, np.float32)})
        self.node("MaxPool", ["d"], "e", kernel_shape=[2, 2], strides=[2, 2])
        self.node("AveragePool", ["e"], "f", kernel_shape=[2, 2], strides=[1, 1], pads=[1, 1, 0, 0])
        scales = np.array([1, 1, 2, 2], np.float32)
        if opset < 10:
            self.moved("Upsample", "f", "g", 9, {"scales": scales}, mode="nearest")
        elif opset < 11:
            self.node("Resize", ["f", self.store("scales", scales)], "g", mode="nearest")
        else:
            roi = self.store("roi", np.zeros(0, np.float32))
            self.node("Resize", ["f", roi, self.store("scales", scales)], "g", mode="linear")
        self.moved("Pad", "g", "h", 11, {"pads": np.array([0, 0, 1, 1, 0, 0, 0, 0])}, mode="reflect")
        bounds = {"starts": np.array([0, 0]), "ends": np.array([8, 8]), "axes": np.array([2, 3])}
        self.moved("Slice", "h", "i", 10, bounds)
        self.node("PRelu", ["i", self.weight("slope", 6, 1, 1)], "j")
        self.moved("Split", "j", "k l", 13, {"split": np.array([3, 3])}, axis=1)
        self.node("Sum", ["k", "l"], "m")
        self.moved("ReduceSum", "m", "n", 13, {"axes": np.array([3])}, keepdims=0)
        self.moved("Unsqueeze", "n", "o", 13, {"axes": np.array([1])})
        self.moved("Squeeze", "o", "p", 13, {"axes": np.array([1])})
        self.node("Flatten", ["p"], "q")
        bias = self.store("bias", np.zeros(5, kind))
        self.node("Gemm", ["q", self.weight("w2", 5, 24), bias], "r", transB=1)
        self.node("Softmax", ["r"], "y", axis=1)
        elem = int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
        x = helper.make_tensor_value_info("x", elem, ["N", 3, 8, 8])
        y = helper.make_tensor_value_info("y", elem, ["N", 5])
        graph = helper.make_graph(self.nodes, "forms", [x], [y], self.initializers)
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 19 else 10)
        onnx.checker.check_model(model, full_check=True)
        return model


NEWEST = int(onnx.defs.onnx_opset_version())
FORMS = [
    *((opset, np.float32) for opset in (7, 8, 9, 10, 11, 12, 13, 17, 21, min(24, NEWEST))),
    *((opset, kind) for opset in (10, 17) for kind in (np.float64, np.float16)),
]


@pytest.mark.parametrize(("opset", "kind"), FORMS, ids=str)
def test_every_form_trains(tmp_path: Path, opset: int, kind: Any) -> None:
    onnx.save(Builder(opset, kind).build(), tmp_path / "model.onnx")
    model = load(tmp_path / "model.onnx")
    x = np.random.default_rng(1).normal(size=(8, 3, 8, 8)).astype(kind)
    batch = Batch({"x": x}, np.arange(8) % 5)
    fit = Fit("ce", "y", 1)
    task = Task(None, fit, Teacher(model.original, fit, 1, imitation=0.0), None)  # type: ignore[arg-type]
    spec = make_spec(model.proto, task, Settings(threads=1), batch)
    feeds = task.teacher.feeds(batch) | {"tgonnx.lr": np.zeros((), np.float32)}
    trained = {name for group in spec.groups for name in group.names}
    assert trained == {"w1", "scale", "shift", "slope", "w2", "bias"}
    for engine in ENGINES:
        gradients, _ = engines.first_step(spec, feeds, engine, 1)
        verdict = judge(spec, gradients, feeds, 1)
        assert verdict.judged
        assert verdict.passed, verdict
        assert verdict.error < 0.01


def test_the_newest_versions_are_those_of_the_runtime() -> None:
    opset, ir = newest_versions()
    if TRAINS:
        assert (opset, ir) == (21, 10)
    assert 18 <= opset <= NEWEST
    assert 10 <= ir <= int(onnx.IR_VERSION)
