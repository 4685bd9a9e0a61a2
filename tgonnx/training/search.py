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

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from tgonnx.analysis import kinds
from tgonnx.analysis.cost import Target
from tgonnx.analysis.coupling import Coupling
from tgonnx.data.samples import Batch
from tgonnx.engines.trainer import session
from tgonnx.graph.proto import with_values
from tgonnx.graph.types import Array
from tgonnx.passes.add_objective import (
    COST,
    HYSTERESIS,
    MU,
    RHO,
    TASK,
    Penalty,
)
from tgonnx.passes.gate_families import family_of
from tgonnx.passes.prepare_training import LOGITS, TrainingCopy
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.branch_order import closable
from tgonnx.selection.budget import DEFAULT, floors
from tgonnx.training.keeper import Keeper
from tgonnx.training.loop import Loop
from tgonnx.training.progress import Journal
from tgonnx.training.recipe import Settings
from tgonnx.training.rivals import WARM, Rivals
from tgonnx.training.schedule import searching
from tgonnx.training.state import Found
from tgonnx.training.step import rehearsed_trainer, stake, training_copy, with_objective
from tgonnx.training.task import Task

Logits = npt.NDArray[np.float32]
Loss = Callable[[npt.NDArray[np.bool_]], float]
STRENGTH, GAIN = 5.0, 0.25  # of the augmented Lagrangian, for searches of GAIN_STEPS steps
GAIN_STEPS = 300
FLOOR = 0.3  # of its units that a group keeps open while searching: starved layers fine-tune badly
ANNEAL = 0.5  # of the search: by then the target itself is asked for
SETTLE = 0.8  # of the search: by then gates rest where they cost least
FIRM, FIRMEST = (
    0.5,
    0.75,
)  # hysteresis at the beginning, and from SETTLE on: at 1, open gates cost nothing to keep
JUDGED = 8  # batches on which choices are compared
MOST_TRIED = 60  # choices that are compared in the end, or a quarter of the steps
MEMORY = 0.1  # of the search: the steps over which it counts how often each gate was open


