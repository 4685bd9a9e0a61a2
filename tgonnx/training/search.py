"""Training in three phases.

* search: gates and weights learn together. The cost that is asked for sinks from all to the target in the first
  half, so that the network adapts on the way, and the learning rate of the gates sinks to zero;
* commit: the gates are made a mask that meets the target, and the model is cut. Gates near the balance of task and
  price swing about zero to the end: units are ranked by how much of the time their gates were open;
* fine-tune: the small model trains on.

The penalty is the paper's (Kim et al., equation 7) with a fixed lambda, or an augmented Lagrangian whose
multiplier grows while the cost is too high: penalty = mu d + s d^2, d = C(w)/Ctot - rho_t and
mu <- max(0, mu + gain d) after each step, in units of what the task has to lose (`stake`). There, hysteresis grows
so that gates come to rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tgonnx.analysis.cost import Target
from tgonnx.analysis.coupling import Coupling
from tgonnx.data.samples import Batch, Split
from tgonnx.engines import Device, EngineName, ParameterGroup, StepSpec, Trainer, build
from tgonnx.engines.rehearsal import rehearse
from tgonnx.engines.trainer import session
from tgonnx.errors import DivergedError
from tgonnx.graph.proto import with_values
from tgonnx.graph.types import Array
from tgonnx.losses.fit import Fit
from tgonnx.losses.metric import Metric, fixed_batch
from tgonnx.ops.trainable_gate import Shape
from tgonnx.passes.add_objective import (
    ANSWER,
    COST,
    HYSTERESIS,
    LOSS,
    MU,
    RHO,
    TASK,
    TEACHER,
    Penalty,
    add_objective,
)
from tgonnx.passes.insert_gates import insert_gates
from tgonnx.passes.prepare_training import LOGITS, prepare_training
from tgonnx.runtime.sessions import Feeds, Session, open_session
from tgonnx.selection.budget import floors

Phase = Literal["search", "commit", "fine-tune"]
Logits = npt.NDArray[np.float32]
STRENGTH, GAIN = 5.0, 0.25  # of the augmented Lagrangian, for searches of GAIN_STEPS steps
GAIN_STEPS = 300
FLOOR = 0.3  # of its units that a group keeps open while searching: starved layers fine-tune badly
ANNEAL = 0.5  # of the search: by then the target itself is asked for
SETTLE = 0.8  # of the search: by then gates rest where they cost least
MEMORY = 0.1  # of the search: the steps over which it counts how often each gate was open
REFRESH_BATCHES = 40
WATCHED = 2000  # held-out samples that are looked at during training


@dataclass(frozen=True)
class Recipe:
    """How to train. Rates are the highest of a schedule; `lambda_` None adapts it."""

    lr: float = 1e-3
    gate_lr: float = 0.02
    lambda_: float | None = None
    gradient: Shape = "one"
    batch: int = 64
    weight_decay: float = 1e-4
    optimizer: Literal["adamw", "sgd"] = "adamw"
    train_weights: bool = True
    seed: int = 0
    threads: int | None = None
    engine: EngineName = "auto"
    device: Device = "cpu"


@dataclass(frozen=True)
class Progress:
    """Where a run is. `loss` is the task's, over recent steps; `cost` is what is left now, a ratio."""

    phase: Phase
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    metric: float | None = None
    cost: float | None = None
    seconds_left: float | None = None


Listener = Callable[[Progress], None]


@dataclass
class Journal:
    """What happened, one record per epoch, and who wants to know.

    `later` is how much follows the present phase, in steps of this phase. `notes` say what was done otherwise
    than asked.
    """

    listener: Listener | None = None
    records: list[Progress] = field(default_factory=list)
    later: float = 0.0
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def tell(self, progress: Progress) -> None:
        if self.listener is not None:
            self.listener(progress)

    def record(self, progress: Progress) -> None:
        self.records.append(progress)
        self.tell(progress)


