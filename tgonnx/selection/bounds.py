"""Within which bounds units are chosen: what a user may set."""

from __future__ import annotations

from dataclasses import dataclass

from tgonnx.options import option, settle


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
