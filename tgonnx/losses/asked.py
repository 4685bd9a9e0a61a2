"""What is to be learned and measured, as a user says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tgonnx.losses.figures import MetricKind

if TYPE_CHECKING:
    from tgonnx.losses.nodes import Nodes


@dataclass(frozen=True, kw_only=True)
class Asked:
    """For `tgonnx.losses.fit.validate`.

    `loss` is a name, the path of a graph, or a function that writes nodes (`tgonnx.losses.own_loss`); it is for all
    outputs that have the answers it needs; for others, and with "auto", it is what answers allow. `weights` are those
    of losses by output (1 where nothing is said), `free` the outputs that have none. `smoothing` is the share of a
    label that all classes get. `metric` is measured of all outputs that have what it needs, the first among them in any
    case; None: what suits the loss.
    """

    loss: str | Callable[[Nodes], Any] = "auto"
    weights: Mapping[str, float] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    smoothing: float = 0.0
    metric: MetricKind | None = None
