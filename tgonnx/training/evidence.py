"""What criteria may look at, from a task or from data."""

from __future__ import annotations

from tgonnx.analysis.coupling import Coupling
from tgonnx.data.calibration import Calibration
from tgonnx.data.sources import Data, open_dataset
from tgonnx.losses.asked import Asked
from tgonnx.losses.fit import validate
from tgonnx.selection.scoring import Evidence
from tgonnx.training.recipe import Settings
from tgonnx.training.slopes import gate_slopes
from tgonnx.training.task import Task, Teacher


def evidence_of(coupling: Coupling, task: Task, recipe: Settings) -> Evidence:
    """The inputs of a task, and the slopes of its loss if it has answers."""
    return Evidence(
        lambda: Calibration(task.split, seed=recipe.seed),
        (lambda: gate_slopes(coupling, task, recipe)) if task.fit.answers else None,
    )


def evidence_from(coupling: Coupling, data: Data, seed: int = 0) -> Evidence:
    """The same from data of any kind. Raises as `open_dataset` and `validate` do."""
    original, recipe = coupling.model.original, Settings(seed=seed)
    dataset = open_dataset(data, original)
    if not dataset.taught:
        return Evidence(lambda: Calibration(dataset.train, seed=seed))
    fit = validate(dataset, original, Asked())
    return evidence_of(coupling, Task(dataset.train, fit, Teacher(original, fit, None, 0.0), None), recipe)
