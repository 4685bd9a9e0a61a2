"""What a loss is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tgonnx.data.answers import check_targets
from tgonnx.graph.builder import Value
from tgonnx.graph.types import Array
from tgonnx.losses.figures import MetricKind, Seen, mean_of

if TYPE_CHECKING:
    from tgonnx.losses.nodes import Nodes

__all__ = ["Check", "Loss", "Seen"]

Check = Callable[
    [Array, tuple[int, ...], str], int | None
]  # answers, shape of the output, where they are from


def _mean(mean: Array, activated: bool) -> Array:
    """The output itself is compared with the targets."""
    return mean


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss by name: one entry of the table `LOSSES`. It is taken on one output.

    * `emit` writes the loss of a batch, a scalar, with what `Nodes` offers;
    * `metric` is what is measured on held-out samples: a `MetricKind`, or a function of a batch whose mean over
      samples is called `metric_name`, by default the loss;
    * `answers` is the array that the loss needs; `check` compares it with the output's shape before anything runs, and
      returns the axis of classes if there is one (raises DataError);
    * `constant(mean, activated)` is what the output says that always says the same, from the mean of the targets;
    * `strips` is the activation that is taken off, where the model ends with it;
    * `teacher`: with "whole" the loss learns from what the original says of the output, with "part" it may follow that
      for a part.
    """

    name: str
    emit: Callable[[Nodes], Value]
    metric: Callable[[Seen], float] | MetricKind
    answers: Literal["label", "target"] | None = "target"
    check: Check = check_targets
    strips: str | None = None
    teacher: Literal["part", "whole"] | None = None
    metric_name: str = ""
    constant: Callable[[Array, bool], Array] = _mean
    higher_is_better: bool = False

    @property
    def figure(self) -> MetricKind:
        """What is measured on held-out data, if nothing else is asked for."""
        if isinstance(self.metric, MetricKind):
            return self.metric
        return mean_of(self.metric_name or f"{self.name} loss", self.metric, self.higher_is_better)