class Teacher:
    """The original model, asked for its outputs batch by batch by `distill`, and by `ce`.

    `imitation` is the share of a cross-entropy that follows its probabilities instead of the labels.
    """

    def __init__(self, model: onnx.ModelProto, fit: Fit, threads: int | None, imitation: float = 0.5) -> None:
        asked = fit.loss == "distill" or (fit.loss == "ce" and imitation > 0)
        self._session: Session | None = open_session(model, threads or 0) if asked else None
        self._insists = fixed_batch(model)
        self._only = fit.output if fit.loss == "ce" else None
        self.imitation = imitation if fit.loss == "ce" else 0.0
        self._kind = np.int64 if fit.loss == "ce" else np.float32

    def feeds(self, batch: Batch) -> dict[str, Array]:
        """Inputs of the training copy for a batch: the model's own, and labels or what the teacher says."""
        feeds = dict(batch.feeds)
        if self._session is not None:
            outputs = self._ask(self._session, batch.feeds)
            used = {n: v for n, v in outputs.items() if v.dtype.kind == "f" and self._only in (None, n)}
            feeds |= {TEACHER + name: value.astype(np.float32) for name, value in used.items()}
        if self._session is not None and self._only is None:
            return feeds
        assert batch.answer is not None
        return feeds | {ANSWER: np.ascontiguousarray(batch.answer, self._kind)}

    def _ask(self, session: Session, feeds: Feeds) -> Feeds:
        """The outputs for a batch of any size; a model of fixed batch is asked in pieces, the last filled up."""
        count = len(next(iter(feeds.values())))
        if self._insists is None or self._insists == count:
            return session.run(feeds)
        chosen = [np.arange(start, start + self._insists) % count for start in range(0, count, self._insists)]
        parts = [session.run({name: value[piece] for name, value in feeds.items()}) for piece in chosen]
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


