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
from tgonnx.passes.compensate import compensate
from tgonnx.pipeline.branching import Branching, chooser
from tgonnx.pipeline.measuring import noise_of
from tgonnx.pipeline.plan import Plan
from tgonnx.selection.bounds import Ranking
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
    elif plan.clock is not None and (kept := keeper.kept_mask(coupling)) is not None:
        mask = kept  # clocks do not say the same twice, and what was trained has this size
        full = with_values(full, keeper.found.values) if keeper.found and recipe.train_weights else full
    elif recipe.by_gates:
        found = search(coupling, task, plan.goal, steps, recipe, journal, plan.bounds, keeper)
        mask = plan.commit(found.scores)
        full = with_values(full, found.values) if recipe.train_weights else full
    else:
        evidence = evidence_of(coupling, task, recipe)
        samples = Calibration(task.split, seed=recipe.seed)
        inputs = Branching(samples, threads=recipe.threads, refit=recipe.compensate)
        how = Ranking(criterion=recipe.criterion_used)
        mask = plan.met(chooser(coupling, plan.bounds, how, recipe.seed, evidence, inputs))
    return Chosen(mask, full, plan.family.cut(full, coupling, mask))


def best_commit(plan: Plan, chosen: Chosen, task: Task, recipe: Settings) -> onnx.ModelProto:
    """The cut model to go on with: the last of the commits at hand, unless another does better by more than chance."""
    return best_of([*_commits(plan, chosen, task, recipe)], task, recipe, beyond_chance=True)


def best_of(
    tried: Sequence[onnx.ModelProto], task: Task, recipe: Settings, beyond_chance: bool = False
) -> onnx.ModelProto:
    """The model that is best on held-out samples, of equal ones the last; the last, too, where none are held out.

    With `beyond_chance`, another wins over the last only if it is better by more than chance.
    """
    metric = task.metric
    if metric is None or len(tried) == 1:
        return tried[-1]
    figures = [metric(model, WATCHED, recipe.threads or 0) for model in tried]
    best = (max if metric.higher_is_better else min)(reversed(range(len(tried))), key=figures.__getitem__)
    if beyond_chance and abs(figures[best] - figures[-1]) <= noise_of(metric, figures[best]):
        return tried[-1]
    return tried[best]


def _commits(plan: Plan, chosen: Chosen, task: Task, recipe: Settings) -> Iterator[onnx.ModelProto]:
    yield refresh_statistics(chosen.cut, task, recipe)
    learned = (
        bool(plan.coupling.meetings) and recipe.by_gates
    )  # alternatives that have learned are not to be undone
    if (
        recipe.compensate and not learned and not chosen.mask.weights
    ):  # refitted weights are not zero any more
        original = plan.model.proto
        start = chosen.cut
        if chosen.full is not original:
            start = plan.family.cut(original, plan.coupling, chosen.mask)
        inputs = Calibration(task.split, seed=recipe.seed)
        yield compensate(plan.reference, start, plan.coupling, chosen.mask, inputs, recipe.threads)[0]
