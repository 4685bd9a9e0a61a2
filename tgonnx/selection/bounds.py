"""How units are chosen, and within which bounds: what a user may set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tgonnx.options import CRITERION, option, settle

ALLOCATIONS = ("auto", "uniform", "global")


def _criteria() -> Iterable[str]:
    from tgonnx.selection.scoring import CRITERIA

    return CRITERIA


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a choice of units must respect. Raises OptionError, which is a UsageError.

    Groups keep multiples of `round_to` units (None: of up to 8, as far as the target can be met closely) and at least
    `min_channels`; groups that have a value or node that one of the globs `freeze` matches stay whole.
    """

    round_to: int | None = option(
        None,
        "Keep multiples of this many units; auto: up to 8 where the target allows it, which runtimes like.",
        kind=int,
        low=1,
    )
    min_channels: int = option(1, "Keep at least this many units.", low=1)
    freeze: tuple[str, ...] = option(
        (), "Never cut what a node or value of this name takes part in.", many=True, metavar="GLOB"
    )

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """By what units are ranked without training, and against which others. Raises OptionError."""

    criterion: str = option(
        CRITERION,
        "How units are ranked: l1, l2, lamp, fpgm, obs (looks at --data), zero, random.",
        names=_criteria,
    )
    allocation: str = option(
        "auto",
        "The same fraction of every group, or the lowest scores of all; auto: as suits the criterion.",
        names=ALLOCATIONS,
    )

    def __post_init__(self) -> None:
        settle(self)
