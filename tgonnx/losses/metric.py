"""How good a model is on held-out data, measured with the model itself in an inference session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from tgonnx.data.samples import Split
from tgonnx.graph.declared import fixed_size, model_inputs
from tgonnx.losses.fit import Fit
from tgonnx.losses.loss import Seen
from tgonnx.runtime.sessions import Feeds, open_session

BATCH = 250


@dataclass(frozen=True)
class Metric:
    """The loss's own metric: accuracy for `ce` (0..1, higher is better), else the loss (lower is better).

    `teacher` is the original model, which `distill` compares with.
    """

    fit: Fit
    split: Split
    teacher: onnx.ModelProto

    @property
    def name(self) -> str:
        return self.fit.definition.measured

    @property
    def higher_is_better(self) -> bool:
        return self.fit.definition.higher_is_better

    def __call__(self, model: onnx.ModelProto, limit: int | None = None, threads: int = 0) -> float:
        """The metric over all samples, or over `limit` of them, always the same ones."""
        count = len(self.split)
        chosen = np.arange(count)
        if limit is not None and limit < count:
            chosen = np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
        size = fixed_batch(model) or BATCH
        loss = self.fit.definition
        session = open_session(model, threads)
        teacher = open_session(self.teacher, threads) if loss.teacher == "outputs" else None
        activated = loss.strips is not None and ends_in(self.teacher, loss.strips)
        total = weight = 0.0
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            filled = np.resize(part, size) if fixed_batch(model) else part  # a fixed batch must be full
            batch = self.split.take(filled)
            outputs = _first(session.run(batch.feeds), len(part))
            taught = {} if teacher is None else _first(teacher.run(batch.feeds), len(part))
            answer = None if batch.answer is None else batch.answer[: len(part)]
            value = loss.metric(Seen(self.fit, outputs, answer, taught, activated))
            total, weight = total + value * len(part), weight + len(part)
        return total / max(weight, 1.0)


def _first(outputs: Feeds, count: int) -> Feeds:
    """What was said of the first `count` samples; what has no axes is of no sample."""
    return {name: value[:count] if np.ndim(value) else value for name, value in outputs.items()}


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