@dataclass(frozen=True)
class Task:
    """What is learned, and from what. `metric` is None without held-out samples."""

    split: Split
    fit: Fit
    teacher: Teacher
    metric: Metric | None

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """Shuffled full batches without end."""
        rng = np.random.default_rng(seed)
        while True:
            yield from self.split.batches(min(size, len(self.split)), rng)

    def steps_per_epoch(self, size: int) -> int:
        return max(1, len(self.split) // min(size, len(self.split)))


def make_trainer(
    proto: onnx.ModelProto, task: Task, recipe: Recipe, batch: Batch, penalty: Penalty | None = None
) -> Trainer:
    """A trainer for batches like `batch`. With a penalty, `proto` is a gated model with free gates."""
    spec = make_spec(proto, task, recipe, batch, penalty)
    return build(spec, recipe.engine, recipe.threads, recipe.seed, recipe.device)


def rehearsed_trainer(
    proto: onnx.ModelProto,
    task: Task,
    recipe: Recipe,
    batch: Batch,
    journal: Journal,
    penalty: Penalty | None = None,
) -> Trainer:
    """`make_trainer` after its first step went well in another process. Raises UnsupportedError if it did not."""
    spec = make_spec(proto, task, recipe, batch, penalty)
    feeds = task.teacher.feeds(batch)
    outcome = rehearse(spec, feeds, recipe.engine, recipe.threads, recipe.device)
    for note in outcome.notes:
        journal.note(note)
    return build(spec, outcome.engine, recipe.threads, recipe.seed, recipe.device)


def make_spec(
    proto: onnx.ModelProto, task: Task, recipe: Recipe, batch: Batch, penalty: Penalty | None = None
) -> StepSpec:
    """The training graph of `make_trainer`, and what to update in it."""
    shapes = {name: value.shape for name, value in batch.feeds.items()}
    copy = prepare_training(proto, shapes, recipe.gradient)
    feeds = task.teacher.feeds(batch)
    answer = feeds[ANSWER].shape if ANSWER in feeds else None
    outputs = {n.removeprefix(TEACHER): v.shape for n, v in feeds.items() if n.startswith(TEACHER)}
    model = add_objective(copy.model, task.fit, answer, outputs, penalty, task.teacher.imitation)
    groups = []
    if recipe.train_weights:
        groups += _weight_groups(copy.model, copy.weights, recipe)
    if penalty is not None:
        groups.append(ParameterGroup((LOGITS,), "adamw", "tgonnx.gate_lr", betas=(0.9, 0.99)))
    return StepSpec(model, tuple(groups), copy.statistics)


def stake(gated: onnx.ModelProto, task: Task, recipe: Recipe, batches: int = 4) -> float:
    """What the task's loss has to lose: the loss with all gates closed less that with all open.

    The penalty is weighed in this unit, so that it means the same for losses of any size.
    """
    drawn = list(islice(task.batches(recipe.batch, recipe.seed), batches))
    model = make_spec(gated, task, recipe, drawn[0]).model
    logits = next(tensor for tensor in model.graph.initializer if tensor.name == LOGITS)
    losses = []
    for start in (-0.5, 0.5):
        logits.CopyFrom(numpy_helper.from_array(np.full(tuple(logits.dims), start, np.float32), LOGITS))
        runner = session(model, recipe.threads)
        losses.append(np.mean([runner.run([TASK], task.teacher.feeds(batch))[0] for batch in drawn]))
    found = float(losses[0] - losses[1])
    return found if math.isfinite(found) and found > 0 else max(abs(float(losses[1])), 1e-6)


def _weight_groups(model: onnx.ModelProto, names: tuple[str, ...], recipe: Recipe) -> list[ParameterGroup]:
    """Matrices and kernels decay, vectors do not."""
    rank = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    parts = (
        (tuple(n for n in names if rank[n] > 1), recipe.weight_decay),
        (tuple(n for n in names if rank[n] <= 1), 0.0),
    )
    decay_scale = (
        1.0 if recipe.optimizer == "sgd" else 100.0
    )  # decoupled decay is not divided by the gradients' size
    return [
        ParameterGroup(members, recipe.optimizer, "tgonnx.lr", decay * decay_scale)
        for members, decay in parts
        if members
    ]


class Diverged(DivergedError):
    """The loss is not finite; `values` are the last good initializers, by name, at most 50 steps old."""

    def __init__(self, message: str, values: Mapping[str, Array]) -> None:
        super().__init__(message)
        self.values = values


class _Loop:
    """Runs steps, watches the loss, keeps the last good state and says how long it will take."""

    def __init__(
        self, trainer: Trainer, task: Task, phase: Phase, steps: int, recipe: Recipe, journal: Journal
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


def rate(done: float, warm_up: float = 0.05) -> float:
    """The learning rate's share of its highest value: a linear rise, then half a cosine to zero."""
    if done < warm_up:
        return (done + 0.01) / (warm_up + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


@dataclass(frozen=True)
class Found:
    """The outcome of a search: `scores` [units] rank the units, `values` are the trained initializers."""

    scores: npt.NDArray[np.float64]
    values: Mapping[str, Array]
    cost: float  # the ratio at which the gates themselves stand


def search(
    coupling: Coupling,
    task: Task,
    target: Target,
    steps: int,
    recipe: Recipe,
    journal: Journal,
    min_channels: int = 1,
    freeze: tuple[str, ...] = (),
) -> Found:
    """Learn which units to keep, and weights with them. Raises DivergedError, UnsupportedError."""
    cost = coupling.cost_model
    gated = insert_gates(coupling.model.proto, coupling, None)
    unit = stake(gated, task, recipe)
    strength = STRENGTH * unit if recipe.lambda_ is None else recipe.lambda_
    batches = task.batches(recipe.batch, recipe.seed)
    first = next(batches)
    trainer = rehearsed_trainer(gated, task, recipe, first, journal, Penalty(cost, target.kind, strength))
    loop = _Loop(trainer, task, "search", steps, recipe, journal)
    fewest = search_floors(coupling, target, min_channels, freeze)
    start = np.full(coupling.units, min(0.5, recipe.gate_lr * steps / 20), np.float32)
    trainer.load({LOGITS: start})  # zero is near enough to be reached in a short search
    mu, left = 0.0, 1.0
    openness = np.ones(coupling.units)
    for index, batch in enumerate(islice(batches, steps)):
        done = index / steps
        rho, hysteresis = target.value, 0.0
        if recipe.lambda_ is None:
            rho = 1 - (1 - target.value) * min(1.0, done / ANNEAL)
            hysteresis = 0.5 + 0.5 * min(1.0, done / SETTLE)
        gate_lr = recipe.gate_lr * (1 - done)
        scalars = {MU: mu * unit, RHO: rho, HYSTERESIS: hysteresis, "tgonnx.gate_lr": gate_lr}
        if recipe.train_weights:
            scalars["tgonnx.lr"] = recipe.lr * min(1.0, (done + 0.01) / 0.05)
        found = loop.step(index, batch, scalars)
        left = found[COST]
        if recipe.lambda_ is None:
            mu = max(0.0, mu + GAIN * min(1.0, GAIN_STEPS / steps) * (left - rho))
        logits = trainer.parameters([LOGITS])[LOGITS]
        if lift(logits, coupling, fewest):
            trainer.load({LOGITS: logits})
        openness += ((logits > 0) - openness) / (MEMORY * steps + 1)
        (journal.record if loop.ends_epoch(index) else journal.tell)(loop.progress(index, left))
    values = trainer.parameters()
    last = values.pop(LOGITS).astype(np.float64)
    return Found(openness + 1e-3 * np.tanh(last), values, left)


def search_floors(
    coupling: Coupling, target: Target, min_channels: int, freeze: tuple[str, ...]
) -> npt.NDArray[np.int64]:
    """Units that each group keeps open during the search: a share of what an even cut would leave it."""
    even = target.value if target.kind == "channels" else math.sqrt(target.value)
    share = min(FLOOR, 0.67 * even)
    sizes = np.array([group.size for group in coupling.groups], np.int64)
    fewest = floors(coupling, min_channels, freeze)
    return np.asarray(np.maximum(fewest, np.ceil(share * sizes)), np.int64)


def lift(logits: Logits, coupling: Coupling, fewest: npt.NDArray[np.int64], to: float = 1e-3) -> bool:
    """Open the best units of every group with fewer open ones than `fewest`, in place. Says if it did."""
    lifted = False
    for group, least in zip(coupling.groups, fewest.tolist(), strict=True):
        values = logits[group.units]
        if int((values > 0).sum()) < least:
            best = group.units[np.argsort(-values, kind="stable")[:least]]
            logits[best] = np.maximum(logits[best], to)
            lifted = True
    return lifted


def fine_tune(
    proto: onnx.ModelProto,
    task: Task,
    steps: int,
    recipe: Recipe,
    journal: Journal,
    cost: float | None = None,
) -> onnx.ModelProto:
    """The model with its weights trained for `steps` steps. Raises DivergedError, UnsupportedError."""
    batches = task.batches(recipe.batch, recipe.seed + 1)
    trainer = rehearsed_trainer(proto, task, recipe, next(batches), journal)
    loop = _Loop(trainer, task, "fine-tune", steps, recipe, journal)
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


def refresh_statistics(
    proto: onnx.ModelProto, task: Task, recipe: Recipe, batches: int = REFRESH_BATCHES
) -> onnx.ModelProto:
    """The model with BatchNormalization's averages measured anew: mean and variance over some batches."""
    drawn = list(islice(task.batches(recipe.batch, recipe.seed + 2), 1))
    copy = prepare_training(proto, {name: value.shape for name, value in drawn[0].feeds.items()})
    if not copy.statistics:
        return proto
    model = copy.model
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            _forget(node)
    del model.graph.output[:]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in copy.statistics.items():
        tensor = stored[name]
        model.graph.output.append(onnx.helper.make_tensor_value_info(value, tensor.data_type, tensor.dims))
    runner = session(model, recipe.threads)
    sums: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    count = min(batches, max(1, 3 * task.steps_per_epoch(recipe.batch)))
    for batch in islice(task.batches(recipe.batch, recipe.seed + 2), count):
        for name, value in zip(copy.statistics, runner.run(None, dict(batch.feeds)), strict=True):
            precise = value.astype(np.float64)
            sums[name] = sums.get(name, 0.0) + precise
            squares[name] = squares.get(name, 0.0) + precise**2
    means = {name: total / count for name, total in sums.items()}
    for node in proto.graph.node:  # the variance of all samples: within batches, and between their means
        if node.op_type == "BatchNormalization" and node.input[4] in means and node.input[3] in squares:
            mean, variance = node.input[3], node.input[4]
            means[variance] = means[variance] + np.maximum(squares[mean] / count - means[mean] ** 2, 0)
    return with_values(proto, means)


def _forget(node: onnx.NodeProto) -> None:
    """Give out the statistics of the batch alone."""
    for attribute in node.attribute:
        if attribute.name == "momentum":
            node.attribute.remove(attribute)
            break
    node.attribute.append(onnx.helper.make_attribute("momentum", 0.0))
