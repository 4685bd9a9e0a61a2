"""What is measured, and on which samples: the original before any training, the result at the end of it.

Choices on the way are made on the validation part. The test part is looked at twice: for the original, and for the
result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from tgonnx.data.augment import Augmentation
from tgonnx.data.samples import Dataset, Parts, parted
from tgonnx.errors import DataError
from tgonnx.io.notes import Note
from tgonnx.losses.baseline import Judge, Standing
from tgonnx.losses.fit import Fit
from tgonnx.losses.interval import interval, wilson
from tgonnx.losses.metric import Metric
from tgonnx.training.progress import Progress
from tgonnx.training.recipe import Settings
from tgonnx.training.task import Task, Teacher

FEW = 50  # test samples: below, the interval is told
PLENTY = 1000  # test samples that tell enough about a model; else it is judged by the validation part, too
ALIKE, EXPLAINED = (
    0.7,
    0.5,
)  # share of the answers, and R2: what says less of what the original says is of little use
RISING, RISE = 3, 0.2  # epochs at least, and the part of all progress that the last third of them made


@dataclass(frozen=True)
class Yardstick:
    """The parts of the data, and how the original stands; what there is not enough for is None.

    `watched` measures on the validation part while training, `judge` on the test part.
    """

    fit: Fit
    parts: Parts
    watched: Metric | None
    judge: Judge | None
    original: Standing | None

    @property
    def name(self) -> str | None:
        """What the figure is called, if there is one."""
        return None if self.judge is None else self.judge.metric.name

    @property
    def better(self) -> Callable[[float, float], bool] | None:
        """Says whether one figure is better than another."""
        if self.watched is None:
            return None
        return operator.gt if self.watched.higher_is_better else operator.lt

    def task(self, model: onnx.ModelProto, recipe: Settings, augment: Augmentation | None = None) -> Task:
        """What is to be learned. A model that is not trained yet is no teacher for the labels."""
        imitation = {"imitation": 0.0} if recipe.from_scratch else {}
        teacher = Teacher(model, self.fit, recipe.threads, **imitation)
        return Task(self.parts.train, self.fit, teacher, self.watched, augment)


def yardstick(dataset: Dataset, fit: Fit, model: onnx.ModelProto, recipe: Settings) -> Yardstick:
    """The yardstick of a run. Raises DataError if the original is no better than a constant answer.

    Not for a model that is not trained yet, and not if the recipe says to go on.
    """
    parts = parted(dataset)
    watched = None if parts.validation is None else Metric(fit, parts.validation, model)
    if parts.test is None:
        return Yardstick(fit, parts, watched, None, None)
    more = [parts.validation] if parts.validation is not None and len(parts.test) < PLENTY else []
    judge = Judge(Metric(fit, parts.test, model), parts.train, more, recipe.threads)
    original = judge(model)
    if original.better is False and not (recipe.from_scratch or recipe.force):
        raise DataError(
            f"{dataset.name}: the original is no better than a constant answer: "
            f"{_beside(original)}; {original.looks} "
            "--from-scratch says that it is not trained yet, --force goes on"
        )
    return Yardstick(fit, parts, watched, judge, original)


def _beside(standing: Standing) -> str:
    """A model's figure beside that of the constant answer."""
    return (
        f"{standing.title} {standing.value:.4g} on {standing.samples:,} held-out samples, "
        f"{standing.answer} {standing.constant:.4g}"
    )


def told(measure: Yardstick) -> str:
    """How the original stands, in a line; empty if nothing was measured."""
    if measure.judge is None or measure.original is None:
        return ""
    text = f"{measure.judge.metric.name} {measure.original.metric:.4g} (test)"
    if measure.original.constant is None:
        return text
    unsure = ", too few samples to tell them apart" if measure.original.better is None else ""
    title = "" if measure.original.title == measure.judge.metric.name else f"{measure.original.title} "
    return f"{text}; {measure.original.answer} {title}{measure.original.constant:.4g}{unsure}"


def measured_notes(measure: Yardstick, model: onnx.ModelProto, standing: Standing | None) -> tuple[Note, ...]:
    """What to know of the figures of a result."""
    judge, notes = measure.judge, []
    if judge is None or standing is None:
        return (Note("not-measured", "there are no held-out samples: accuracy was not measured"),)
    count = len(judge.metric.split)
    if count < FEW:
        span = interval(judge.metric, model, judge.threads)
        says = f"may be between {span[0]:.4g} and {span[1]:.4g} (95%)" if span else "says next to nothing"
        notes.append(Note("few-samples", f"test samples are few ({count}): {judge.metric.name} {says}"))
    if standing.better is False:
        notes.append(
            Note("no-better-than-constant", f"no better than a constant answer: {_beside(standing)}")
        )
    return tuple(notes)


def far_notes(measure: Yardstick, standing: Standing | None, others: Mapping[str, float]) -> tuple[Note, ...]:
    """A note if an output that follows the original is too far from it to be of use; `others` are their figures."""
    if measure.judge is None or standing is None:
        return ()
    first, *more = measure.judge.metric.fit.parts
    figures = [(first, standing.metric), *zip(more, others.values(), strict=True)]
    poor = [
        f"{part.figure.title} of {part.output!r} is {value:.3g}"
        for part, value in figures
        if part.figure.against == "original" and value < (ALIKE if part.figure.is_share else EXPLAINED)
    ]
    if not poor:
        return ()
    text = (
        f"of little use as it is: beside the original, {', '.join(poor)} (test); "
        "more samples, training (labels, or --epochs), or a larger --target may help"
    )
    return (Note("far-from-original", text),)


def rising_note(measure: Yardstick, history: Sequence[Progress]) -> tuple[Note, ...]:
    """A note if the metric was still getting better at the end of fine-tuning."""
    figures = [
        record.metric for record in history if record.phase == "fine-tune" and record.metric is not None
    ]
    if measure.watched is None or len(figures) < RISING:
        return ()
    sign = 1.0 if measure.watched.higher_is_better else -1.0
    gains = [sign * figure for figure in figures]
    late, all_of_it = gains[-1] - gains[-1 - len(gains) // 3], gains[-1] - gains[0]
    if gains[-1] < max(gains) or late <= RISE * all_of_it or late <= noise_of(measure.watched, figures[-1]):
        return ()
    text = f"{measure.watched.name} was still getting better at the end ({figures[-1]:.4g}): more --epochs may help"
    return (Note("still-rising", text),)


def noise_of(metric: Metric, figure: float) -> float:
    """What a figure moves by by chance: one standard deviation of a share, else a hundredth."""
    if metric.fit.figure.is_share:
        low, high = wilson(figure, len(metric.split))
        return (high - low) / 4
    return 0.01 * abs(figure)
