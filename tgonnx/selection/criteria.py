"""Ranking units without training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tgonnx.analysis.cost import Target
from tgonnx.analysis.coupling import Coupling
from tgonnx.selection.budget import fit
from tgonnx.selection.mask import Mask
from tgonnx.selection.scoring import scores_by


def select(
    coupling: Coupling,
    target: Target,
    criterion: str = "random",
    seed: int = 0,
    round_to: int | None = None,
    min_channels: int = 1,
    freeze: Sequence[str] = (),
) -> Mask:
    """Choose units without training.

    `random` keeps the same fraction of every group, drawn at random; `l2` keeps the units whose weights have the
    largest L2 norm within their group (Li et al. 2017), all groups being cut by the same fraction. All names:
    `tgonnx.selection.scoring.CRITERIA`.
    Raises UsageError for an unknown criterion, TargetError if the target is below what the pinned channels cost.
    """
    scores = scores_by(criterion, coupling, seed)
    ranks = np.empty(coupling.units)
    for group in coupling.groups:  # the fraction of the group that is better
        order = np.argsort(-scores[group.units], kind="stable")
        ranks[group.units[order]] = np.arange(group.size) / group.size
    return fit(coupling, -ranks, target, round_to, min_channels, freeze)
