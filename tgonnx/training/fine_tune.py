"""The small model trains on."""

from __future__ import annotations

import onnx

from tgonnx.graph.proto import with_values
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
) -> onnx.ModelProto:
    """The model with its weights trained for `steps` steps. Raises DivergedError, UnsupportedError."""
    seed = recipe.seed + 1
    first = next(task.batches(recipe.batch, seed))
    trainer = rehearsed_trainer(training_copy(proto, recipe, first), task, recipe, first, journal)
    schedule = named(recipe.schedule)
    loop = Loop(trainer, task, "fine-tune", steps, recipe, journal, keeper or Keeper())

    def measure() -> float | None:
        if task.metric is None:
            return None
        return task.metric(with_values(proto, trainer.parameters()), WATCHED, recipe.threads or 0)

    if loop.resume() is not None:
        loop.catch_up(cost, measure)
    for index, batches in loop.batches(seed):
        loop.step(index, batches, {"tgonnx.lr": recipe.lr * schedule.rate(index / steps, recipe.warmup)})
        loop.done(index, cost, measure)
    return with_values(proto, trainer.parameters())
