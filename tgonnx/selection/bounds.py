"""How units are chosen, and within which bounds: what a user may set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tgonnx.errors import OptionError
from tgonnx.options import CRITERION, changed, numbers_of, one_of, option, settle

ALLOCATIONS = ("auto", "uniform", "global")
UNITS, BLOCK, WEIGHT = ("channel", "head"), "block", "weight"  # what can be cut
GRANULARITIES = (UNITS, (BLOCK,), (*UNITS, BLOCK), (WEIGHT,))


OF_CHOICES = ("choose", "alternative")  # options that make the choice one among alternatives
KNOWN = (*UNITS, BLOCK, WEIGHT)


def _granularity(name: str, value: Any) -> str:
    """Names with commas between them, or a list of them, in the order of the table."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, Iterable):
        raise OptionError(name, f"is a {type(value).__name__}, not names with commas between them")
    given = {one_of(name, word.strip() if isinstance(word, str) else word, KNOWN) for word in words}
    for known in GRANULARITIES:
        if given == {*known}:
            return ",".join(known)
    choices = " or ".join(",".join(known) for known in GRANULARITIES)
    raise OptionError(name, f"{value!r}: what can be cut together is {choices}")


def _criteria() -> Iterable[str]:
    from tgonnx.selection.scoring import CRITERIA

    return CRITERIA


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a choice of units must respect. Raises OptionError, which is a UsageError.

    Groups keep multiples of `round_to` units (None: of up to 8, as far as the target can be met closely) and at least
    `min_channels`; groups that have a value or node that one of the globs `freeze` matches stay whole, and so do
    branches; where globs are given as `only`, all others do. Of what a glob of `max_cut` matches, at most that share of
    the units goes. `granularity` names what may be cut: channels and heads of attention, residual branches, or both.
    With `choose`, nothing is cut but alternatives where several values meet (`tgonnx.analysis.alternatives`).
    """

    granularity: str = option(
        ",".join(UNITS),
        "What may go: channel,head (channels, heads of attention), block (residual branches), channel,head,block, or "
        "weight (single weights become zero).",
        metavar="NAMES",
        form=_granularity,
    )

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
    only: tuple[str, ...] = option(
        (), "Cut nothing but what a node or value of this name takes part in.", many=True, metavar="GLOB"
    )
    max_cut: tuple[str, ...] = option(
        (),
        "Cut at most this share of what a node or value of this name takes part in, as 'layer1.*=0.5'.",
        many=True,
        metavar="GLOB=SHARE",
    )

    choose: tuple[str, ...] = option(
        (),
        "Choose among what meets in an Add, Sum, Mean or Concat: 'mixed_*=1' keeps one alternative at each such node.",
        many=True,
        metavar="GLOB=COUNT",
    )

    alternative: tuple[str, ...] = option(
        (),
        "Put alternatives beside convolutions, and keep one of each: 'layer*=depthwise,separable,1x1,identity'.",
        many=True,
        metavar="GLOB=NAMES",
    )

    def __post_init__(self) -> None:
        settle(self)
        _ = self.choices, self.layers  # which are refused here
        asked = [name for name in OF_CHOICES if getattr(self, name)]
        if asked and (others := [name for name in changed(self) if name not in (*OF_CHOICES, "round_to")]):
            raise OptionError(asked[0], f"is for alternatives: {others[0]} does not go with it")
        if len(asked) > 1:
            raise OptionError("alternative", "is chosen from by itself: choose in another run")
        for glob, share in self.shares.items():
            if share > 1:
                raise OptionError("max_cut", f"'{glob}={share:g}': a share is at most 1")

    @property
    def shares(self) -> dict[str, float]:
        """The largest share that may go, by glob."""
        return numbers_of("max_cut", self.max_cut)

    @property
    def choices(self) -> dict[str, float]:
        """How many alternatives stay, by the glob of the nodes where they meet."""
        return numbers_of("choose", self.choose)

    @property
    def layers(self) -> dict[str, tuple[str, ...]]:
        """The alternatives that are put beside convolutions, by glob."""
        found = {}
        for word in self.alternative:
            glob, equals, names = word.rpartition("=")
            kinds = tuple(name.strip() for name in names.split(",") if name.strip())
            if not equals or not glob or not kinds:
                raise OptionError("alternative", f"{word!r}: write GLOB=NAMES, as in 'layer1.*=1x1,identity'")
            found[glob] = kinds
        return found

    @property
    def chooses(self) -> bool:
        """Whether alternatives are chosen from, and nothing else goes."""
        return bool(self.choose or self.alternative)

    @property
    def cuts_units(self) -> bool:
        """Whether channels and heads may go."""
        return UNITS[0] in self.granularity and not self.chooses

    @property
    def cuts_units_alone(self) -> bool:
        """Whether nothing but channels and heads may go."""
        return self.cuts_units and not self.cuts_branches

    @property
    def cuts_weights(self) -> bool:
        """Whether single weights may become zero."""
        return WEIGHT in self.granularity

    @property
    def cuts_branches(self) -> bool:
        """Whether residual branches or alternatives may go."""
        return BLOCK in self.granularity or self.chooses


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
