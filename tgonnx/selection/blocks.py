"""Choosing where channels are paid for in whole blocks: which blocks go, by what they are worth against what they cost.

A unit is worth what it would cost if each channel counted (FLOPs), times how highly it is ranked: where time is what
FLOPs say, groups are cut as their scores say, alike for most criteria. Where it is not, those groups lose more that
give more time back. Groups keep multiples of a block, below one block and in small groups multiples of what fast
kernels want: nothing is cut that saves no time, and what is paid for stays.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling, Group
from tgonnx.analysis.kinds import Axes, Counts, Measure
from tgonnx.selection.mask_file import Open

AHEAD = 3  # stops that are looked ahead: the next one alone may save nothing
STEEP = 2.0  # how much more the last units of a group are worth than the first to go
FEWEST_STOPS = 4  # of a group that is worth choosing in
_SMALLEST = 1e-9

Scores = npt.NDArray[np.float64]


def stops(group: Group, fewest: int, block: int, aligned: int, round_to: int | None = None) -> list[int]:
    """Counts of units that a group may keep, falling from all of them to `fewest`; multiples of `round_to` if given."""
    size, width = group.size, group.width
    if round_to is not None:
        least = max(fewest, min(round_to, size))
        return [size, *(count for count in range(size - 1, least - 1, -1) if count % round_to == 0)]

    def allowed(count: int, step: int) -> bool:
        channels = count * width
        return channels % block == 0 or (
            channels % step == 0 and (channels < block or size * width < 2 * block)
        )

    for step in dict.fromkeys((aligned, max(aligned // 2, 1), 1)):
        found = [count for count in range(size - 1, fewest - 1, -1) if count > 0 and allowed(count, step)]
        if len(found) + 1 >= min(FEWEST_STOPS, size):
            break
    return [size, *found]


class Shop:
    """What is open, what it costs, and what each group could close next.

    What is sold, and in which order, does not depend on how much is wanted: a shop goes back and forth on one way.
    """

    def __init__(
        self,
        coupling: Coupling,
        measure: Measure,
        scores: Scores,
        fewest: npt.NDArray[np.int64],
        round_to: int | None = None,
    ) -> None:
        self.coupling, self.measure = coupling, measure
        costs = coupling.cost_model
        self.kind_of, self.counts = coupling.kind_of, costs.sizes.copy()
        self.full, self.work = measure.count(costs.sizes), costs.measure("flops")
        self.full_work = max(costs.total("flops"), _SMALLEST)
        self.now = self._bill(self.counts)
        worth = _worth(scores)
        aligned = getattr(measure, "aligned", 1)
        self.orders = [g.units[np.argsort(scores[g.units], kind="stable")] for g in coupling.groups]
        self.worth = [worth[order] for order in self.orders]
        self.stops = [
            stops(g, int(least), max(measure.block, 1), aligned, round_to)
            for g, least in zip(coupling.groups, fewest.tolist(), strict=True)
        ]
        self.place = [0] * len(self.stops)
        self.beside = _beside(coupling)
        self.offers: dict[int, tuple[float, int]] = {}
        self.sold: list[tuple[int, int, float]] = []  # a group, where it was, and the share before
        for group in range(len(self.stops)):
            self._ask(group)

    @property
    def share(self) -> float:
        """What is left of the cost."""
        return self.now[0]

    def mask(self, until: float) -> tuple[Open, float]:
        """What stays where so much may be left, and what is: more if nothing more can go."""
        while self.sold and self.sold[-1][2] <= until:
            group, place, _ = self.sold.pop()
            self._move(group, place)
            self._ask_beside(group)
        while self.share > until and self.offers:
            group = min(self.offers, key=lambda number: (self.offers[number][0], number))
            self.sold.append((group, self.place[group], self.share))
            self._move(group, self.offers[group][1])
            self._ask_beside(group)
        places = [*self.place]
        self._refill(until)
        found = self._open(), self.share
        for group, place in enumerate(places):
            if self.place[group] != place:
                self._move(group, place)
        return found

    def _refill(self, until: float) -> None:
        """Open again what still fits, the last that went first."""
        for group, start, _ in reversed(self.sold):
            here = self.place[group]
            for place in range(start, here):
                self._move(group, place)
                if self.share <= until:
                    break
                self._move(group, here)

    def _open(self) -> Open:
        mask = np.ones(self.coupling.units, bool)
        for order, counts, place in zip(self.orders, self.stops, self.place, strict=True):
            mask[order[: len(order) - counts[place]]] = False
        return mask

    def _closing(self, group: int, place: int) -> npt.NDArray[np.int64]:
        """The units that lie between where a group is and a later stop."""
        counts = self.stops[group]
        return self.orders[group][counts[0] - counts[self.place[group]] : counts[0] - counts[place]]

    def _move(self, group: int, place: int) -> None:
        here, counts = self.place[group], self.stops[group]
        low, high = sorted((counts[0] - counts[here], counts[0] - counts[place]))
        moved = np.bincount(self.kind_of[self.orders[group][low:high]], minlength=len(self.counts))
        self.counts = self.counts - moved if place > here else self.counts + moved
        self.place[group] = place
        self.now = self._bill(self.counts)

    def _bill(self, counts: Counts) -> tuple[float, float]:
        """Shares of the cost, and of what it would be if each channel counted."""
        return self.measure.count(counts) / self.full, self.work.count(counts) / self.full_work

    def _ask_beside(self, group: int) -> None:
        for number in self.beside[group]:
            self._ask(number)

    def _ask(self, group: int) -> None:
        """What the group offers: the least worth for what is saved, and the stop."""
        self.offers.pop(group, None)
        here, best = self.place[group], (np.inf, 0)
        for place in range(here + 1, min(here + 1 + AHEAD, len(self.stops[group]))):
            units = self._closing(group, place)
            counts = self.counts - np.bincount(self.kind_of[units], minlength=len(self.counts))
            if any(not counts[list(kinds)].any() for kinds in self.coupling.guards):
                break
            after = self._bill(counts)
            saved = self.now[0] - after[0]
            if saved <= _SMALLEST:
                continue
            start = self.stops[group][0] - self.stops[group][here]
            ranked = float(self.worth[group][start : start + len(units)].mean())
            best = min(best, (ranked * max(self.now[1] - after[1], _SMALLEST) / saved, place))
        if best[1]:
            self.offers[group] = best


def _worth(scores: Scores) -> Scores:
    """A weight for each unit that rises with its place among all: of equal scores the same."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    behind = (np.cumsum(counts) - counts / 2) / max(len(scores), 1)
    left = 1 - behind[place.reshape(-1)]
    return np.asarray(1 / np.maximum(left, 1e-3) ** STEEP, np.float64)


def _beside(coupling: Coupling) -> list[set[int]]:
    """For each group those that share a term of the cost with it, itself among them."""
    axes = Axes(coupling)
    for labels in (part for parts in coupling.labelling.axes.values() for part in parts):
        axes.number(labels)
    group_of_kind = {int(coupling.kind_of[g.units[0]]): n for n, g in enumerate(coupling.groups)}
    for number, group in enumerate(coupling.groups):
        group_of_kind |= dict.fromkeys(np.unique(coupling.kind_of[group.units]).tolist(), number)
    beside: dict[int, set[int]] = defaultdict(set)
    for node in coupling.model.nodes:
        near = set[int]()
        for name in (*node.inputs, *node.outputs):
            for labels in coupling.labelling.axes.get(name, ()):
                kinds = np.flatnonzero(axes.per_unit[axes.number(labels)])
                near |= {group_of_kind[kind] for kind in kinds.tolist()}
        for number in near:
            beside[number] |= near
    return [beside[number] | {number} for number in range(len(coupling.groups))]
