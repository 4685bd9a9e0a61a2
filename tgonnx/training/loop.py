"""Steps one after the other, and what is watched on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import numpy as np

from tgonnx.data.samples import Batch
from tgonnx.engines import Trainer
from tgonnx.errors import DivergedError, UsageError
from tgonnx.graph.types import Array
from tgonnx.passes.add_objective import LOSS, TASK
from tgonnx.training.keeper import Keeper
from tgonnx.training.progress import Journal, Phase, Progress
from tgonnx.training.recipe import Settings
from tgonnx.training.state import State
from tgonnx.training.task import Task

WATCHED = 2000  # held-out samples that are looked at during training
TOO_MUCH = 10.0  # times the loss at the start: then nothing is learned any more


Measure = Callable[[], float | None]


class Diverged(DivergedError):
    """The loss is not finite, or far above that at the start.

    `values` are the last good initializers, by name, at most 50 steps old.
    """

    def __init__(self, message: str, values: Mapping[str, Array]) -> None:
        super().__init__(message)
        self.values = values


class Loop:
    """Runs steps, watches the loss, keeps the last good state and says how long it will take.

    After each step the `keeper` gets the state, from which `resume` goes on in another process.
    """

    def __init__(
        self,
        trainer: Trainer,
        task: Task,
        phase: Phase,
        steps: int,
        recipe: Settings,
        journal: Journal,
        keeper: Keeper,
    ) -> None:
        self.trainer, self.task, self.phase, self.steps, self.journal = trainer, task, phase, steps, journal
        self.keeper, self.batch, self.parts, self.start = keeper, recipe.batch, recipe.accumulate, 0
        self.per_epoch = task.steps_per_epoch(recipe.batch, recipe.accumulate)
        self.epochs = max(1, math.ceil(steps / self.per_epoch))
        self.began = time.monotonic()
        self.loss = self.first = math.nan
        self.stake = 0.0  # what the task has to lose: less than that is no loss to start from
        self.metric: float | None = None
        self.good = trainer.parameters()

    def resume(self) -> State | None:
        """Go on from the state that the keeper has of this phase, if it has one. Raises UsageError."""
        state = self.keeper.resumed(self.phase)
        if state is None:
            return None
        if state.engine != self.trainer.engine:
            raise UsageError(f"the run trained with engine {state.engine}, here it is {self.trainer.engine}")
        self.trainer.restore(state.trainer())
        self.start, self.loss, self.first = state.step, state.loss, state.first
        self.good = self.trainer.parameters()
        self.began = time.monotonic() - state.seconds
        return state

    def catch_up(self, cost: float | None, measure: Measure | None = None) -> None:
        """After `resume`: tell the end of an epoch that was trained, but not told any more."""
        told = [record for record in self.journal.records if record.phase == self.phase]
        self.metric = told[-1].metric if told else None
        if self.start and self.ends_epoch(self.start - 1) and not (told and told[-1].step == self.start):
            self._tell(self.start - 1, cost, measure)

    def batches(self, seed: int) -> Iterator[tuple[int, Iterable[Batch]]]:
        """The steps that are left, with the batches of each; the first of all batches was the rehearsal's."""
        drawn = self.task.batches(self.batch, seed, 1 + self.start * self.parts)
        return ((index, islice(drawn, self.parts)) for index in range(self.start, self.steps))

    def step(self, index: int, batches: Iterable[Batch], scalars: Mapping[str, float]) -> dict[str, float]:
        """One step, of as many batches as are accumulated.

        Raises Diverged if the loss is not finite, or ten times that at the start.
        """
        given = {k: np.array(v, np.float32) for k, v in scalars.items()}
        parts = [self.trainer.step(self.task.teacher.feeds(batch) | given) for batch in batches]
        found = {name: float(np.mean([part[name] for part in parts], dtype=np.float64)) for name in parts[0]}
        if not all(math.isfinite(value) for value in found.values()):
            raise Diverged(
                f"{self.phase}: the loss is {found[LOSS]} at step {index + 1} of {self.steps} "
                f"(before it: {self.loss:.4g}); try a smaller --lr",
                self.good,
            )
        if math.isnan(self.first):
            self.loss = self.first = found[TASK]
        else:
            self.loss = 0.95 * self.loss + 0.05 * found[TASK]
        start = max(abs(self.first), self.stake)
        if self.loss > TOO_MUCH * start:
            raise Diverged(
                f"{self.phase}: the loss is {self.loss:.4g} at step {index + 1} of {self.steps}, more than "
                f"{TOO_MUCH:g} times that at the start ({start:.4g}); try a smaller --lr",
                self.good,
            )
        if (index + 1) % 50 == 0:
            self.good = self.trainer.parameters()
        return found

    def done(
        self,
        index: int,
        cost: float | None,
        measure: Measure | None = None,
        numbers: Mapping[str, float] | None = None,
        arrays: Mapping[str, Array] | None = None,
    ) -> None:
        """After all that belongs to a step: hand on the state, `numbers` and `arrays` of the phase in it, and tell.

        At the end of an epoch, `measure` gives the metric.
        """
        spent = time.monotonic() - self.began
        snapshot = self.trainer.snapshot()
        self.keeper.latest = State(
            self.phase, self.trainer.engine, index + 1, self.loss, self.first, spent, snapshot.arrays, numbers or {},
            arrays or {}, snapshot.parameters,
        )  # fmt: skip
        self._tell(index, cost, measure)
        self.keeper.keep_if_due(self.ends_epoch(index))

    def _tell(self, index: int, cost: float | None, measure: Measure | None) -> None:
        if not self.ends_epoch(index):
            self.journal.tell(self.progress(index, cost))
            return
        if measure is not None:
            self.metric = measure()
        self.journal.record(self.progress(index, cost))

    def progress(self, index: int, cost: float | None) -> Progress:
        done = index + 1
        spent = time.monotonic() - self.began
        epoch = min(self.epochs, index // self.per_epoch + 1)
        left = spent / done * (self.steps - done + self.journal.later)
        return Progress(self.phase, epoch, self.epochs, done, self.steps, self.loss, self.metric, cost, left)

    def ends_epoch(self, index: int) -> bool:
        return (index + 1) % self.per_epoch == 0 or index + 1 == self.steps
