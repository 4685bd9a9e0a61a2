"""What an operator that sums says of it: over which axes, and what becomes of the sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Sum:
    """A sum over `axes` of input 0, of its elements, their magnitudes or their squares, to a power.

    `averages`: divided by how many they are. `times`: multiplied with what all elements of that input are, if they are
    alike. `divides`: input 0 is what is put out, times that.
    """

    axes: Sequence[int]
    of: Literal["elements", "magnitudes", "squares"] = "elements"
    power: float = 1.0
    averages: bool = False
    times: int | None = None
    divides: bool = False
