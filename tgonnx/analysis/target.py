"""How much may stay: `Target`, and the forms in which a user may write one.

A share is a number up to 1 or a percentage; an amount is a number from 1,000 or has a unit: `params=1M`, `size=2MB`,
`latency=5ms`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tgonnx.errors import OptionError
from tgonnx.options import TARGET, nearest

if TYPE_CHECKING:
    from tgonnx.analysis.cost import CostModel

LEAST_AMOUNT = 1000  # a number between a share and this is more likely a percentage than an amount
SIZE = "size"  # the kind that is counted in bytes
LATENCY = "latency"  # the kind that is counted in microseconds
_NUMBER = re.compile(r"\s*(?P<number>[-+.\w]*?)\s*(?P<unit>%|[kKMGT]?i?B?|[mu]?s)\s*", re.ASCII)
_SECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True, init=False, repr=False)
class Target:
    """How much may stay of one kind of cost: `Target(flops=0.5)`, `Target(params="1M")`, `Target(size="2MB")`.

    `value` is a share of the original's cost, or, above 1, an amount: FLOPs, parameters, channels, bytes of the file,
    microseconds.
    `stated` is how it was written. `also` are other kinds that must be met beside it: `Target.of({"latency": 0.6,
    "params": 0.5})`. Raises OptionError, which is a UsageError.
    """

    kind: str
    value: float
    stated: str = field(compare=False)
    also: tuple[Target, ...] = ()

    def __init__(self, **given: float | str | None) -> None:
        shares = {kind: value for kind, value in given.items() if value is not None}
        if len(shares) != 1:
            raise OptionError("target", f"names exactly one of {', '.join(_kinds())}")
        ((name, value),) = shares.items()
        stated = f"{name}={value}"
        kind = _kind(name, stated)
        number = _number(kind, value, stated)
        self._set(kind, number, stated if isinstance(value, str) else f"{kind}={number:g}")

    def _set(self, kind: str, value: float, stated: str, also: tuple[Target, ...] = ()) -> None:
        for name, content in (("kind", kind), ("value", value), ("stated", stated), ("also", also)):
            object.__setattr__(self, name, content)

    @classmethod
    def together(cls, targets: Sequence[Target]) -> Target:
        """Targets that must all be met, a latency first, as only what comes first is timed. Raises OptionError."""
        first, *others = sorted(targets, key=lambda target: target.kind != LATENCY)
        stated = ",".join(target.stated for target in targets)
        if len({target.kind for target in targets}) < len(targets):
            raise OptionError("target", f"{stated!r} names a kind twice")
        both = cls(**{first.kind: 1.0})
        both._set(first.kind, first.value, stated, tuple(others))
        return both

    @classmethod
    def parse(cls, text: str) -> Target:
        """`flops=0.5`, `flops=50%`, `params=1M`, `size=2MB`; FLOPs if no kind is named; several with commas.

        Raises OptionError.
        """
        if text.count("=") > 1 and "," in text:
            return cls.together([cls.parse(part.strip()) for part in text.split(",")])
        kind, equals, value = text.partition("=")
        if equals:
            return cls(**{kind.strip(): value.strip()})
        if _is_number(text):
            return cls(flops=text)
        kind, colon, value = text.partition(":")
        cure = f"; write {kind.strip()}={value.strip()}" if colon else f"; write for example {TARGET}"
        raise OptionError("target", f"{text!r} is not one of {', '.join(_kinds())} with what may stay{cure}")

    @classmethod
    def of(cls, given: Given) -> Target:
        """A target from any form of it: a `Target`, text, a share of the FLOPs, or a mapping. Raises OptionError."""
        if given is None:
            return cls.parse(TARGET)
        if isinstance(given, Target):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        if isinstance(given, Mapping):
            if len(given) > 1:
                return cls.together([cls(**{str(kind): value}) for kind, value in given.items()])
            return cls(**{str(kind): value for kind, value in given.items()})
        if isinstance(given, bool) or not hasattr(given, "__float__"):
            raise OptionError("target", f"cannot be a {type(given).__name__}; write for example {TARGET!r}")
        return cls(flops=float(given))

    def as_share(self, costs: CostModel) -> Target:
        """The target as a share of what the model costs, which is 1 if that is less than the amount."""
        share, also = self.value, tuple(each.as_share(costs) for each in self.also)
        if share > 1:
            share /= max(costs.total(self.kind), 1e-30)
        return self if (share, also) == (self.value, self.also) else self.of_share(share, also)

    def of_share(self, value: float, also: tuple[Target, ...] | None = None) -> Target:
        """What the same words mean where they come to this share."""
        share = Target(**{self.kind: 1.0})
        share._set(self.kind, min(1.0, value), self.stated, self.also if also is None else also)
        return share

    def __str__(self) -> str:
        return self.stated

    def __repr__(self) -> str:
        return f"Target({self.kind}={self.value:g})"


def _kinds() -> tuple[str, ...]:
    from tgonnx.analysis.kinds import KINDS

    return tuple(KINDS)


def _kind(name: str, stated: str) -> str:
    """The kind of cost of this name, in whatever case."""
    kinds = _kinds()
    for kind in kinds:
        if name == kind or name.lower() == kind.lower():
            return kind
    raise OptionError("target", f"{stated!r} is not one of {_listed(kinds)}{nearest(name, kinds)}")


def _listed(kinds: Iterable[str]) -> str:
    return f"{', '.join(kinds)} with what may stay, as in {TARGET}"


def _number(kind: str, value: float | str, stated: str) -> float:
    """A share within 0..1, or an amount of at least `LEAST_AMOUNT`."""
    number, unit = _read(value, stated)
    if kind == LATENCY or unit in _SECONDS:
        return _time(kind, number, unit, stated)
    if unit.endswith("B") and kind != SIZE:
        raise OptionError("target", f"{stated!r}: bytes are a size, as in size=2MB")
    if unit == "%":
        number /= 100
    elif unit:
        base = 1024 if "i" in unit else 1000
        number *= base ** _POWERS[unit.rstrip("B").rstrip("i").upper()]
    share = 0 < number <= 1
    if share and kind == SIZE and isinstance(value, str) and not unit:
        raise OptionError(
            "target", f"{stated!r}: a size has a unit; write {100 * number:g}% or as in size=2MB"
        )
    if (share and unit in ("", "%")) or (number >= LEAST_AMOUNT and unit != "%"):
        return number
    wanted = f"a share is above 0 and at most 1, an amount at least {LEAST_AMOUNT:,}"
    raise OptionError("target", f"{stated!r}: {wanted}{_cure(kind, number, unit)}")


def _time(kind: str, number: float, unit: str, stated: str) -> float:
    """A share within 0..1, or microseconds."""
    if kind != LATENCY:
        raise OptionError("target", f"{stated!r}: a time is a latency, as in latency=5ms")
    if unit in _SECONDS and number * _SECONDS[unit] > 1:
        return number * _SECONDS[unit]
    share = number / 100 if unit == "%" else number
    if unit in ("", "%") and 0 < share <= 1:
        return share
    raise OptionError(
        "target", f"{stated!r}: a share is above 0 and at most 1, a time has a unit, as in latency=5ms"
    )


def _read(value: float | str, stated: str) -> tuple[float, str]:
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    text, unit = (found["number"], found["unit"]) if found else (value, "")
    try:
        number = math.nan if isinstance(text, bool) else float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise OptionError("target", f"{stated!r}: {value!r} is not a number")
    return number, unit


def _cure(kind: str, number: float, unit: str) -> str:
    if not number > 1 or unit:
        return ""
    amount = f"{number:g}MB" if kind == SIZE else f"{number:g}M"
    percent = f"; did you mean {number:g}%?" if number <= 100 else ""
    return f"{percent}; write an amount with its unit, as in {kind}={amount}"


def _is_number(text: str) -> bool:
    try:
        _read(text, text)
    except OptionError:
        return False
    return True


Given = Target | str | float | Mapping[str, float | str] | None  # what `Target.of` takes
