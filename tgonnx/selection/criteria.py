"""Ranking units without training."""

from __future__ import annotations

from typing import Any

import numpy as np

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.target import Given, Target
from tgonnx.errors import OptionError, UnsupportedError
from tgonnx.options import CRITERION, of_class, whole_number, with_fields
from tgonnx.selection.bounds import Bounds, Ranking
from tgonnx.selection.budget import DEFAULT, all_met, fit, floors
from tgonnx.selection.dead import dead_units
from tgonnx.selection.mask import Mask
from tgonnx.selection.mask_file import Open
from tgonnx.selection.scoring import Evidence, Scores, criterion_of, scores_by


def select(
    coupling: Coupling,
    target: Given = None,
    criterion: str = CRITERION,
    seed: int = 0,
    *,
    evidence: Evidence | None = None,
    allocation: str = "auto",
    bounds: Bounds | None = None,
    **fields: Any,
) -> Mask:
    """Choose units without training.

    `l2` keeps the units whose weights have the largest norm within their group; `tgonnx.selection.scoring.CRITERIA`
    has all names. Every group is cut by the same fraction, unless the criterion or `allocation` ("uniform" or
    "global") says otherwise. Units that do nothing go first (`tgonnx.selection.dead`). `evidence` is for a
    criterion that looks at inputs or at the loss. The fields of `Bounds` are keywords, too.

    Raises UsageError for a wrong option, TargetError if the target is below what the pinned channels cost.
    """
    wanted = Target.of(target)
    (within,) = with_fields("select", fields, of_class("bounds", bounds, Bounds))
    if not within.cuts_units_alone:
        raise OptionError(
            "granularity", "this function chooses channels and heads: use tgonnx.select or tgonnx.prune"
        )
    how = Ranking(criterion=criterion, allocation=allocation)
    places = ranks(coupling, how, whole_number("seed", seed), evidence)
    share = wanted.as_share(coupling.cost_model)
    mask = fit(coupling, places, wanted, within)
    return all_met(coupling, mask, share, lambda goal: fit(coupling, places, goal, within))


def ranks(coupling: Coupling, how: Ranking, seed: int = 0, evidence: Evidence | None = None) -> Scores:
    """The order in which units stay, the lowest going first, [units]; units that do nothing have minus infinity."""
    scores = scores_by(how.criterion, coupling, seed, evidence)
    dead = dead_units(coupling)
    placed = scores if _across(how) else _within_groups(coupling, scores, dead)
    return np.where(dead, -np.inf, placed)


def without_dead(coupling: Coupling, bounds: Bounds = DEFAULT) -> Mask:
    """Close all units that do nothing, but for the fewest that a group must keep: nothing is lost.

    Raises UnsupportedError if there are none.
    """
    dead = dead_units(coupling)
    fewest = floors(coupling, bounds)
    for group, least in zip(coupling.groups, fewest.tolist(), strict=True):
        spare = group.size - int(dead[group.units].sum())
        idle = group.units[dead[group.units]]
        dead[idle[: max(0, least - spare)]] = False
    if not dead.any():
        raise UnsupportedError(
            f"{coupling.model.source}: every unit does something: nothing can go without loss"
        )
    return Mask.of(coupling, ~dead)


def _across(how: Ranking) -> bool:
    """Whether units of all groups are ranked together."""
    return criterion_of(how.criterion).across if how.allocation == "auto" else how.allocation == "global"


def _within_groups(coupling: Coupling, scores: Scores, dead: Open) -> Scores:
    """The fraction of the living units of its group that a unit is not behind, [units]."""
    ranks = np.empty(coupling.units)
    for group in coupling.groups:
        living = group.units[~dead[group.units]]
        order = np.argsort(-scores[living], kind="stable")
        ranks[living[order]] = -np.arange(len(living)) / max(len(living), 1)
    return ranks