def search(
    coupling: Coupling,
    task: Task,
    target: Target,
    steps: int,
    recipe: Settings,
    journal: Journal,
    bounds: Bounds = DEFAULT,
    keeper: Keeper | None = None,
) -> Found:
    """Learn which units to keep, and weights with them. Raises DivergedError, UnsupportedError."""
    keeper = keeper or Keeper()
    if keeper.found is not None:
        return keeper.found
    family = family_of(bounds)
    first = next(task.batches(recipe.batch, recipe.seed))
    copy = training_copy(family.insert(coupling.model.proto, coupling, None), recipe, first)
    unit = stake(copy, task, recipe)
    strength = STRENGTH * unit if recipe.lambda_ is None else recipe.lambda_
    near = min(0.5, recipe.gate_lr * steps / 20)  # enough for zero to be reached in a short search
    rivals = Rivals(coupling, target.kind, near, recipe) if family.rivals else None
    if rivals is not None and recipe.lambda_ is None:
        strength = 0.0  # what is too dear is not tried
    penalty = Penalty(family.costs(coupling), target.kind, strength, family)
    trainer = rehearsed_trainer(copy, task, recipe, first, journal, penalty)
    loop = Loop(trainer, task, "search", steps, recipe, journal, keeper)
    loop.stake = unit
    gates, held = family.count(coupling), _Held(coupling, target, bounds)
    trainer.load({LOGITS: np.full(gates, 0.0 if family.rivals else near, np.float32)})
    mu, left, openness = 0.0, 1.0, np.ones(gates)
    if (state := loop.resume()) is not None:
        mu, left, openness = state.numbers["mu"], state.numbers["left"], state.arrays["openness"]
        loop.catch_up(left)
    for index, batches in loop.batches(recipe.seed):
        done = index / steps
        rho, hysteresis = target.value, 0.0
        if recipe.lambda_ is None and rivals is None:
            rho = 1 - (1 - target.value) * min(1.0, done / ANNEAL)
            hysteresis = FIRM + (FIRMEST - FIRM) * min(1.0, done / SETTLE)
        gate_lr = recipe.gate_lr * (1 - done)
        scalars = {MU: mu * unit, RHO: rho, HYSTERESIS: hysteresis, "tgonnx.gate_lr": gate_lr}
        if recipe.train_weights:
            scalars["tgonnx.lr"] = recipe.lr * searching(done, recipe.warmup)
        shift = None
        if rivals is not None:
            scalars["tgonnx.gate_lr"] = gate_lr if done >= WARM else 0.0
            shift = rivals.shift(trainer.parameters([LOGITS])[LOGITS], index, done / SETTLE, rho)
        found = _step(loop, index, batches, scalars, shift)
        left = found[COST]
        if recipe.lambda_ is None and rivals is None:
            mu = max(0.0, mu + GAIN * min(1.0, GAIN_STEPS / steps) * (left - rho))
        logits = trainer.parameters([LOGITS])[LOGITS]
        if held.open(logits):
            trainer.load({LOGITS: logits})
        opened = logits > 0 if rivals is None else rivals.opened(logits, rho)
        openness = openness + (opened - openness) / (MEMORY * steps + 1)
        loop.done(index, left, numbers={"mu": mu, "left": left}, arrays={"openness": openness})
    values = trainer.parameters()
    last = values.pop(LOGITS).astype(np.float64)
    scores = openness + 1e-3 * np.tanh(last)
    if rivals is not None:
        judge = _judge(copy, values, task, recipe)
        scores = rivals.refined(scores, target.value, judge, max(MOST_TRIED, steps // 4))
    found_units = Found(scores, values, left, unit)
    keeper.keep_found(found_units)
    return found_units


class _Held:
    """What stays open during the search: enough units of each group, and branches that may not go."""

    def __init__(self, coupling: Coupling, target: Target, bounds: Bounds) -> None:
        self.coupling, self.of_units = coupling, bounds.cuts_units
        self.fewest = search_floors(coupling, target, bounds) if self.of_units else np.zeros(0, np.int64)
        self.places = np.zeros(0, np.int64)  # of gates
        if bounds.cuts_branches:
            loose, start = closable(coupling, bounds), coupling.units if self.of_units else 0
            kept = [place for place, branch in enumerate(coupling.branches) if branch.name not in loose]
            self.places = start + np.array(kept, np.int64)

    def open(self, logits: Logits, to: float = 1e-3) -> bool:
        """Open them in place. Says if anything had to be."""
        closed = self.places[logits[self.places] <= 0]
        logits[closed] = to
        lifted = self.of_units and lift(logits, self.coupling, self.fewest, to)
        return lifted or bool(closed.size)


def search_floors(coupling: Coupling, target: Target, bounds: Bounds) -> npt.NDArray[np.int64]:
    """Units that each group keeps open during the search: a share of what an even cut would leave it."""
    share = min(FLOOR, 0.67 * kinds.named(target.kind).even(target.value))
    sizes = np.array([group.size for group in coupling.groups], np.int64)
    fewest = floors(coupling, bounds)
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


def _step(
    loop: Loop, index: int, batches: Iterable[Batch], scalars: Mapping[str, float], shift: Logits | None
) -> dict[str, float]:
    """A step with logits that are off by a shift, which is taken away again."""
    if shift is None:
        return loop.step(index, batches, scalars)
    trainer = loop.trainer
    trainer.load({LOGITS: trainer.parameters([LOGITS])[LOGITS] + shift})
    found = loop.step(index, batches, scalars)
    trainer.load({LOGITS: trainer.parameters([LOGITS])[LOGITS] - shift})
    return found


def _judge(copy: TrainingCopy, values: Mapping[str, Array], task: Task, recipe: Settings) -> Loss:
    """The loss of a choice with the weights that the search has left, on a few batches."""
    drawn = [*islice(task.alike(recipe.batch, recipe.seed), JUDGED)]
    feeds = [task.teacher.feeds(batch) for batch in drawn]
    model = with_values(with_objective(copy, task, recipe, drawn[0]).model, values)
    logits = next(tensor for tensor in model.graph.initializer if tensor.name == LOGITS)
    model.graph.input.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, logits.dims))
    model.graph.initializer.remove(logits)
    runner = session(model, recipe.threads)

    def loss(opened: npt.NDArray[np.bool_]) -> float:
        given = {LOGITS: opened.astype(np.float32)}
        return float(np.mean([runner.run([TASK], {**batch, **given})[0] for batch in feeds]))

    return loss
