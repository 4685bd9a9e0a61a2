"""Tables of strategies: a name for each object, and one error for names that nobody has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from tgonnx.errors import UsageError

T = TypeVar("T")


def find(table: Mapping[str, T], name: object, what: str) -> T:
    """The entry of that name; `what` the table holds is said in the error. Raises UsageError."""
    if isinstance(name, str) and name in table:
        return table[name]
    raise unknown(what, name, table)


def unknown(what: str, name: object, known: Iterable[str]) -> UsageError:
    """An error that lists what is known, the names most like the wrong one first."""
    from difflib import SequenceMatcher  # only where something is wrong already

    def distance(other: str) -> float:
        return -SequenceMatcher(None, str(name).lower(), other.lower()).ratio()

    return UsageError(f"unknown {what} {name!r}; there are {', '.join(sorted(known, key=distance))}")
