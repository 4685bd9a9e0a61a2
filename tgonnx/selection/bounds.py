"""How units are chosen, and within which bounds: what a user may set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tgonnx.errors import OptionError
from tgonnx.options import CRITERION, Attention, changed, numbers_of, one_of, option, settle, whole_number

ALLOCATIONS = ("auto", "uniform", "global")
CHANNEL, HEAD, HEAD_DIM, BLOCK, WEIGHT = "channel", "head", "head-dim", "block", "weight"
UNITS = (CHANNEL, HEAD)  # what is cut if nobody says
KNOWN = (*UNITS, HEAD_DIM, BLOCK, WEIGHT)  # what can be cut
OF_CHOICES = ("choose", "alternative")  # options that make the choice one among alternatives


def _granularity(name: str, value: Any) -> str:
    """Names with commas between them, or a list of them, in the order of the table."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, Iterable):
        raise OptionError(name, f"is a {type(value).__name__}, not names with commas between them")
    given = {one_of(name, word.strip() if isinstance(word, str) else word, KNOWN) for word in words}
    if not given:
        raise OptionError(name, f"is empty; there are {', '.join(KNOWN)}")
    if WEIGHT in given and len(given) > 1:
        raise OptionError(name, f"{value!r}: {WEIGHT} goes with nothing else")
    if {HEAD, HEAD_DIM} <= given:
        raise OptionError(name, f"{value!r}: heads go whole or lose width, not both")
    return ",".join(known for known in KNOWN if known in given)


def _pattern(name: str, value: Any) -> str:
    """Text like 2:4; empty for none."""
    kept, _, of = str(value).partition(":")
    if value == "":
        return ""
    if not (kept.isdecimal() and of.isdecimal() and 0 < int(kept) < int(of)):
        raise OptionError(name, f"{value!r}: write N:M, as in 2:4, with N from 1 to M - 1")
    return f"{int(kept)}:{int(of)}"


def _criteria() -> Iterable[str]:
    from tgonnx.selection.scoring import CRITERIA

    return CRITERIA


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a choice of units must respect. Raises OptionError, which is a UsageError.

    Groups keep multiples of `round_to` units (None: of up to 8, as far as the target can be met closely) and at least
    `min_channels`, or as `min_units` says of each family; groups that have a value or node that one of the globs
    `freeze` matches stay whole, and so do branches; where globs are given as `only`, all others do. Of what a glob of
    `max_cut` matches, at most that share of the units goes. `granularity` names what may be cut: channels, heads of
    attention or their width, residual branches; or weights. Of single weights, `nm` keeps so many of every so many
    along the input axis, "2:4", and needs no target.
    With `choose`, nothing is cut but alternatives where several values meet (`tgonnx.analysis.alternatives`).
    """

    granularity: str = option(
        ",".join(UNITS),
        "What may go: some of channel, head (of attention) or head-dim (their width) and block (residual branches), or "
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
    min_units: tuple[str, ...] = option(
        (),
        "Keep at least so many of each group: 'channel=8,head=1'; of the model's branches: 'block=2'; of each weight: "
        "'weight=9'.",
        many=True,
        metavar="NAME=NUMBER",
    )
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
    nm: str = option(
        "",
        "Keep N of every M neighbours along the input axis of each weight, as 2:4, instead of a target; for weight.",
        metavar="N:M",
        form=_pattern,
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
        if self.nm and not self.cuts_weights:
            raise OptionError("nm", f"{self.nm} is of single weights: it needs granularity {WEIGHT}")
        for name in self.fewest:
            if one_of("min_units", name, KNOWN) not in self.members and not (
                name == HEAD and self.cuts_heads
            ):
                raise OptionError("min_units", f"names {name}, and granularity {self.granularity} cuts none")
        if self.nm and self.min_units:
            raise OptionError("min_units", f"does not go with nm: {self.nm} of each weight stay")
        if self.nm and self.max_cut:
            raise OptionError("max_cut", f"does not go with nm: {self.nm} of each weight stay")
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
    def fewest(self) -> dict[str, int]:
        """The fewest units that must stay, by what is cut."""
        words = [part.strip() for word in self.min_units for part in word.split(",")]
        return {
            name: whole_number("min_units", int(count) if count == int(count) else count, 1)
            for name, count in numbers_of("min_units", words).items()
        }

    @property
    def members(self) -> tuple[str, ...]:
        """What may be cut, word by word."""
        return tuple(self.granularity.split(","))

    def attention_of(self, asked: Attention) -> Attention:
        """What of attention is cut: its width if that is said here or was `asked` for."""
        return "head-dim" if HEAD_DIM in self.members else asked

    @property
    def pattern(self) -> tuple[int, int] | None:
        """How many elements stay of how many neighbours, if that is asked for."""
        kept, _, of = self.nm.partition(":")
        return (int(kept), int(of)) if of else None

    @property
    def cuts_channels(self) -> bool:
        """Whether channels may go."""
        return CHANNEL in self.members

    @property
    def cuts_heads(self) -> bool:
        """Whether heads of attention may go, or what all heads have."""
        return HEAD in self.members or HEAD_DIM in self.members

    @property
    def cuts_units(self) -> bool:
        """Whether channels or heads may go."""
        return (self.cuts_channels or self.cuts_heads) and not self.chooses

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
    def cuts_units_alone(self) -> bool:
        """Whether nothing but channels and heads may go."""
        return self.cuts_units and not self.cuts_branches

    @property
    def cuts_weights(self) -> bool:
        """Whether single weights may become zero."""
        return WEIGHT in self.members

    @property
    def cuts_branches(self) -> bool:
        """Whether residual branches or alternatives may go."""
        return BLOCK in self.members or self.chooses


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
