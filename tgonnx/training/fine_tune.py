"""The small model trains on."""

from __future__ import annotations

from itertools import islice

import onnx

from tgonnx.graph.proto import with_values
from tgonnx.training.loop import WATCHED, Loop
from tgonnx.training.progress import Journal
from tgonnx.training.recipe import Settings
from tgonnx.training.schedule import rate
from tgonnx.training.step import rehearsed_trainer, training_copy
from tgonnx.training.task import Task


def fine_tune(
    proto: onnx.ModelProto,
    task: Task,
    steps: int,
    recipe: Settings,
    journal: Journal,
    cost: float | None = None,
) -> onnx.ModelProto:
    """The model with its weights trained for `steps` steps. Raises DivergedError, UnsupportedError."""
    batches = task.batches(recipe.batch, recipe.seed + 1)
    first = next(batches)
    trainer = rehearsed_trainer(training_copy(proto, recipe, first), task, recipe, first, journal)
    loop = Loop(trainer, task, "fine-tune", steps, recipe, journal)
    for index, batch in enumerate(islice(batches, steps)):
        loop.step(index, batch, {"tgonnx.lr": recipe.lr * rate(index / steps)})
        if not loop.ends_epoch(index):
            journal.tell(loop.progress(index, cost))
            continue
        if task.metric is not None:
            now = with_values(proto, trainer.parameters())
            loop.metric = task.metric(now, WATCHED, recipe.threads or 0)
        journal.record(loop.progress(index, cost))
    return with_values(proto, trainer.parameters())
