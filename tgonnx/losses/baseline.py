"""Is a model better than an answer that is always the same? Where not, its data or their preprocessing are wrong.

With one label a sample, right answers are held against the commonest class: one-sided binomial test. With labels in
every place of an output, samples on which the model does better than that class are counted against those on which it
does worse: sign test. With targets, the metric is held against that of their mean. Too few samples tell nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.data.answers import IGNORED
from tgonnx.data.samples import Split
from tgonnx.graph.types import Array
from tgonnx.losses.figures import MetricKind, Seen
from tgonnx.losses.metric import BATCH, Metric

SURE = 0.01  # the chance of an answer that is always the same to do as well
ENOUGH = 7  # samples: a coin falls on one side that often with a chance of less than that
ONE_SIDED = 0.9  # of the answers: then the model seems to give only that one
FITS, MOST_CLASSES = (
    0.9,
    64,
)  # of right answers after renaming classes, of so many: then their order is another


@dataclass(frozen=True)
class Standing:
    """How a model stands beside a constant answer.

    `metric` is that of the test part, `value` the figure called `title` of all samples that were looked at, and
    `constant` that of the answer that is always the same, which is named. `better` is None where the samples are too
    few to tell, or the loss has no answers. `looks` says what is strange where it is not.
    """

    metric: float
    samples: int = 0
    value: float = 0.0
    constant: float | None = None
    better: bool | None = None
    title: str = ""
    answer: str = ""
    looks: str = ""


@dataclass(frozen=True)
class Judge:
    """Looks at models on the samples of `metric` and on `more`, none of which is learned from.

    `learned` are those that are: the mean of their targets is the constant answer.
    """

    metric: Metric
    learned: Split
    more: Sequence[Split] = ()
    threads: int = 0

    def __call__(self, model: onnx.ModelProto) -> Standing:
        """How the model stands."""
        fit, own = self.metric.fit, Kept(self.metric.fit.figure)
        if fit.graph is None and fit.definition.answers == "label" and fit.class_axis is not None:
            return self._of_labels(self._seen(model, own), own)
        if fit.graph is None and fit.definition.answers == "target":
            return self._of_targets(self._seen(model, own), own)
        return Standing(self.metric(model, threads=self.threads))

    def others(self, model: onnx.ModelProto) -> dict[str, float]:
        """The figures of the other outputs."""
        return self.metric.others(model, self.threads)

    def _seen(self, model: onnx.ModelProto, own: Kept) -> Iterator[Seen]:
        """All batches; those of the metric's own samples are kept for its figure."""
        for split in (self.metric.split, *self.more):
            for seen in replace(self.metric, split=split).batches(model, threads=self.threads):
                if split is self.metric.split:
                    own.add(seen)
                yield seen

    def _of_labels(self, batches: Iterator[Seen], own: Kept) -> Standing:
        common, votes = self._commonest(), _Votes()
        for seen in batches:
            said, wanted = (_first(each, seen) for each in (seen.output.argmax(seen.classes), seen.wanted))
            votes.add(said, wanted.astype(np.int64), common, seen.output.shape[seen.classes])
        value, constant = (float(np.mean(shares)) for shares in (votes.right, votes.common))
        better = votes.better_in_sign() if votes.dense else votes.better_in_number()
        answer, looks = f"class {common} alone", votes.looks()
        if constant == 1.0 and self._all_learned_are(common):
            better, looks = (
                False,
                f"all labels are {common}: are other classes missing? --loss distill needs no labels;",
            )
        return Standing(own.figure, len(votes.right), value, constant, better, "accuracy", answer, looks)

    def _all_learned_are(self, label: int) -> bool:
        """Whether there is one class only to learn from; samples that are not at hand at once are not looked at."""
        answers = self.learned.samples.answers.get(self.metric.fit.output)
        return answers is not None and bool(np.isin(answers[self.learned.indices], (label, IGNORED)).all())

    def _commonest(self) -> int:
        """The label that most samples have."""
        counts = np.zeros(1, np.int64)
        for split in (self.metric.split, *self.more):
            for piece in split.pieces(np.arange(len(split)), BATCH):
                labels = split.samples.answers_of(split.indices[piece])[self.metric.fit.output]
                found = np.bincount(labels[labels != IGNORED].astype(np.int64).ravel())
                size = max(len(counts), len(found))
                counts = np.pad(counts, (0, size - len(counts))) + np.pad(found, (0, size - len(found)))
        return int(counts.argmax())

    def _of_targets(self, batches: Iterator[Seen], own: Kept) -> Standing:
        fit, figure = self.metric.fit, self.metric.fit.figure
        if figure.against == "original":  # which no targets come into
            figure = fit.definition.figure
        constants: dict[tuple[int, ...], Array] = {}
        model, same, count = Kept(figure), Kept(figure), 0
        for seen in batches:
            wanted = _first(seen.wanted, seen)
            shape = wanted.shape[1:]
            if shape not in constants:
                constants[shape] = fit.definition.constant(self._mean(wanted), seen.activated)
            said = np.broadcast_to(constants[shape], wanted.shape)
            said = np.moveaxis(said, 0, seen.sample_axis) if said.ndim > seen.sample_axis else said
            model.add(seen)
            same.add(replace(seen, outputs={**seen.outputs, fit.output: said}))
            count += seen.count
        value, constant = model.figure, same.figure
        ahead = value > constant if figure.higher_is_better else value < constant
        better = ahead if count >= ENOUGH else None
        answer, looks = "the mean of the targets", "are the preprocessing and the scale of the targets right?"
        return Standing(own.figure, count, value, constant, better, figure.title, answer, looks)

    def _mean(self, wanted: Array) -> Array:
        """The mean of the targets to learn from, if they are of this shape; else of these."""
        answers = self.learned.samples.answers.get(self.metric.fit.output)
        if answers is not None and answers.shape[1:] == wanted.shape[1:]:
            wanted = answers[self.learned.indices]
        return np.asarray(wanted.astype(np.float64).mean(0))


