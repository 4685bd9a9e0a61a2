"""Choosing and cutting: learned from data, or by the size of the weights."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from pathlib import Path

from tgonnx.data.samples import Dataset
from tgonnx.graph.proto import with_values
from tgonnx.io.save import save
from tgonnx.losses.fit import Fit
from tgonnx.losses.metric import Metric
from tgonnx.pipeline.choosing import best_commit, choose
from tgonnx.pipeline.embedding import verified
from tgonnx.pipeline.plan import Plan, steps_for
from tgonnx.pipeline.result import PruneResult, result_of
from tgonnx.proof import Prover
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.keeper import Keeper
from tgonnx.training.loop import WATCHED
from tgonnx.training.progress import Progress
from tgonnx.training.recipe import Settings
from tgonnx.training.statistics import refresh_statistics
from tgonnx.training.task import Task, Teacher

HURRY = 3.0  # seconds of verification when somebody waits for the prompt


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
        journal.note(note)
    followers = [part.output for part in fitting.others if part.originals]
    if followers and (fitting.graph or fitting.answers):
        names = ", ".join(map(repr, followers))
        journal.note(f"nothing is given for {names}: what the original says there is imitated")
    prover.settle(prover.normal_form)  # before time is spent on it, as below
    held_out = dataset.held_out
    metric = None if held_out is None else Metric(fitting, held_out, original)
    task = Task(dataset.train, fitting, Teacher(original, fitting, recipe.threads), metric)
    steps = steps_for(
        task.steps_per_epoch(recipe.batch, recipe.accumulate),
        recipe.epochs,
        recipe.train_weights,
        recipe.by_gates,
    )
    task.teacher.remember(task.split, recipe, sum(steps), journal.note)
    journal.later = steps[1] * math.sqrt(plan.target.value)  # fine-tuning is about so much faster
    if metric is not None:
        keeper.better = operator.gt if metric.higher_is_better else operator.lt
    with keeper.salvaging():
        chosen = choose(plan, task, steps[0], recipe, journal, keeper)
        mask, full = chosen.mask, chosen.full
        keeper.keep_mask(mask)
        tunes_already = keeper.resumed("fine-tune") is not None
        if not tunes_already:
            prover.settle(prover.cut(mask, family.insert(full, coupling, mask), chosen.cut))
        cut = best_commit(plan, chosen, task, recipe)
        left = coupling.cost_model.ratio(mask.open, plan.target.kind)
        if not tunes_already:
            watched = None if metric is None else metric(cut, WATCHED, recipe.threads or 0)
            loss = journal.records[-1].loss if journal.records else math.nan
            journal.record(Progress("commit", 1, 1, 1, 1, loss, watched, left))
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
        notes = () if metric is not None else ("there are no held-out samples: accuracy was not measured",)
        return result_of(
            plan, mask, pruned, check, journal, metric, (*filter(None, [doubt]), *notes, *journal.notes)
        )
