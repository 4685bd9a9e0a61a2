"""How good a model is on held-out data, measured with the model itself in an inference session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from tgonnx.data.answers import IGNORED
from tgonnx.data.axes import find_axes
from tgonnx.data.samples import Split
from tgonnx.graph.types import Array
from tgonnx.losses.fit import Fit
from tgonnx.losses.loss import Seen
from tgonnx.runtime.sessions import open_session

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
        tally = Tally()
        for seen, count in self.batches(model, limit, threads):
            tally.add(seen, count)
        return tally.mean

    def batches(
        self, model: onnx.ModelProto, limit: int | None = None, threads: int = 0
    ) -> Iterator[tuple[Seen, int]]:
        """What the model says of the samples, batch by batch, with the number of samples in each."""
        count = len(self.split)
        chosen = np.arange(count)
        if limit is not None and limit < count:
            chosen = np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
        axes = self.split.axes
        fixed = axes.fixed or find_axes(model).fixed
        loss, output = self.fit.definition, self.fit.output
        session = open_session(model, threads)
        teacher = open_session(self.teacher, threads) if loss.teacher == "outputs" else None
        activated = loss.strips is not None and ends_in(self.teacher, loss.strips)
        for part in self.split.pieces(chosen, fixed or BATCH):
            filled = np.resize(part, fixed) if fixed else part  # a fixed batch must be full
            batch = self.split.take(filled)
            outputs = axes.first(session.run(batch.feeds), len(part))
            taught = {} if teacher is None else axes.first(teacher.run(batch.feeds), len(part))
            answer = None if batch.answer is None else axes.first({output: batch.answer}, len(part))[output]
            yield Seen(self.fit, outputs, answer, taught, activated, axes), len(part)


@dataclass
class Tally:
    """The mean of a metric over batches."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, seen: Seen, count: int) -> None:
        """A batch of `count` samples."""
        counted = count * _share(seen.answer) if seen.fit.ignores else count
        self.total += seen.fit.definition.metric(seen) * counted
        self.weight += counted

    @property
    def mean(self) -> float:
        return self.total / self.weight if self.weight else 0.0


def _share(labels: Array | None) -> float:
    """How many of the labels count."""
    return 1.0 if labels is None else float((labels != IGNORED).mean())


def ends_in(model: onnx.ModelProto, op_type: str) -> bool:
    """Is the first output made by this operator?"""
    name = model.graph.output[0].name
    return any(name in node.output and node.op_type == op_type for node in model.graph.node)
