"""How much each unit is worth keeping, judged without training. What is done with the scores is `budget`'s."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling
from tgonnx.errors import OptionError, UsageError
from tgonnx.graph.types import Array
from tgonnx.selection.norms import unit_distances, unit_norms
from tgonnx.selection.obs import order_of_removal
from tgonnx.strategies import find

Scores = npt.NDArray[np.float64]


Inputs = Sequence[Mapping[str, Array]]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A criterion by name: one entry of the table `CRITERIA`.

    `score` takes a coupling and a seed, and gives a number for each unit, [units]; within a group, the units of
    higher score stay. In its place, `on_inputs` takes a coupling and batches of inputs, and `on_slopes` a coupling and
    the slopes of the task's loss along the gates, [batches, units], which needs labels or targets. `across`: scores of
    different groups can be compared; otherwise every group is cut by the same fraction.
    """

    name: str
    score: Callable[[Coupling, int], Scores] | None = None
    on_inputs: Callable[[Coupling, Inputs], Scores] | None = None
    on_slopes: Callable[[Coupling, Scores], Scores] | None = None
    across: bool = False


def _l1(coupling: Coupling, seed: int) -> Scores:
    """The mean magnitude of the unit's weights (Li et al. 2017, "Pruning filters for efficient ConvNets")."""
    return unit_norms(coupling, 1)


def _l2(coupling: Coupling, seed: int) -> Scores:
    """The L2 norm of the unit's weights (He et al. 2018, "Soft filter pruning")."""
    return unit_norms(coupling)


def _lamp(coupling: Coupling, seed: int) -> Scores:
    """The squared norm as a share of all that are as large in its group (Lee et al. 2021, equation 4)."""
    squares = unit_norms(coupling) ** 2
    scores = np.empty(coupling.units)
    for group in coupling.groups:
        order = group.units[np.argsort(squares[group.units], kind="stable")]
        scores[order] = squares[order] / np.maximum(np.cumsum(squares[order][::-1])[::-1], 1e-300)
    return scores


def _fpgm(coupling: Coupling, seed: int) -> Scores:
    """How far the unit's weights are from those of the others of its group (He et al. 2019, equation 4)."""
    return unit_distances(coupling)


def _taylor(coupling: Coupling, slopes: Scores) -> Scores:
    """How much the loss changes without the unit, to first order (Molchanov et al. 2017, equation 7)."""
    found: Scores = np.abs(slopes).mean(0)
    return found


def _fisher(coupling: Coupling, slopes: Scores) -> Scores:
    """The same from the squares of slopes (Theis et al. 2018; of coupled units: Liu et al. 2021)."""
    found: Scores = np.square(slopes).mean(0)
    return found


def _zero(coupling: Coupling, seed: int) -> Scores:
    """Nothing but whether a unit does something: the first that do nothing go, then those behind in their group."""
    return np.concatenate([-np.arange(g.size, dtype=np.float64) for g in coupling.groups])[
        np.argsort(np.concatenate([g.units for g in coupling.groups]), kind="stable")
    ]


def _random(coupling: Coupling, seed: int) -> Scores:
    """Drawn at random: what every other criterion must beat (Mittal et al. 2018)."""
    return np.random.default_rng(seed).random(coupling.units)


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion(name="l1", score=_l1),
        Criterion(name="l2", score=_l2),
        Criterion(name="lamp", score=_lamp, across=True),
        Criterion(name="fpgm", score=_fpgm),
        Criterion(name="taylor", on_slopes=_taylor),
        Criterion(name="fisher", on_slopes=_fisher),
        Criterion(name="obs", on_inputs=order_of_removal),
        Criterion(name="zero", score=_zero),
        Criterion(name="random", score=_random),
    )
}


def register(criterion: Criterion) -> None:
    """Let `criterion="NAME"` mean this one; one of the same name is replaced."""
    CRITERIA[criterion.name] = criterion


def criterion_of(name: str) -> Criterion:
    """The criterion of that name. Raises UsageError for one that is not in the table, listing those that are."""
    return find(CRITERIA, name, "criterion")


@dataclass(frozen=True)
class Evidence:
    """What criteria may look at, made when one does: batches of inputs, and slopes along gates, [batches, units]."""

    inputs: Callable[[], Inputs] | None = None
    slopes: Callable[[], Scores] | None = None


def scores_by(name: str, coupling: Coupling, seed: int = 0, evidence: Evidence | None = None) -> Scores:
    """The scores of all units by the criterion of that name.

    Raises UsageError for a name that is not in the table, listing those that are, for a criterion that needs evidence
    of which there is none, and for scores that rank nothing.
    """
    criterion, given = criterion_of(name), evidence or Evidence()
    if criterion.on_inputs is not None:
        if given.inputs is None:
            raise OptionError("criterion", f"{name!r} looks at inputs: give data")
        found = criterion.on_inputs(coupling, given.inputs())
    elif criterion.on_slopes is not None:
        if given.slopes is None:
            raise OptionError("criterion", f"{name!r} looks at the loss: give data with labels or targets")
        found = criterion.on_slopes(coupling, given.slopes())
    elif criterion.score is not None:
        found = criterion.score(coupling, seed)
    else:
        raise UsageError(f"criterion {name!r} has neither score nor on_inputs")
    scores = np.asarray(found)
    if scores.shape != (coupling.units,) or scores.dtype.kind not in "biuf":
        raise UsageError(
            f"criterion {name!r}: scores are {scores.dtype} of shape {scores.shape}, not a number for each of "
            f"{coupling.units} units"
        )
    if np.isnan(scores).any():
        raise UsageError(f"criterion {name!r}: the score of unit {int(np.isnan(scores).argmax())} is NaN")
    return scores.astype(np.float64)
