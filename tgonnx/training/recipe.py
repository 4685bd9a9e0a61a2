"""How a network is trained: what a user may set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tgonnx.engines import Device, EngineName
from tgonnx.ops.trainable_gate import Shape


@dataclass(frozen=True)
class Recipe:
    """How to train. Rates are the highest of a schedule; `lambda_` None adapts it."""

    lr: float = 1e-3
    gate_lr: float = 0.02
    lambda_: float | None = None
    gradient: Shape = "one"
    batch: int = 64
    weight_decay: float = 1e-4
    optimizer: Literal["adamw", "sgd"] = "adamw"
    train_weights: bool = True
    seed: int = 0
    threads: int | None = None
    engine: EngineName = "auto"
    device: Device = "cpu"
