"""Several models from one search: a curve of sizes, or the smallest one that is still good enough.

The gates learn once, for the least that may be asked for; then each size is committed, cut, fine-tuned and verified by
itself. In the folder of the run each has a folder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.target import Given, Target
from tgonnx.data.sources import Data
from tgonnx.errors import DataError, OptionError, TargetError
from tgonnx.io.notes import Note
from tgonnx.options import Attention
from tgonnx.pipeline.learning import Lesson, with_data
from tgonnx.pipeline.no_data import without_data
from tgonnx.pipeline.preparing import Job, Options, prepared
from tgonnx.pipeline.result import PruneResult
from tgonnx.pipeline.telling import all_told, told
from tgonnx.selection.bounds import Bounds
from tgonnx.training.progress import Listener
from tgonnx.training.rates import rate_for
from tgonnx.training.recipe import Recipe, Run
from tgonnx.training.search import search

TRIES = 4  # sizes that are tried for the smallest within a drop: it is found to an eighth of the way to the target


def sweep(
    model: Model | Source,
    data: Data | None = None,
    targets: Sequence[Given] = (),
    *,
    recipe: Recipe | None = None,
    bounds: Bounds | None = None,
    run: Run | None = None,
    progress: Listener | None = None,
    attention: Attention = "heads",
    **fields: Any,
) -> tuple[PruneResult, ...]:
    """A pruned model for each of the targets, which are of one kind, in their order; the gates learn only once.

    Takes and raises what `prune` does. Raises OptionError for targets of several kinds, for none, and for one twice.
    """
    wanted = [Target.of(target) for target in targets]
    if len({target.kind for target in wanted}) != 1 or len({name_of(target) for target in wanted}) < len(
        wanted
    ):
        raise OptionError("sweep", "needs one target or more, all different and of one kind")
    if any(target.also for target in wanted):
        raise OptionError("sweep", "has one kind of cost: no second one goes with it")
    options = Options.of("sweep", (recipe, bounds, run), fields, attention, progress)
    if options.recipe.max_drop is not None or options.recipe.lossless or options.recipe.mask is not None:
        raise OptionError(
            "sweep", "has targets of its own: neither max_drop nor lossless nor a mask go with it"
        )
    job = prepared(model, data, wanted, options)
    if job.lesson is None:
        plans = [job.plan.aimed(target) for target in wanted]
        made = (without_data(plan, options.recipe, options.run, job.prover) for plan in plans)
        return tuple(job.completed(result) for result in made)
    points = Points.of(job, job.lesson, options)
    results = tuple(points.at(target) for target in wanted)
    all_told(results, job.keeper)
    job.keeper.finish(min(results, key=lambda result: result.achieved).mask)
    return results


def name_of(target: Target) -> str:
    """What a target adds to the name of a file: flops70, params1M."""
    if target.value <= 1:
        return f"{target.kind}{100 * target.value:g}"
    return f"{target.kind}{target.stated.partition('=')[2]}"


@dataclass(frozen=True)
class Points:
    """A job whose gates have learned, and whose models are made one by one."""

    job: Job
    lesson: Lesson
    options: Options

    @classmethod
    def of(cls, job: Job, lesson: Lesson, options: Options) -> Points:
        """After the search, where gates choose."""
        plan, recipe, keeper = lesson.plan, lesson.recipe, job.keeper
        job.prover.settle(job.prover.normal_form)  # before time is spent on it
        if recipe.by_gates:
            lesson.task.teacher.remember(lesson.task.split, recipe, sum(lesson.steps), keeper.journal.note)
            with keeper.salvaging():
                search(
                    plan.coupling,
                    lesson.task,
                    plan.goal,
                    lesson.steps[0],
                    recipe,
                    keeper.journal,
                    plan.bounds,
                    keeper,
                )
        return cls(job, lesson, options)

    def at(self, target: Target) -> PruneResult:
        """The model of one size."""
        plan, recipe = self.job.plan.aimed(target), self.lesson.recipe
        if self.options.recipe.lr is None:
            recipe = replace(recipe, lr=rate_for(plan.model.proto, plan.goal))
        keeper = self.job.keeper.part(name_of(target))
        result = with_data(replace(self.lesson, plan=plan, recipe=recipe), self.job.prover, keeper)
        keeper.keep()  # if the run goes on, this size is not trained again
        return told(self.job.completed(result), keeper)


def smallest_within(job: Job, options: Options, points: float) -> PruneResult:
    """The smallest model that loses at most so many points of the metric on the validation part.

    Nothing smaller than the target is tried. Raises TargetError if none of the sizes that were tried is good enough,
    DataError without a metric in points.
    """
    lesson = job.lesson
    watched = None if lesson is None else lesson.measure.watched
    if job.plan.target.also:
        raise OptionError("max_drop", "goes along one kind of cost: no second one goes with it")
    if lesson is None or watched is None:
        raise DataError("--max-drop needs data, and so many that some are left for validation")
    if not watched.fit.figure.is_share:
        raise DataError(f"--max-drop counts points of a share of right answers, not of {watched.name}")
    made = Points.of(job, lesson, options)
    before = watched(job.plan.model.original, threads=lesson.recipe.threads)
    kind, least = job.plan.target.kind, job.plan.target.value
    low, high, found, losses = least, 1.0, None, []
    value = least
    for _ in range(TRIES):
        result = made.at(Target(**{kind: value}))
        drop = 100 * (before - watched(result.model, threads=lesson.recipe.threads))
        losses.append((drop, value))
        if drop <= points:
            found, high = (result, drop, value), value
        else:
            low = value
        if high <= least:
            break
        value = (low + high) / 2
    if found is None:
        drop, value = min(losses)
        raise TargetError(
            f"no size that was tried stays within {points:g} points of {watched.name}: at {kind}={value:.3g} "
            f"{drop:.2f} points are lost on the validation part; train for longer, or allow more"
        )
    text = (
        f"the smallest of {len(losses)} sizes within {points:g} points of {watched.name}: {kind}={found[2]:.3g} "
        f"loses {found[1]:.2f} on the validation part"
    )
    return replace(found[0], notes=(Note("max-drop", text), *found[0].notes))
