"""Layers in rows, and what couples them in lanes beside them, as lines of a map: what folds, and who gets a lane."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LONGEST, LEAST = 16, 3  # layers of a block that repeats, and how often it must


@dataclass(frozen=True)
class Row:
    """A layer by its number; or a fold, which stands for `count` repetitions from layer `first` to `last`."""

    first: int
    last: int
    count: int = 0

    @property
    def folded(self) -> bool:
        return self.count > 0


def folded(count: int, alike: Callable[[int, int], bool]) -> list[Row]:
    """Rows of so many layers, in order; `alike(a, b)`: may layer b repeat layer a? Of what repeats the first stays."""
    rows, at = list[Row](), 0
    while at < count:
        period, times = _repeated(count, alike, at)
        if times < LEAST:
            rows.append(Row(at, at))
            at += 1
            continue
        rows += [Row(at + step, at + step) for step in range(period)]
        end = at + period * times
        rows.append(Row(at + period, end - 1, times - 1))
        at = end
    return rows


def _repeated(count: int, alike: Callable[[int, int], bool], at: int) -> tuple[int, int]:
    """The block from here that covers most: its layers and how often it comes; of equal ones the shortest."""
    best = (1, 1)
    for period in range(1, min(LONGEST, count - at) + 1):
        end = at + period
        while end < count and alike(end - period, end):
            end += 1
        times = (end - at) // period
        if times >= LEAST and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def lanes_of(spans: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    """A lane for each span of rows, such that no two in a lane share a row; long ones go to the outside."""
    lanes: dict[int, int] = {}
    ends: list[list[tuple[int, int]]] = []
    for key, span in sorted(spans.items(), key=lambda item: (item[1][0] - item[1][1], item[1])):
        place = next((i for i, held in enumerate(ends) if _is_free(held, span)), len(ends))
        if place == len(ends):
            ends.append([])
        ends[place].append(span)
        lanes[key] = place
    return lanes


def _is_free(held: Sequence[tuple[int, int]], span: tuple[int, int]) -> bool:
    return all(span[1] < first or last < span[0] for first, last in held)