@dataclass
class Kept:
    """What is kept of batches for a figure."""

    kind: MetricKind
    parts: list[Any] = field(default_factory=list)

    def add(self, seen: Seen) -> None:
        self.parts.append(self.kind.each(seen))

    @property
    def figure(self) -> float:
        return self.kind.value(self.parts)


def _first(array: Any, seen: Seen) -> Array:
    """What has samples where the output has them, with samples first."""
    return np.moveaxis(np.asarray(array), seen.sample_axis, 0) if array.ndim > seen.sample_axis else array


class _Votes:
    """Classes that are wanted and said.

    `right` and `common` are the shares of the labels of each sample for which the model's answer is right, and for
    which the commonest class would be. `said` counts the answers, `confusion` [wanted, said] both, of few classes.
    """

    def __init__(self) -> None:
        self.right: list[float] = []
        self.common: list[float] = []
        self.said = np.zeros(0, np.int64)
        self.confusion: NDArray[np.int64] | None = None
        self.dense = False

    def add(self, said: Array, wanted: Array, common: int, classes: int) -> None:
        """A batch, samples first."""
        self.dense = self.dense or wanted.ndim > 1
        if not len(self.said):
            self.said = np.zeros(classes, np.int64)
            self.confusion = np.zeros((classes, classes), np.int64) if classes <= MOST_CLASSES else None
        for own, label in zip(said.reshape(len(said), -1), wanted.reshape(len(wanted), -1), strict=True):
            counts = label != IGNORED
            if not counts.any():
                continue
            own, label = own[counts], label[counts]
            self.right.append(float((own == label).mean()))
            self.common.append(float((label == common).mean()))
            self.said += np.bincount(own, minlength=classes)
            if self.confusion is not None:
                pairs = np.bincount(label * classes + own, minlength=classes * classes)
                self.confusion += pairs.reshape(classes, classes)

    def better_in_number(self) -> bool | None:
        """Whether there are more right answers than the commonest class would give by chance."""
        total, right, chance = len(self.right), round(sum(self.right)), float(np.mean(self.common))
        if chance**total >= SURE:  # not even answers that are all right would tell
            return None
        return binomial_tail(right, total, chance) < SURE

    def better_in_sign(self) -> bool | None:
        """Whether more samples are answered better than by the commonest class than would be by chance."""
        ahead = np.array(self.right) - np.array(self.common)
        better, worse = int((ahead > 0).sum()), int((ahead < 0).sum())
        if len(ahead) < ENOUGH:
            return None
        return binomial_tail(better, better + worse, 0.5) < SURE

    def looks(self) -> str:
        """What is strange about the answers."""
        total, favourite = int(self.said.sum()), int(self.said.argmax())
        if len(self.said) > 1 and self.said[favourite] >= ONE_SIDED * total:
            share = f"{self.said[favourite] / total:.0%}"
            return (
                f"it predicts class {favourite} for {share} of the samples: "
                "is the preprocessing right, or the order of the classes?"
            )
        if renamed := self._renamed(total):
            return f"it predicts {renamed}: is the order of the classes right?"
        return (
            "its answers do not go with the labels: are the preprocessing and the order of the classes right?"
        )

    def _renamed(self, total: int) -> str:
        """Which class is said for which label, where other numbers would make the answers right."""
        if self.confusion is None or total < 10 * len(self.said):
            return ""
        meant = self.confusion.argmax(0)  # the label that an answer mostly goes with
        if self.confusion.max(0).sum() < FITS * total or len(set(meant[self.said > 0])) < 2:
            return ""
        pairs = [
            f"{own} where the label is {label}"
            for own, label in enumerate(meant)
            if own != label and self.said[own]
        ]
        return ", ".join(pairs[:3]) + (", ..." if len(pairs) > 3 else "")


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """The probability of at least so many successes."""
    if successes <= 0 or chance >= 1:
        return 1.0
    if successes > trials or chance <= 0:
        return 0.0
    k = np.arange(successes, trials + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])  # of the factorials
    ways = logs[trials] - logs[k] - logs[trials - k]
    return min(1.0, float(np.exp(ways + k * math.log(chance) + (trials - k) * math.log1p(-chance)).sum()))
