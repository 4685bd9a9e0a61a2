"""Ranking units without training."""

from __future__ import annotations

from typing import Any

import numpy as np

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.target import Given, Target
from tgonnx.options import CRITERION, of_class, whole_number, with_fields
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.budget import fit
from tgonnx.selection.mask import Mask
from tgonnx.selection.scoring import scores_by


def select(
    coupling: Coupling,
    target: Given = None,
    criterion: str = CRITERION,
    seed: int = 0,
    *,
    bounds: Bounds | None = None,
    **fields: Any,
) -> Mask:
    """Choose units without training.

    `random` keeps the same fraction of every group, drawn at random; `l2` keeps the units whose weights have the
    largest L2 norm within their group (Li et al. 2017), all groups being cut by the same fraction. All names:
    `tgonnx.selection.scoring.CRITERIA`. The fields of `Bounds` are keywords, too.

    Raises UsageError for a wrong option, TargetError if the target is below what the pinned channels cost.
    """
    wanted = Target.of(target)
    (within,) = with_fields("select", fields, of_class("bounds", bounds, Bounds))
    scores = scores_by(criterion, coupling, whole_number("seed", seed))
    ranks = np.empty(coupling.units)
    for group in coupling.groups:  # the fraction of the group that is better
        order = np.argsort(-scores[group.units], kind="stable")
        ranks[group.units[order]] = np.arange(group.size) / group.size
    return fit(coupling, -ranks, wanted, within)
