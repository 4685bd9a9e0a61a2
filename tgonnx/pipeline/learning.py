"""Choosing and cutting: learned from data, or by the size of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from tgonnx.graph.proto import with_values
from tgonnx.io.save import save
from tgonnx.passes.gate_weights import held_at_zero
from tgonnx.passes.zero_weights import pruned_of
from tgonnx.pipeline.choosing import Chosen, best_commit, best_of, choose
from tgonnx.pipeline.embedding import doubts, verified
from tgonnx.pipeline.measuring import Yardstick
from tgonnx.pipeline.plan import Plan
from tgonnx.pipeline.result import PruneResult, result_of
from tgonnx.pipeline.ways import Way
from tgonnx.proof import Prover
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.keeper import Keeper
from tgonnx.training.loop import WATCHED
from tgonnx.training.progress import Journal, Progress
from tgonnx.training.recipe import Settings
from tgonnx.training.state import Found
from tgonnx.training.statistics import refresh_statistics
from tgonnx.training.step import stake, training_copy
from tgonnx.training.task import Task

SETTLED, NEAR = 100, 0.05  # steps in which gates come to rest, and how near the target they then are
HURRY = 3.0  # seconds of verification when somebody waits for the prompt


@dataclass(frozen=True)
class Lesson:
    """What is learned in a run, and how: the plan, what is measured, the task, steps of both phases, settings, way."""

    plan: Plan
    measure: Yardstick
    task: Task
    steps: tuple[int, int]
    recipe: Settings
    way: Way


def with_data(lesson: Lesson, prover: Prover, keeper: Keeper) -> PruneResult:
    """Search, cut, fine-tune, verify. An interruption leaves a checkpoint and, after the search, a model."""
    plan, task, recipe, journal = lesson.plan, lesson.task, lesson.recipe, keeper.journal
    prover.settle(prover.normal_form)  # before time is spent on it, as the cut model's check
    task.teacher.remember(task.split, recipe, sum(lesson.steps), journal.note)
    journal.later = lesson.steps[1] * math.sqrt(plan.target.value)  # fine-tuning is about so much faster
    with keeper.salvaging():
        chosen = _searched(lesson, prover, keeper)
    journal.later = 0.0

    def so_far() -> Path | None:
        """Write the model with the weights as they are, verified in a hurry."""
        if keeper.folder is None or not plan.whole:
            return None
        values = keeper.latest.values() if keeper.latest is not None else {}
        tuned = refresh_statistics(with_values(chosen.cut, values), task, recipe)
        hurried = replace(prover, seconds=min(prover.seconds, HURRY))
        path = keeper.folder.path / "model.onnx"
        save(verified(plan, chosen.mask, chosen.full, tuned, hurried)[0], path, overwrite=True)
        return path

    with keeper.salvaging(so_far):
        pruned = chosen.cut
        if lesson.steps[1]:
            left, stakes = plan.left(chosen.mask), _stake(lesson, keeper)
            held = held_at_zero(pruned, plan.coupling, chosen.mask)
            tuned = fine_tune(held, task, lesson.steps[1], recipe, journal, left, keeper, stakes)
            tuned = pruned_of(tuned, pruned, chosen.mask)
            pruned = best_of([pruned, refresh_statistics(tuned, task, recipe)], task, recipe)
        pruned, check, doubt = verified(plan, chosen.mask, chosen.full, pruned, prover)
        notes = (*doubts(doubt), *journal.notes)
        searched = keeper.found if recipe.by_gates and plan.given is None else None
        scores = None
        if searched is not None and plan.bounds.cuts_units:  # those of units come first
            scores = searched.scores[: plan.coupling.units]
        return result_of(plan, chosen.mask, pruned, check, journal, lesson.measure, notes, scores)


def _searched(lesson: Lesson, prover: Prover, keeper: Keeper) -> Chosen:
    """Find which units stay, and cut the others away."""
    plan, task, recipe, journal = lesson.plan, lesson.task, lesson.recipe, keeper.journal
    chosen = choose(plan, task, lesson.steps[0], recipe, journal, keeper)
    if recipe.by_gates and keeper.found is not None:
        _note_short(lesson, keeper.found, journal)
    mask, full = chosen.mask, chosen.full
    keeper.keep_mask(mask)
    tunes_already = keeper.resumed("fine-tune") is not None
    if not tunes_already:
        prover.settle(prover.cut(mask, plan.family.insert(full, plan.coupling, mask), chosen.cut))
    cut = best_commit(plan, chosen, task, recipe)
    if not tunes_already:
        watched = None if task.metric is None else task.metric(cut, WATCHED, recipe.threads or 0)
        loss = journal.records[-1].loss if journal.records else None
        journal.record(Progress("commit", 1, 1, 1, 1, loss, watched, plan.left(mask)))
    return replace(chosen, cut=cut)


def _stake(lesson: Lesson, keeper: Keeper) -> float:
    """What the task's loss has to lose, as the search has found it, or found out here."""
    if keeper.found is not None:
        return keeper.found.stake
    plan, task, recipe = lesson.plan, lesson.task, lesson.recipe
    if not plan.coupling.units:  # only what trains on without being cut
        return 0.0
    first = next(task.batches(recipe.batch, recipe.seed))
    gated = plan.family.insert(plan.model.proto, plan.coupling, None)
    return stake(training_copy(gated, recipe, first), task, recipe)


def _note_short(lesson: Lesson, found: Found, journal: Journal) -> None:
    """Note a search whose gates had no time: what it chose is little more than chance."""
    steps, goal = lesson.steps[0], lesson.plan.goal
    if steps < SETTLED:
        why = f"gates need about {SETTLED} steps to settle, it had {steps}"
    elif found.cost > goal.value + NEAR:
        why = f"it ended at {found.cost:.1%} of the {goal.kind}, the target is {goal.value:.1%}"
    else:
        return
    journal.note(
        f"the search was too short to learn what to keep: {why}; more --epochs may help", "short-search"
    )
