"""A training step, built and tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice

import numpy as np
import onnx
from onnx import numpy_helper

from tgonnx.data.samples import Batch
from tgonnx.engines import ParameterGroup, StepSpec, Trainer, build
from tgonnx.engines.rehearsal import rehearse
from tgonnx.engines.sizes import SizedTrainer
from tgonnx.engines.trainer import session
from tgonnx.graph.types import Array
from tgonnx.losses.nodes import ANSWER, TEACHER
from tgonnx.passes.add_objective import TASK, Penalty, add_objective
from tgonnx.passes.prepare_training import LOGITS, TrainingCopy, prepare_training
from tgonnx.training.progress import Journal
from tgonnx.training.recipe import Settings
from tgonnx.training.task import Task


def make_trainer(
    proto: onnx.ModelProto, task: Task, recipe: Settings, batch: Batch, penalty: Penalty | None = None
) -> Trainer:
    """A trainer for batches like `batch`. With a penalty, `proto` is a gated model with free gates."""
    spec = make_spec(proto, task, recipe, batch, penalty)
    return build(spec, recipe.engine, recipe.threads, recipe.seed, recipe.device)


def rehearsed_trainer(
    copy: TrainingCopy,
    task: Task,
    recipe: Settings,
    batch: Batch,
    journal: Journal,
    penalty: Penalty | None = None,
) -> Trainer:
    """A trainer after its first step went well in another process. Raises UnsupportedError if it did not."""
    spec = with_objective(copy, task, recipe, batch, penalty)
    feeds = task.teacher.feeds(batch)
    outcome = rehearse(spec, feeds, recipe.engine, recipe.threads, recipe.device)
    for note in outcome.notes:
        journal.note(note, "engine")
    trainer = build(spec, outcome.engine, recipe.threads, recipe.seed, recipe.device)
    if task.split.samples.shape_of is None:
        return trainer

    def at_sizes_of(given: Mapping[str, Array]) -> Trainer:
        inputs = {name: given[name] for name in batch.feeds}
        answers = {n.removeprefix(ANSWER): v for n, v in given.items() if n.startswith(ANSWER)}
        other = Batch(inputs, None, batch.axes, answers)
        again = make_spec(copy.source, task, recipe, other, penalty)
        return build(again, outcome.engine, recipe.threads, recipe.seed, recipe.device)

    return SizedTrainer(trainer, at_sizes_of, feeds)


def make_spec(
    proto: onnx.ModelProto, task: Task, recipe: Settings, batch: Batch, penalty: Penalty | None = None
) -> StepSpec:
    """The training graph of `make_trainer`, and what to update in it."""
    return with_objective(training_copy(proto, recipe, batch), task, recipe, batch, penalty)


def training_copy(proto: onnx.ModelProto, recipe: Settings, batch: Batch) -> TrainingCopy:
    """What of a training graph does not depend on the objective, for batches like `batch`."""
    return prepare_training(
        proto, {name: value.shape for name, value in batch.feeds.items()}, recipe.gradient
    )


def with_objective(
    copy: TrainingCopy, task: Task, recipe: Settings, batch: Batch, penalty: Penalty | None = None
) -> StepSpec:
    """The training graph of a copy, which stays as it is, and what to update in it."""
    feeds = task.teacher.feeds(batch)
    answers, outputs = (
        {name.removeprefix(start): value.shape for name, value in feeds.items() if name.startswith(start)}
        for start in (ANSWER, TEACHER)
    )
    model = add_objective(copy.model, task.fit, answers, outputs, penalty, task.teacher.imitation)
    groups = []
    if recipe.train_weights:
        groups += _weight_groups(copy.model, copy.weights, recipe)
    if penalty is not None:
        groups.append(ParameterGroup((LOGITS,), "adamw", "tgonnx.gate_lr", betas=(0.9, 0.99)))
    return StepSpec(model, tuple(groups), copy.statistics, recipe.clip, recipe.accumulate)


def stake(copy: TrainingCopy, task: Task, recipe: Settings, batches: int = 4) -> float:
    """What the task's loss has to lose: the loss with all gates closed less that with all open.

    The penalty is weighed in this unit, so that it means the same for losses of any size. Nothing has no statistics:
    where the loss is not finite with all gates closed (LayerNormalization), every other one is. `copy` is of a gated
    model.
    """
    drawn = list(islice(task.alike(recipe.batch, recipe.seed), batches))
    model = with_objective(copy, task, recipe, drawn[0]).model
    logits = next(tensor for tensor in model.graph.initializer if tensor.name == LOGITS)
    gates = np.arange(math.prod(logits.dims))

    def loss(is_open: Array) -> float:
        values = np.where(is_open, 0.5, -0.5).astype(np.float32).reshape(tuple(logits.dims))
        logits.CopyFrom(numpy_helper.from_array(values, LOGITS))
        runner = session(model, recipe.threads)
        return float(np.mean([runner.run([TASK], task.teacher.feeds(batch))[0] for batch in drawn]))

    least = loss(gates >= 0)
    found = loss(gates < 0) - least
    if not math.isfinite(found):
        found = loss(gates % 2 == 0) - least
    return found if math.isfinite(found) and found > 0 else max(abs(least), 1e-6)


def _weight_groups(model: onnx.ModelProto, names: tuple[str, ...], recipe: Settings) -> list[ParameterGroup]:
    """Matrices and kernels decay, vectors do not."""
    rank = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    parts = (
        (tuple(n for n in names if rank[n] > 1), recipe.decay),
        (tuple(n for n in names if rank[n] <= 1), 0.0),
    )
    return [
        ParameterGroup(members, recipe.optimizer, "tgonnx.lr", decay, clipped=True)
        for members, decay in parts
        if members
    ]
