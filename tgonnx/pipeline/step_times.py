"""How long a training step takes: forward, loss, backward and optimiser, as fine-tuning runs them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from tgonnx.analysis.model import Source
from tgonnx.data.sources import arrays, open_dataset
from tgonnx.loading import load
from tgonnx.losses.fit import validate
from tgonnx.runtime.equivalence import runnable_feeds
from tgonnx.runtime.latency import Latency, in_turns
from tgonnx.runtime.sessions import open_session
from tgonnx.training.progress import Journal
from tgonnx.training.recipe import Run, Settings
from tgonnx.training.step import rehearsed_trainer, training_copy
from tgonnx.training.task import Task, Teacher

BATCH = 32  # samples in a step, if nobody says


def step_times(models: Sequence[Source], batch: int, repeats: int, run: Run) -> list[Latency]:
    """Time a step of each model in turns: on random inputs, imitating itself, with the engine that would train it.

    Raises ModelError, and UnsupportedError for a model that no engine here can train.
    """
    steps, engines = [], []
    for source in models:
        model = load(source)
        session = open_session(model.original)
        feeds = runnable_feeds(model.original, session, seed=run.seed, batch=batch)[0]
        dataset = open_dataset(
            arrays({name: np.asarray(value) for name, value in feeds.items()}), model.original
        )
        fit = validate(dataset, model.original)
        task = Task(dataset.train, fit, Teacher(model.original, fit, run.threads), None)
        recipe = Settings(**(vars(run) | {"batch": batch}))
        first = next(task.batches(batch, run.seed))
        trainer = rehearsed_trainer(training_copy(model.proto, recipe, first), task, recipe, first, Journal())
        given = task.teacher.feeds(first) | {"tgonnx.lr": np.array(0.0, np.float32)}
        steps.append(partial(trainer.step, given))
        engines.append(trainer.engine)
    return in_turns(steps, engines, repeats, run.threads)
