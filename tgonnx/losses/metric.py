"""How good a model is on held-out data, measured with the model itself in an inference session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from tgonnx.data.axes import find_axes
from tgonnx.data.samples import Split
from tgonnx.losses.figures import Seen
from tgonnx.losses.fit import Fit, ends_in_activation
from tgonnx.runtime.sessions import open_session

BATCH = 250


@dataclass(frozen=True)
class Metric:
    """The figure of the output that learns first (`Fit.figure`), and those of the others.

    `teacher` is the original model, which outputs that follow it are compared with.
    """

    fit: Fit
    split: Split
    teacher: onnx.ModelProto

    @property
    def name(self) -> str:
        return self.fit.figure.title

    @property
    def higher_is_better(self) -> bool:
        return self.fit.figure.higher_is_better

    def __call__(self, model: onnx.ModelProto, limit: int | None = None, threads: int = 0) -> float:
        """The metric over all samples, or over `limit` of them, always the same ones."""
        return self._measured([self.fit], model, limit, threads)[0]

    def others(self, model: onnx.ModelProto, threads: int = 0) -> dict[str, float]:
        """The figures of the other outputs over all samples, by what they are called."""
        parts = list(self.fit.others)
        titles = [f"{part.output}: {part.figure.title}" for part in parts]
        return dict(zip(titles, self._measured(parts, model, None, threads), strict=True)) if parts else {}

    def figures(self, model: onnx.ModelProto, threads: int = 0) -> list[float]:
        """The figures of all outputs over all samples, in the order of `Fit.parts`."""
        return self._measured(self.fit.parts, model, None, threads)

    def batches(self, model: onnx.ModelProto, limit: int | None = None, threads: int = 0) -> Iterator[Seen]:
        """What the model says of the samples, or of `limit` of them, batch by batch."""
        return (seen for (seen,) in self._seen([self.fit], model, limit, threads))

    def _measured(
        self, parts: Sequence[Fit], model: onnx.ModelProto, limit: int | None, threads: int
    ) -> list[float]:
        kept: list[list[Any]] = [[] for _ in parts]
        for batch in self._seen(parts, model, limit, threads):
            for part, seen, own in zip(parts, batch, kept, strict=True):
                own.append(part.figure.each(seen))
        return [part.figure.value(own) for part, own in zip(parts, kept, strict=True)]

    def _seen(
        self, parts: Sequence[Fit], model: onnx.ModelProto, limit: int | None, threads: int
    ) -> Iterator[list[Seen]]:
        count = len(self.split)
        chosen = np.arange(count)
        if limit is not None and limit < count:
            chosen = np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
        axes = self.split.axes
        fixed = axes.fixed or find_axes(model).fixed
        session = open_session(model, threads)
        follows = any(part.figure.against == "original" or part.originals for part in parts)
        teacher = open_session(self.teacher, threads) if follows else None
        activated = [ends_in_activation(part, self.teacher) for part in parts]
        for piece in self.split.pieces(chosen, fixed or BATCH):
            filled = np.resize(piece, fixed) if fixed else piece  # a fixed batch must be full
            batch = self.split.take(filled)
            outputs = axes.first(session.run(batch.feeds), len(piece))
            taught = {} if teacher is None else axes.first(teacher.run(batch.feeds), len(piece))
            given = {part.output: batch.answer_of(part.output) for part in parts} | dict(batch.answers)
            answers = axes.first({n: each for n, each in given.items() if each is not None}, len(piece))
            inputs = axes.take(batch.feeds, np.arange(len(piece))) if fixed else batch.feeds
            places = [axes.outputs.get(part.output) or 0 for part in parts]
            yield [
                Seen(part, outputs, answers.get(part.output), taught, ends, len(piece), axis, answers, inputs)
                for part, ends, axis in zip(parts, activated, places, strict=True)
            ]
