"""Steps one after the other, and what is watched on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from tgonnx.data.samples import Batch
from tgonnx.engines import Trainer
from tgonnx.errors import DivergedError
from tgonnx.graph.types import Array
from tgonnx.passes.add_objective import LOSS, TASK
from tgonnx.training.progress import Journal, Phase, Progress
from tgonnx.training.recipe import Settings
from tgonnx.training.task import Task

WATCHED = 2000  # held-out samples that are looked at during training


class Diverged(DivergedError):
    """The loss is not finite; `values` are the last good initializers, by name, at most 50 steps old."""

    def __init__(self, message: str, values: Mapping[str, Array]) -> None:
        super().__init__(message)
        self.values = values


class Loop:
    """Runs steps, watches the loss, keeps the last good state and says how long it will take."""

    def __init__(
        self, trainer: Trainer, task: Task, phase: Phase, steps: int, recipe: Settings, journal: Journal
    ) -> None:
        self.trainer, self.task, self.phase, self.steps, self.journal = trainer, task, phase, steps, journal
        self.per_epoch = task.steps_per_epoch(recipe.batch)
        self.epochs = max(1, math.ceil(steps / self.per_epoch))
        self.began = time.monotonic()
        self.loss = math.nan
        self.metric: float | None = None
        self.good = trainer.parameters()

    def step(self, index: int, batch: Batch, scalars: Mapping[str, float]) -> dict[str, float]:
        """One step. Raises Diverged if the loss is not finite."""
        feeds = self.task.teacher.feeds(batch) | {k: np.array(v, np.float32) for k, v in scalars.items()}
        found = {name: float(value) for name, value in self.trainer.step(feeds).items()}
        if not all(math.isfinite(value) for value in found.values()):
            raise Diverged(
                f"{self.phase}: the loss is {found[LOSS]} at step {index + 1} of {self.steps} "
                f"(before it: {self.loss:.4g}); try a smaller --lr",
                self.good,
            )
        self.loss = found[TASK] if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * found[TASK]
        if (index + 1) % 50 == 0:
            self.good = self.trainer.parameters()
        return found

    def progress(self, index: int, cost: float | None) -> Progress:
        done = index + 1
        spent = time.monotonic() - self.began
        epoch = min(self.epochs, index // self.per_epoch + 1)
        left = spent / done * (self.steps - done + self.journal.later)
        return Progress(self.phase, epoch, self.epochs, done, self.steps, self.loss, self.metric, cost, left)

    def ends_epoch(self, index: int) -> bool:
        return (index + 1) % self.per_epoch == 0 or index + 1 == self.steps
