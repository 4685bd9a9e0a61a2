"""What is to be learned: samples, losses, and the original as a teacher."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from tgonnx.data.augment import Augmentation
from tgonnx.data.axes import find_axes
from tgonnx.data.samples import Batch, Split
from tgonnx.graph.types import Array
from tgonnx.losses.fit import Fit
from tgonnx.losses.metric import Metric
from tgonnx.losses.nodes import ANSWER, TEACHER
from tgonnx.runtime.sessions import Feeds, Session, open_session
from tgonnx.training.answer_cache import AnswerCache
from tgonnx.training.recipe import Settings


class Teacher:
    """The original model, asked for its outputs batch by batch where a loss wants that.

    `imitation` is the share of a loss that follows it instead of the answers, where the loss can (`ce` does).
    """

    def __init__(self, model: onnx.ModelProto, fit: Fit, threads: int | None, imitation: float = 0.5) -> None:
        in_part = {part.output for part in fit.parts if part.may_follow}
        whole = {output for part in fit.parts for output in part.originals}
        self.imitation = imitation if in_part else 0.0
        self._wanted = whole | (in_part if self.imitation else set())
        self._session: Session | None = open_session(model, threads or 0) if self._wanted else None
        self._insists = find_axes(model).fixed
        self._answers = {output: kind for part in fit.parts for output, kind in part.answers.items()}
        self._cache: AnswerCache | None = None

    def remember(self, split: Split, recipe: Settings, steps: int, note: Callable[[str], None]) -> None:
        """Ask the original once for each sample, where samples are seen twice or more in so many steps, and unchanged.

        `note` is told what prevents that.
        """
        seen = steps * recipe.batch * recipe.accumulate
        limit = int(recipe.cache * 1e9)
        if self._session is not None and limit and not recipe.augment and seen >= 2 * len(split):
            size = min(recipe.batch, len(split))
            first = (
                recipe.seed if recipe.by_gates else recipe.seed + 1
            )  # of fine-tuning, if nothing comes before it
            self._cache = AnswerCache(split, self._outputs, size, first, limit, note)

    def feeds(self, batch: Batch) -> dict[str, Array]:
        """Inputs of the training copy for a batch: the model's own, and labels or what the teacher says."""
        feeds = dict(batch.feeds)
        if self._session is not None:
            outputs = self._outputs(batch) if self._cache is None else self._cache.outputs(batch)
            feeds |= {TEACHER + name: value for name, value in outputs.items()}
        for output, kind in self._answers.items():
            answer = batch.answer_of(output)
            assert answer is not None  # made sure of by `validate`
            feeds[ANSWER + output] = np.ascontiguousarray(answer, np.int64 if kind == "label" else np.float32)
        return feeds

    def _outputs(self, batch: Batch) -> dict[str, Array]:
        """What the original says of a batch, where it is wanted."""
        assert self._session is not None
        outputs = self._ask(self._session, batch)
        used = {n: v for n, v in outputs.items() if v.dtype.kind == "f" and n in self._wanted}
        return {name: value.astype(np.float32) for name, value in used.items()}

    def _ask(self, session: Session, batch: Batch) -> Feeds:
        """The outputs for a batch of any size; a model of fixed batch is asked in pieces, the last filled up."""
        count, size = len(batch), batch.axes.fixed or self._insists
        if size is None or size == count:
            return session.run(batch.feeds)
        chosen = [np.arange(start, start + size) % count for start in range(0, count, size)]
        return batch.axes.join([session.run(batch.axes.take(batch.feeds, piece)) for piece in chosen], count)


@dataclass(frozen=True)
class Task:
    """What is learned, and from what. `metric` is measured on the way; None if there is nothing to do that on.

    `augment` changes what is learned from.
    """

    split: Split
    fit: Fit
    teacher: Teacher
    metric: Metric | None
    augment: Augmentation | None = None

    def batches(self, size: int, seed: int, skip: int = 0) -> Iterator[Batch]:
        """Shuffled full batches without end: those that the seed gives, from the one after `skip` on."""
        plain = self._plain(size, seed, skip)
        if self.augment is None:
            return plain
        return (self.augment(batch, seed, number) for number, batch in enumerate(plain, skip))

    def _plain(self, size: int, seed: int, skip: int = 0) -> Iterator[Batch]:
        """The batches as the data have them."""
        size = min(size, len(self.split))
        return self.split.batches(size, np.random.default_rng(seed), sys.maxsize, skip)

    def alike(self, size: int, seed: int) -> Iterator[Batch]:
        """Those of `batches` that have the shapes of the first one, not augmented."""
        shapes = None
        for batch in self._plain(size, seed):
            shapes = shapes or batch.shapes
            if batch.shapes == shapes:
                yield batch

    def steps_per_epoch(self, size: int, accumulate: int = 1) -> int:
        """How many steps of `accumulate` batches see about all samples, at least one."""
        return max(1, self.split.batch_count(min(size, len(self.split))) // accumulate)
