"""Figures that people read of a model: accuracy, mean IoU, R2, agreement with the original.

A figure is made from what is kept of each batch of held-out samples, so that one that is no mean over samples is right,
too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tgonnx.data.answers import IGNORED
from tgonnx.graph.types import Array
from tgonnx.strategies import find

if TYPE_CHECKING:
    from tgonnx.losses.fit import Fit

Against = Literal["label", "target", "original"]


@dataclass(frozen=True)
class Seen:
    """A batch of held-out samples: what the model says of it, and what it should say.

    `outputs` are the model's by name, `taught` the original's if the loss or the metric wants them (else empty),
    `answer` the labels or targets of the output of `fit`. `activated`: the original ends with the activation that the
    loss takes off. `count` samples are in it, along `sample_axis` of the output.
    `answers` are the labels or targets of all outputs, `inputs` what the model was given.
    """

    fit: Fit
    outputs: Mapping[str, Array]
    answer: Array | None = None
    taught: Mapping[str, Array] = field(default_factory=dict)
    activated: bool = False
    count: int = 1
    sample_axis: int = 0
    answers: Mapping[str, Array] = field(default_factory=dict)
    inputs: Mapping[str, Array] = field(default_factory=dict)

    def without(self, index: int) -> Seen:
        """The batch without one of its samples, as far as figures of its own output go."""
        name, axis = self.fit.output, self.sample_axis
        outputs, taught, answers = (
            {**values, name: np.delete(values[name], index, axis)} if name in values else values
            for values in (self.outputs, self.taught, self.answers)
        )
        return replace(
            self,
            outputs=outputs,
            taught=taught,
            answers=answers,
            answer=answers.get(name),
            count=self.count - 1,
        )

    @property
    def output(self) -> Array:
        """The output that the loss is taken on, in double precision."""
        return self.outputs[self.fit.output].astype(np.float64)

    @property
    def wanted(self) -> Array:
        """The labels or targets, of a loss that needs them."""
        assert self.answer is not None  # made sure of by `validate`
        return self.answer

    @property
    def original(self) -> Array:
        """What the original says for the same output, in double precision."""
        return self.taught[self.fit.output].astype(np.float64)

    @property
    def classes(self) -> int:
        """The axis of classes or channels of the output."""
        axis = self.fit.class_axis
        return axis if axis is not None else min(1, self.outputs[self.fit.output].ndim - 1)


@dataclass(frozen=True, kw_only=True)
class MetricKind:
    """A metric by name: one entry of the table `METRICS`.

    * `each` keeps what is needed of a batch, `value` makes the figure from what was kept of all;
    * `against` is what the output is held against; `instead` is the metric where there are no answers of this kind;
    * `shown` is what it is called for people, by default the name;
    * `least` is the number of classes below which it says nothing; `only_first`: it is for one output;
    * `is_share`: it is a share of answers that are right.
    """

    name: str
    each: Callable[[Seen], Any]
    value: Callable[[Sequence[Any]], float]
    against: Against = "label"
    instead: MetricKind | None = None
    higher_is_better: bool = True
    shown: str = ""
    least: int = 1
    only_first: bool = False
    is_share: bool = False

    @property
    def title(self) -> str:
        return self.shown or self.name


def mean_of(name: str, metric: Callable[[Seen], float], higher_is_better: bool) -> MetricKind:
    """The mean over samples of what a function says of each batch; labels that are ignored count for nothing."""

    def each(seen: Seen) -> Array:
        share = float(np.mean(seen.wanted != IGNORED)) if seen.fit.ignores else 1.0
        weight = seen.count * share
        return np.array([metric(seen) * weight, weight])

    return MetricKind(name=name, each=each, value=_ratio, higher_is_better=higher_is_better)


def _ratio(kept: Sequence[Array]) -> float:
    """One sum over another."""
    part, whole = np.sum(kept, 0)
    return float(part / whole) if whole else 0.0


def _right(right: Array, seen: Seen) -> Array:
    """How many are right, and how many there are."""
    if seen.fit.ignores:
        right = right[seen.wanted != IGNORED]
    return np.array([right.sum(), right.size], np.float64)


def _accuracy(seen: Seen) -> Array:
    return _right(seen.output.argmax(seen.classes) == seen.wanted, seen)


def _top5(seen: Seen) -> Array:
    scores = np.moveaxis(seen.output, seen.classes, -1)
    best = np.argsort(-scores, -1, kind="stable")[..., :5]
    return _right((best == seen.wanted[..., None]).any(-1), seen)


def _overlaps(seen: Seen) -> Array:
    """For each class [3, classes]: positions that are it and said to be it, that are said to be it, that are it."""
    count = seen.output.shape[seen.classes]
    said, wanted = seen.output.argmax(seen.classes), seen.wanted
    counts = wanted != IGNORED
    said, wanted = said[counts], wanted[counts].astype(np.int64)
    each = (said[said == wanted], said, wanted)
    return np.stack([np.bincount(values, minlength=count) for values in each]).astype(np.float64)


def _mean_iou(kept: Sequence[Array]) -> float:
    """Intersection over union, a mean over the classes that there are or that are said to be."""
    both, said, wanted = np.sum(kept, 0)
    union = said + wanted - both
    return float((both[union > 0] / union[union > 0]).mean()) if union.any() else 0.0


def _agreement(seen: Seen) -> Array:
    agree = seen.output.argmax(seen.classes) == seen.original.argmax(seen.classes)
    return np.array([agree.sum(), agree.size], np.float64)


def _explained(seen: Seen) -> Array:
    """The squared error, and number, sum and squares of the targets."""
    wanted = seen.wanted.astype(np.float64)
    return np.array(
        [np.square(seen.output - wanted).sum(), wanted.size, wanted.sum(), np.square(wanted).sum()]
    )


def _r2(kept: Sequence[Array]) -> float:
    error, count, total, squares = np.sum(kept, 0)
    return float(1 - error / (max(squares - total**2 / count, 0) + 1e-12 * count))


def _followed(seen: Seen) -> Array:
    """The squared error in units of what each channel of the original varies, times samples; and samples."""
    original = seen.original
    error, spread = np.square(seen.output - original), seen.fit.spread
    known = spread is not None and spread.fits(error.shape)
    variance = spread.broadcast(error.ndim) if spread is not None and known else original.var() + 1e-12
    return np.array([(error / variance).mean() * seen.count, seen.count])


def _difference(power: int) -> Callable[[Seen], Array]:
    def each(seen: Seen) -> Array:
        error = np.abs(seen.output - seen.wanted) ** power
        return np.array([error.sum(), error.size])

    return each


ACCURACY = MetricKind(name="accuracy", each=_accuracy, value=_ratio, is_share=True)
TOP5 = MetricKind(name="top5", each=_top5, value=_ratio, shown="top-5 accuracy", least=6, is_share=True)
TOKENS = MetricKind(
    name="token-accuracy", each=_accuracy, value=_ratio, shown="token accuracy", is_share=True
)
MIOU = MetricKind(name="miou", each=_overlaps, value=_mean_iou, shown="mean IoU")
AGREEMENT = MetricKind(
    name="agreement",
    each=_agreement,
    value=_ratio,
    against="original",
    shown="top-1 agreement",
    least=2,
    is_share=True,
)
FOLLOWED = MetricKind(
    name="r2", each=_followed, value=lambda kept: 1 - _ratio(kept), against="original", shown="R2"
)
R2 = MetricKind(name="r2", each=_explained, value=_r2, against="target", instead=FOLLOWED, shown="R2")
MSE = MetricKind(
    name="mse",
    each=_difference(2),
    value=_ratio,
    against="target",
    higher_is_better=False,
    shown="squared error",
)
MAE = MetricKind(
    name="mae",
    each=_difference(1),
    value=_ratio,
    against="target",
    higher_is_better=False,
    shown="absolute error",
)
METRICS: dict[str, MetricKind] = {
    kind.name: kind for kind in (ACCURACY, TOP5, TOKENS, MIOU, AGREEMENT, R2, MSE, MAE)
}


def register(kind: MetricKind) -> None:
    """Let `metric=NAME` mean this metric; one of the same name is replaced."""
    METRICS[kind.name] = kind


def named(name: str) -> MetricKind:
    """The metric of that name. Raises UsageError that lists the known ones."""
    return find(METRICS, name, "metric")
