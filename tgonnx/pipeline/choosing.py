"""Which units stay, and what the cut model starts from: gates that learn, or a criterion; then compensation.

Several commits may be at hand: weights as the search left them, with BatchNormalization's averages measured anew, or
those of the original, refitted. The one that does best on held-out samples is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from tgonnx.data.calibration import Calibration
from tgonnx.graph.proto import with_values
from tgonnx.passes.compensate import Refit, compensate
from tgonnx.pipeline.measuring import noise_of
from tgonnx.pipeline.plan import Plan
from tgonnx.selection.criteria import select
from tgonnx.selection.mask import Mask
from tgonnx.training.evidence import evidence_of
from tgonnx.training.keeper import Keeper
from tgonnx.training.loop import WATCHED
from tgonnx.training.progress import Journal
from tgonnx.training.recipe import Settings
from tgonnx.training.search import search
from tgonnx.training.statistics import refresh_statistics
from tgonnx.training.task import Task


@dataclass(frozen=True)
class Chosen:
    """A mask, the model of full size with the weights at commit, and what surgery made of it."""

    mask: Mask
    full: onnx.ModelProto
    cut: onnx.ModelProto


def choose(plan: Plan, task: Task, steps: int, recipe: Settings, journal: Journal, keeper: Keeper) -> Chosen:
    """As it is given; by gates that learn for `steps` steps; or by a criterion that may look at samples."""
    coupling, full = plan.coupling, plan.model.proto
    if plan.given is not None:
        mask = plan.given
    elif recipe.by_gates:
        found = search(coupling, task, plan.goal, steps, recipe, journal, plan.bounds, keeper)
        mask = plan.commit(found.scores)
        full = with_values(full, found.values) if recipe.train_weights else full
    else:
        evidence = evidence_of(coupling, task, recipe)
        mask = select(
            coupling, plan.goal, recipe.criterion_used, recipe.seed, evidence=evidence, bounds=plan.bounds
        )
    return Chosen(mask, full, plan.family.cut(full, coupling, mask))


def best_commit(plan: Plan, chosen: Chosen, task: Task, recipe: Settings) -> onnx.ModelProto:
    """The cut model to go on with: the last of the commits at hand, unless another does better by more than chance."""
    tried = [*_commits(plan, chosen, task, recipe)]
    best = best_of(tried, task, recipe)
    if task.metric is None or best is tried[-1]:
        return best
    ours, theirs = (task.metric(model, WATCHED, recipe.threads or 0) for model in (tried[-1], best))
    return best if abs(theirs - ours) > noise_of(task.metric, theirs) else tried[-1]


def best_of(tried: Sequence[onnx.ModelProto], task: Task, recipe: Settings) -> onnx.ModelProto:
    """The model that is best on held-out samples, of equal ones the last; the last, too, where none are held out."""
    if task.metric is None or len(tried) == 1:
        return tried[-1]
    metric, threads = task.metric, recipe.threads or 0
    best = max if metric.higher_is_better else min
    return best(reversed(tried), key=lambda model: metric(model, WATCHED, threads))


def _commits(plan: Plan, chosen: Chosen, task: Task, recipe: Settings) -> Iterator[onnx.ModelProto]:
    yield refresh_statistics(chosen.cut, task, recipe)
    if recipe.compensate:
        original = plan.model.proto
        start = chosen.cut
        if chosen.full is not original:
            start = plan.family.cut(original, plan.coupling, chosen.mask)
        yield made_up_for(plan, chosen.mask, start, Calibration(task.split, seed=recipe.seed), recipe)[0]


def made_up_for(
    plan: Plan, mask: Mask, cut: onnx.ModelProto, inputs: Calibration, recipe: Settings
) -> tuple[onnx.ModelProto, list[Refit]]:
    """The original, cut and refitted."""
    return compensate(plan.model.proto, cut, plan.coupling, mask, inputs, recipe.threads)
