"""What a training step consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from tgonnx.options import Device, EngineName, Optimizer

__all__ = ["Device", "EngineName", "Optimizer", "ParameterGroup", "StepSpec"]


@dataclass(frozen=True)
class ParameterGroup:
    """Initializers that one optimiser updates.

    `lr` is the name of a scalar float graph input with the learning rate (added if the graph lacks it).
    AdamW: Loshchilov and Hutter 2019, decoupled weight decay. SGD: v = momentum v + g + decay w; w -= lr v.
    """

    names: tuple[str, ...]
    optimizer: Optimizer = "adamw"
    lr: str = "lr"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    eps: float = 1e-8


@dataclass(frozen=True)
class StepSpec:
    """A training copy and what to update in it.

    `model`: inputs are features, targets and schedule scalars; the first output is the scalar loss, the
    others are metrics. `statistics` maps an initializer to the value that holds its new value after the step.
    """

    model: onnx.ModelProto
    groups: tuple[ParameterGroup, ...]
    statistics: Mapping[str, str] = field(default_factory=dict)
