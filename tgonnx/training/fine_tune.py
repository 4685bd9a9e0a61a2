"""The small model trains on."""

from __future__ import annotations

import onnx

from tgonnx.graph.proto import with_values
from tgonnx.training.best import Best
from tgonnx.training.keeper import Keeper
from tgonnx.training.loop import WATCHED, Loop
from tgonnx.training.progress import Journal
from tgonnx.training.recipe import Settings
from tgonnx.training.schedule import named
from tgonnx.training.step import rehearsed_trainer, training_copy
from tgonnx.training.task import Task


def fine_tune(
    proto: onnx.ModelProto,
    task: Task,
    steps: int,
    recipe: Settings,
    journal: Journal,
    cost: float | None = None,
    keeper: Keeper | None = None,
    stake: float = 0.0,
) -> onnx.ModelProto:
    """The model with its weights trained for `steps` steps, as they were after the best epoch.

    That is the best by `task.metric`, or where it started, if a commit just measured that; without a metric, the last.
    `stake` is what the task's loss has to lose: ten times a loss that is nothing beside it is no divergence. Raises
    DivergedError, UnsupportedError.
    """
    seed = recipe.seed + 1
    first = next(task.batches(recipe.batch, seed))
    trainer = rehearsed_trainer(training_copy(proto, recipe, first), task, recipe, first, journal)
    schedule = named(recipe.schedule)
    keeper = keeper or Keeper()
    loop = Loop(trainer, task, "fine-tune", steps, recipe, journal, keeper)
    loop.stake = stake

    def measure() -> float | None:
        if task.metric is None:
            return None
        return task.metric(with_values(proto, trainer.parameters()), WATCHED, recipe.threads or 0)

    best = Best(task.metric is not None and task.metric.higher_is_better)
    last = journal.records[-1] if journal.records else None
    if (state := loop.resume()) is None:
        best.consider(last.metric if last and last.phase == "commit" else None, trainer.parameters())
    else:
        best.restore(state)
        loop.catch_up(cost, measure)
        if loop.start and loop.ends_epoch(loop.start - 1):
            best.consider(loop.metric, trainer.parameters())
    for index, batches in loop.batches(seed):
        loop.step(index, batches, {"tgonnx.lr": recipe.lr * schedule.rate(index / steps, recipe.warmup)})
        loop.done(index, cost, measure, best.numbers, best.arrays)
        if loop.ends_epoch(index):
            best.consider(loop.metric, trainer.parameters())
    return with_values(proto, best.values or trainer.parameters())
