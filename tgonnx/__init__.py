"""tgonnx: structural pruning of any ONNX model with trainable gates.

import tgonnx as tg
model = tg.load("model.onnx")
result = tg.prune(model, data="data.npz", target=tg.Target(flops=0.5))
result.save("model.pruned.onnx")

Public names are imported when they are first asked for: `import tgonnx` loads next to nothing.
"""

from __future__ import annotations

import tgonnx.io.interrupts  # noqa: F401 (first, as the others take their time)

# isort: split
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tgonnx import data, passes
    from tgonnx.analysis.cost import Cost, CostModel
    from tgonnx.analysis.coupling import Coupling
    from tgonnx.analysis.difference import Difference
    from tgonnx.analysis.model import Model
    from tgonnx.analysis.target import Target
    from tgonnx.analysis.times import Profile
    from tgonnx.api import analyze, apply, diff, gate, profile, save, select, sensitivity, verify
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
    from tgonnx.pipeline import Evaluation, Figures, PruneResult, evaluate, prune, sweep, tune
    from tgonnx.runtime.equivalence import Check
    from tgonnx.selection.bounds import Bounds
    from tgonnx.selection.mask import Mask
    from tgonnx.training.exam import Exam
    from tgonnx.training.progress import Progress
    from tgonnx.training.recipe import Recipe, Run

__all__ = [
    "Bounds",
    "Check",
    "Cost",
    "CostModel",
    "Coupling",
    "DataError",
    "Difference",
    "DivergedError",
    "Evaluation",
    "Exam",
    "Figures",
    "InstallationError",
    "Mask",
    "Model",
    "ModelError",
    "Profile",
    "Progress",
    "PruneResult",
    "Recipe",
    "Run",
    "Target",
    "TargetError",
    "TgonnxError",
    "UnsupportedError",
    "UsageError",
    "VerificationError",
    "analyze",
    "apply",
    "data",
    "diff",
    "evaluate",
    "gate",
    "load",
    "passes",
    "profile",
    "prune",
    "save",
    "select",
    "sensitivity",
    "sweep",
    "tune",
    "verify",
]

# Where the names above come from
_HOMES = {
    "analysis.cost": "Cost CostModel",
    "analysis.coupling": "Coupling",
    "analysis.difference": "Difference",
    "analysis.model": "Model",
    "analysis.target": "Target",
    "analysis.times": "Profile",
    "api": "analyze apply diff gate profile save select sensitivity verify",
    "errors": "DataError DivergedError InstallationError ModelError TargetError TgonnxError UnsupportedError "
    "UsageError VerificationError",
    "loading": "load",
    "pipeline": "Evaluation Figures PruneResult evaluate prune sweep tune",
    "runtime.equivalence": "Check",
    "selection.bounds": "Bounds",
    "selection.mask": "Mask",
    "training.exam": "Exam",
    "training.progress": "Progress",
    "training.recipe": "Recipe Run",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for (PEP 562)."""
    if name in ("data", "passes"):
        return import_module(f"tgonnx.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'tgonnx' has no attribute {name!r}")
    value = getattr(import_module(f"tgonnx.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
