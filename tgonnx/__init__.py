"""tgonnx: structural pruning of any ONNX model with trainable gates.

import tgonnx as tg
model = tg.load("model.onnx")
result = tg.prune(model, data="data.npz", target=tg.Target(flops=0.5))
result.save("model.pruned.onnx")
"""

from __future__ import annotations

import tgonnx.io.interrupts  # noqa: F401 (first, as the others take their time)

# isort: split
import onnx

from tgonnx import data
from tgonnx.analysis.cost import Cost, CostModel, Target
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.solver import analyze
from tgonnx.errors import (
    DataError,
    DivergedError,
    InstallationError,
    ModelError,
    TargetError,
    TgonnxError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from tgonnx.loading import load
from tgonnx.passes import insert_gates, remove_channels
from tgonnx.pipeline import Figures, PruneResult, prune
from tgonnx.runtime.equivalence import Check, verify
from tgonnx.selection.criteria import select
from tgonnx.selection.mask import Mask
from tgonnx.training.progress import Progress

__all__ = [
    "Check",
    "Cost",
    "CostModel",
    "Coupling",
    "DataError",
    "DivergedError",
    "Figures",
    "InstallationError",
    "Mask",
    "Model",
    "ModelError",
    "Progress",
    "PruneResult",
    "Target",
    "TargetError",
    "TgonnxError",
    "UnsupportedError",
    "UsageError",
    "VerificationError",
    "analyze",
    "apply",
    "data",
    "gate",
    "load",
    "prune",
    "select",
    "verify",
]


def gate(model: Model | Source, mask: Mask) -> onnx.ModelProto:
    """The gated model: of the same size, computing what the pruned one does. Raises UsageError."""
    return insert_gates.gate(_coupling(model, mask), mask)


def apply(model: Model | Source, mask: Mask) -> onnx.ModelProto:
    """The model without the units that the mask closes. Raises UsageError, VerificationError."""
    return remove_channels.apply(_coupling(model, mask), mask)


def _coupling(model: Model | Source, mask: Mask) -> Coupling:
    return analyze(model if isinstance(model, Model) else load(model), mask.attention)
