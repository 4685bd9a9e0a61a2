"""How good a model is on held-out data, measured with the model itself in an inference session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.data.samples import Split
from tgonnx.graph.declared import fixed_size, model_inputs
from tgonnx.losses.fit import Fit
from tgonnx.runtime.sessions import Feeds, Session, open_session

Array = NDArray[Any]
BATCH = 250


@dataclass(frozen=True)
class Metric:
    """Accuracy for `ce` (0..1, higher is better), else the loss (lower is better).

    `teacher` is the original model, which `distill` compares with.
    """

    fit: Fit
    split: Split
    teacher: onnx.ModelProto

    @property
    def name(self) -> str:
        return "accuracy" if self.fit.loss == "ce" else f"{self.fit.loss} loss"

    @property
    def higher_is_better(self) -> bool:
        return self.fit.loss == "ce"

    def __call__(self, model: onnx.ModelProto, limit: int | None = None, threads: int = 0) -> float:
        """The metric over all samples, or over `limit` of them, always the same ones."""
        count = len(self.split)
        chosen = np.arange(count)
        if limit is not None and limit < count:
            chosen = np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
        size = fixed_batch(model) or BATCH
        session = open_session(model, threads)
        teacher = open_session(self.teacher, threads) if self.fit.loss == "distill" else None
        total = weight = 0.0
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            filled = np.resize(part, size) if fixed_batch(model) else part  # a fixed batch must be full
            batch = self.split.take(filled)
            outputs = session.run(batch.feeds)
            value = self._value(outputs, batch.feeds, batch.answer, teacher, len(part))
            total, weight = total + value * len(part), weight + len(part)
        return total / max(weight, 1.0)

    def _value(
        self, outputs: Feeds, feeds: Feeds, answer: Array | None, teacher: Session | None, count: int
    ) -> float:
        if teacher is not None:
            pairs = ((outputs[name], value) for name, value in teacher.run(feeds).items())
            return sum(_relative_error(a[:count], b[:count]) for a, b in pairs if b.dtype.kind == "f")
        assert answer is not None  # made sure of by `validate`
        output, wanted = outputs[self.fit.output][:count].astype(np.float64), answer[:count]
        if self.fit.loss == "ce":
            return float((output.argmax(self.fit.class_axis) == wanted).mean())
        if self.fit.loss == "l1":
            return float(np.abs(output - wanted).mean())
        if self.fit.loss == "mse":
            return float(np.square(output - wanted).mean())
        return _binary_cross_entropy(output, wanted.astype(np.float64), ends_in(self.teacher, "Sigmoid"))


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The number of samples that the model's inputs insist on, if they do."""
    for value in model_inputs(model):
        dims = value.type.tensor_type.shape.dim
        if dims and (size := fixed_size(dims[0])) is not None:
            return size
    return None


def ends_in(model: onnx.ModelProto, op_type: str) -> bool:
    """Is the first output made by this operator?"""
    name = model.graph.output[0].name
    return any(name in node.output and node.op_type == op_type for node in model.graph.node)


def _relative_error(a: Array, b: Array) -> float:
    """Squared error over the variance of what is wanted."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.square(a - b).mean() / (np.square(b - b.mean()).mean() + 1e-12))


def _binary_cross_entropy(output: Array, wanted: Array, probabilities: bool) -> float:
    if probabilities:
        p = np.clip(output, 1e-7, 1 - 1e-7)
        return float(-(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean())
    return float((np.maximum(output, 0) - output * wanted + np.log1p(np.exp(-np.abs(output)))).mean())
