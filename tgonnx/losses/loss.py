"""What a loss is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from tgonnx.data.answers import check_targets
from tgonnx.data.axes import Axes
from tgonnx.graph.builder import Value
from tgonnx.graph.types import Array

if TYPE_CHECKING:
    from tgonnx.losses.fit import Fit
    from tgonnx.losses.nodes import Nodes


Check = Callable[
    [Array, tuple[int, ...], str], int | None
]  # answers, shape of the output, where they are from


@dataclass(frozen=True)
class Seen:
    """A batch of held-out samples: what the model says of it, and what it should say.

    `outputs` are the model's by name, `taught` the original's if the loss wants all of them (else empty), `answer` the
    labels or targets. `activated`: the original ends with the activation that the loss takes off. `axes` say where
    samples are.
    """

    fit: Fit
    outputs: Mapping[str, Array]
    answer: Array | None = None
    taught: Mapping[str, Array] = field(default_factory=dict)
    activated: bool = False
    axes: Axes = field(default_factory=Axes)

    def without(self, index: int) -> Seen:
        """The batch without one of its samples."""
        answer = self.answer
        if answer is not None:
            answer = self._left({self.fit.output: answer}, index)[self.fit.output]
        outputs, taught = self._left(self.outputs, index), self._left(self.taught, index)
        return replace(self, outputs=outputs, taught=taught, answer=answer)

    def _left(self, values: Mapping[str, Array], index: int) -> dict[str, Array]:
        places = {name: self.axes.outputs.get(name, 0) for name in values}
        return {
            name: value
            if (axis := places[name]) is None or value.ndim <= axis
            else np.delete(value, index, axis)
            for name, value in values.items()
        }

    @property
    def output(self) -> Array:
        """The output that the loss is taken on, in double precision."""
        return self.outputs[self.fit.output].astype(np.float64)

    @property
    def wanted(self) -> Array:
        """The labels or targets, of a loss that needs them."""
        assert self.answer is not None  # made sure of by `validate`
        return self.answer


def _mean(mean: Array, activated: bool) -> Array:
    """The output itself is compared with the targets."""
    return mean


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss by name: one entry of the table `LOSSES`.

    * `emit` writes the loss of a batch, a scalar, with what `Nodes` offers;
    * `metric` measures a batch of held-out samples, a mean over them; it is called `metric_name`, by default the
      loss;
    * `answers` is the array that the loss needs; `check` compares it with the output's shape before anything runs, and
      returns the axis of classes if there is one (raises DataError);
    * `constant(mean, activated)` is what the output says that always says the same, from the mean of the targets;
    * `strips` is the activation that is taken off, where the model ends with it;
    * `teacher`: with "outputs" the loss learns from all float outputs of the original, with "output" it may follow
      the first one for a part.
    """

    name: str
    emit: Callable[[Nodes], Value]
    metric: Callable[[Seen], float]
    answers: Literal["label", "target"] | None = "target"
    check: Check = check_targets
    strips: str | None = None
    teacher: Literal["output", "outputs"] | None = None
    metric_name: str = ""
    constant: Callable[[Array, bool], Array] = _mean
    higher_is_better: bool = False

    @property
    def measured(self) -> str:
        """What the figure on held-out data is called."""
        return self.metric_name or f"{self.name} loss"
