"""How much each unit is worth keeping, judged without training. What is done with the scores is `budget`'s."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling
from tgonnx.errors import UsageError
from tgonnx.selection.norms import unit_norms
from tgonnx.strategies import find

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A criterion by name: one entry of the table `CRITERIA`.

    `score` takes a coupling and a seed, and gives a number for each unit, [units]; within a group, the units of
    higher score stay.
    """

    name: str
    score: Callable[[Coupling, int], Scores]


def _l2(coupling: Coupling, seed: int) -> Scores:
    """The L2 norm of the unit's weights (Li et al. 2017, "Pruning filters for efficient ConvNets")."""
    return unit_norms(coupling)


def _random(coupling: Coupling, seed: int) -> Scores:
    """Drawn at random: what every other criterion must beat (Mittal et al. 2018)."""
    return np.random.default_rng(seed).random(coupling.units)


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (Criterion(name="l2", score=_l2), Criterion(name="random", score=_random))
}


def register(criterion: Criterion) -> None:
    """Let `criterion="NAME"` mean this one; one of the same name is replaced."""
    CRITERIA[criterion.name] = criterion


def scores_by(name: str, coupling: Coupling, seed: int = 0) -> Scores:
    """The scores of all units by the criterion of that name.

    Raises UsageError for a name that is not in the table, listing those that are, and for scores that rank nothing.
    """
    scores = np.asarray(find(CRITERIA, name, "criterion").score(coupling, seed))
    if scores.shape != (coupling.units,) or scores.dtype.kind not in "biuf":
        raise UsageError(
            f"criterion {name!r}: scores are {scores.dtype} of shape {scores.shape}, not a number for each of "
            f"{coupling.units} units"
        )
    if np.isnan(scores).any():
        raise UsageError(f"criterion {name!r}: the score of unit {int(np.isnan(scores).argmax())} is NaN")
    return scores.astype(np.float64)
