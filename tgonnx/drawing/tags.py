"""Letters and colours of the groups that several layers are in: colour alone is not for every eye."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tgonnx.drawing.style import COLOURS


@dataclass(frozen=True)
class Tag:
    """How a group is marked."""

    letter: str
    colour: int


def tags_of(layers: Sequence[Mapping[str, Any]]) -> dict[Any, Tag]:
    """A tag for each `group` of more than one layer, in the order in which they come."""
    counts = Counter(layer["group"] for layer in layers if layer["group"] is not None)
    shared = [group for group, count in counts.items() if count > 1]
    return {group: Tag(letters(number), number % COLOURS) for number, group in enumerate(shared)}


def letters(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    word = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        word = chr(ord("A") + rest) + word
    return word
