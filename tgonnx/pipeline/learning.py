"""Choosing and cutting: learned from data, or by the size of the weights."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from pathlib import Path

from tgonnx.data.samples import Dataset
from tgonnx.graph.proto import with_values
from tgonnx.io.notes import Note
from tgonnx.io.save import save
from tgonnx.losses.fit import Fit
from tgonnx.losses.metric import Metric
from tgonnx.passes.remove_channels import apply
from tgonnx.pipeline.embedding import verified
from tgonnx.pipeline.plan import Plan, steps_for
from tgonnx.pipeline.result import PruneResult, result_of
from tgonnx.proof import Prover
from tgonnx.selection.criteria import select
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.keeper import Keeper
from tgonnx.training.loop import WATCHED
from tgonnx.training.progress import Journal, Progress
from tgonnx.training.recipe import Settings
from tgonnx.training.search import search
from tgonnx.training.statistics import refresh_statistics
from tgonnx.training.task import Task, Teacher

HURRY = 3.0  # seconds of verification when somebody waits for the prompt


def without_data(plan: Plan, prover: Prover) -> PruneResult:
    mask = select(plan.coupling, plan.goal, "l2", bounds=plan.bounds)
    pruned = apply(plan.coupling, mask)
    gated = plan.family.insert(plan.model.proto, plan.coupling, mask)
    check = prover.both(mask, gated, pruned)
    doubt = prover.settle(check, pruned)
    note = Note(
        "no-data",
        "no data was given: units were chosen by the size of their weights, and accuracy was not measured",
    )
    return result_of(plan, mask, pruned, check, Journal(), None, (*doubts(doubt), note))


def with_data(
    plan: Plan,
    dataset: Dataset,
    fitting: Fit,
    recipe: Settings,
    prover: Prover,
    keeper: Keeper,
) -> PruneResult:
    coupling, original, family, journal = plan.coupling, plan.model.original, plan.family, keeper.journal
    for note in dataset.notes:
        journal.note(note, "data")
    if fitting.others:
        names = ", ".join(map(repr, fitting.others))
        journal.note(f"nothing is given for {names}: what the original says there is imitated", "imitated")
    prover.settle(prover.normal_form)  # before time is spent on it, as below
    held_out = dataset.held_out
    metric = None if held_out is None else Metric(fitting, held_out, original)
    task = Task(dataset.train, fitting, Teacher(original, fitting, recipe.threads), metric)
    steps = steps_for(task.steps_per_epoch(recipe.batch), recipe.epochs, recipe.train_weights)
    journal.later = steps[1] * math.sqrt(plan.target.value)  # fine-tuning is about so much faster
    if metric is not None:
        keeper.better = operator.gt if metric.higher_is_better else operator.lt
    with keeper.salvaging():
        found = search(coupling, task, plan.goal, steps[0], recipe, journal, plan.bounds, keeper)
        mask = plan.commit(found.scores)
        keeper.keep_mask(mask)
        full = with_values(plan.model.proto, found.values) if recipe.train_weights else plan.model.proto
        cut = family.cut(full, coupling, mask)
        tunes_already = keeper.resumed("fine-tune") is not None
        if not tunes_already:
            prover.settle(prover.cut(mask, family.insert(full, coupling, mask), cut))
        cut = refresh_statistics(cut, task, recipe)
        left = coupling.cost_model.ratio(mask.open, plan.target.kind)
        if not tunes_already:
            watched = None if metric is None else metric(cut, WATCHED, recipe.threads or 0)
            journal.record(Progress("commit", 1, 1, 1, 1, journal.records[-1].loss, watched, left))
    journal.later = 0.0

    def so_far() -> Path | None:
        """Write the model with the weights as they are, verified in a hurry."""
        if keeper.folder is None or not plan.whole:
            return None
        values = keeper.latest.values() if keeper.latest is not None else {}
        tuned = refresh_statistics(with_values(cut, values), task, recipe)
        hurried = replace(prover, seconds=min(prover.seconds, HURRY))
        path = keeper.folder.path / "model.onnx"
        save(verified(plan, mask, full, tuned, hurried)[0], path, overwrite=True)
        return path

    with keeper.salvaging(so_far):
        pruned = cut
        if recipe.train_weights:
            pruned = fine_tune(pruned, task, steps[1], recipe, journal, left, keeper)
            pruned = refresh_statistics(pruned, task, recipe)
        pruned, check, doubt = verified(plan, mask, full, pruned, prover)
        notes = (
            ()
            if metric is not None
            else (Note("not-measured", "there are no held-out samples: accuracy was not measured"),)
        )
        return result_of(plan, mask, pruned, check, journal, metric, (*doubts(doubt), *notes, *journal.notes))


def doubts(doubt: str) -> tuple[Note, ...]:
    """The note on what could not be verified, if there is something."""
    return (Note("unverified", doubt),) if doubt else ()
