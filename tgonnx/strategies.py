"""Tables of strategies: a name for each object, and one error for names that nobody has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tgonnx.options import one_of

T = TypeVar("T")


def find(table: Mapping[str, T], name: object, what: str) -> T:
    """The entry of that name; `what` the table holds is said in the error. Raises OptionError, a UsageError."""
    return table[one_of(what, name, tuple(table))]
