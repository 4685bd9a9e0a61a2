"""What is to be learned: samples, losses, and the original as a teacher."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from tgonnx.data.axes import find_axes
from tgonnx.data.samples import Batch, Split
from tgonnx.graph.types import Array
from tgonnx.losses.fit import Fit
from tgonnx.losses.metric import Metric
from tgonnx.losses.nodes import ANSWER, TEACHER
from tgonnx.runtime.sessions import Feeds, Session, open_session


class Teacher:
    """The original model, asked for its outputs batch by batch where the loss wants that.

    `imitation` is the share of a loss that follows it instead of the answers, where the loss can (`ce` does).
    """

    def __init__(self, model: onnx.ModelProto, fit: Fit, threads: int | None, imitation: float = 0.5) -> None:
        loss = fit.definition
        follows = loss.teacher == "output"
        self.imitation = imitation if follows else 0.0
        asked = loss.teacher == "outputs" or self.imitation > 0 or bool(fit.others)
        self._session: Session | None = open_session(model, threads or 0) if asked else None
        self._insists = find_axes(model).fixed
        self._wanted = (
            None if loss.teacher == "outputs" else {*fit.others, *([fit.output] if self.imitation else [])}
        )
        self._answers = loss.answers
        self._kind = np.int64 if loss.answers == "label" else np.float32

    def feeds(self, batch: Batch) -> dict[str, Array]:
        """Inputs of the training copy for a batch: the model's own, and labels or what the teacher says."""
        feeds = dict(batch.feeds)
        if self._session is not None:
            outputs = self._ask(self._session, batch)
            wanted = outputs.keys() if self._wanted is None else self._wanted
            used = {n: v for n, v in outputs.items() if v.dtype.kind == "f" and n in wanted}
            feeds |= {TEACHER + name: value.astype(np.float32) for name, value in used.items()}
        if self._answers is None:
            return feeds
        assert batch.answer is not None
        return feeds | {ANSWER: np.ascontiguousarray(batch.answer, self._kind)}

    def _ask(self, session: Session, batch: Batch) -> Feeds:
        """The outputs for a batch of any size; a model of fixed batch is asked in pieces, the last filled up."""
        count, size = len(batch), batch.axes.fixed or self._insists
        if size is None or size == count:
            return session.run(batch.feeds)
        chosen = [np.arange(start, start + size) % count for start in range(0, count, size)]
        return batch.axes.join([session.run(batch.axes.take(batch.feeds, piece)) for piece in chosen], count)


@dataclass(frozen=True)
class Task:
    """What is learned, and from what. `metric` is measured on the way; None if there is nothing to do that on."""

    split: Split
    fit: Fit
    teacher: Teacher
    metric: Metric | None

    def batches(self, size: int, seed: int, skip: int = 0) -> Iterator[Batch]:
        """Shuffled full batches without end: those that the seed gives, from the one after `skip` on."""
        size = min(size, len(self.split))
        return self.split.batches(size, np.random.default_rng(seed), sys.maxsize, skip)

    def alike(self, size: int, seed: int) -> Iterator[Batch]:
        """Those of `batches` that have the shapes of the first one."""
        shapes = None
        for batch in self.batches(size, seed):
            shapes = shapes or batch.shapes
            if batch.shapes == shapes:
                yield batch

    def steps_per_epoch(self, size: int) -> int:
        return self.split.batch_count(min(size, len(self.split)))
