"""What a training step consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from tgonnx.ops.aspects.row import SHORTCUTS
from tgonnx.options import Device, EngineName

__all__ = ["Device", "EngineName", "ParameterGroup", "StepSpec"]


@dataclass(frozen=True)
class ParameterGroup:
    """Initializers that one optimiser updates.

    `optimizer` is a name in the table of optimisers, which `betas`, `eps` and `momentum` are for. `lr` is the name of a
    scalar float graph input with the learning rate (added if the graph lacks it). In each step `weight_decay` times
    the rate is taken off a weight, as a share of it. `clipped`: its gradients count in the norm that is bounded.
    """

    names: tuple[str, ...]
    optimizer: str = "adamw"
    lr: str = "lr"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    eps: float = 1e-8
    clipped: bool = False


@dataclass(frozen=True)
class StepSpec:
    """A training copy and what to update in it.

    `model`: inputs are features, targets and schedule scalars; the first output is the scalar loss, the
    others are metrics. `statistics` maps an initializer to the value that holds its new value after the step.
    `clip` is the largest norm of all gradients of clipped groups together (0: any). Parameters are updated once in
    `accumulate` calls, by the mean of the gradients of these. On a CPU, the `shortcuts` of these names are taken.
    """

    model: onnx.ModelProto
    groups: tuple[ParameterGroup, ...]
    statistics: Mapping[str, str] = field(default_factory=dict)
    clip: float = 0.0
    accumulate: int = 1
    shortcuts: tuple[str, ...] = SHORTCUTS
