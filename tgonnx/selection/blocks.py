"""Choosing where channels are paid for in whole blocks.

Units go in the order of their scores, as they do where each channel counts, but a block at a time: a group keeps
multiples of a block, below one block and in small groups multiples of what fast kernels want. What would save nothing
is not cut, and what is paid for stays. Of equal ranks those go that lose the fewest parameters for the time they save.

To sell by price instead (first what is worth least for the time that it gives back, worth being rank times FLOPs, or
the logarithm of what is left of a group) was tried: as good at three quarters of the time, and the worse the less time
is left (docs/latency.md).
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling, Group
from tgonnx.analysis.kinds import Counts, Measure
from tgonnx.ops.aspects.relations import distinct
from tgonnx.selection.mask_file import Open

AHEAD = 3  # stops that are looked ahead: the next one alone may save nothing
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
        self.kind_of, self.counts = coupling.kind_of, coupling.cost_model.sizes.copy()
        self.full, self.params = measure.count(self.counts), coupling.cost_model.measure("params")
        self.share = 1.0  # of the cost that is left
        aligned = getattr(measure, "aligned", 1)
        self.orders = [g.units[np.argsort(scores[g.units], kind="stable")] for g in coupling.groups]
        self.ranks = [scores[order] for order in self.orders]
        self.stops = [
            stops(g, int(least), max(measure.block, 1), aligned, round_to)
            for g, least in zip(coupling.groups, fewest.tolist(), strict=True)
        ]
        self.place = [0] * len(self.stops)
        self.beside = _beside(coupling)
        # by group: the rank of the last unit that would go; parameters for the time that is saved; the stop
        self.offers: dict[int, tuple[float, float, int]] = {}
        self.sold: list[tuple[int, int, float]] = []  # a group, where it was, and the share before
        for group in range(len(self.stops)):
            self._ask(group)

    def mask(self, until: float) -> tuple[Open, float]:
        """What stays where so much may be left, and what is: more if nothing more can go."""
        while self.sold and self.sold[-1][2] <= until:
            group, place, _ = self.sold.pop()
            self._move(group, place)
            self._ask_beside(group)
        while self.share > until and self.offers:
            group = min(self.offers, key=lambda number: (self.offers[number], number))
            self.sold.append((group, self.place[group], self.share))
            self._move(group, self.offers[group][2])
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
        self.share = self._left(self.counts)

    def _left(self, counts: Counts) -> float:
        return self.measure.count(counts) / self.full

    def _ask_beside(self, group: int) -> None:
        for number in self.beside[group]:
            self._ask(number)

    def _ask(self, group: int) -> None:
        """What the group offers: the next stop that saves something."""
        self.offers.pop(group, None)
        here, params = self.place[group], self.params.count(self.counts)
        for place in range(here + 1, min(here + 1 + AHEAD, len(self.stops[group]))):
            units = self._closing(group, place)
            counts = self.counts - np.bincount(self.kind_of[units], minlength=len(self.counts))
            if any(not counts[list(kinds)].any() for kinds in self.coupling.guards):
                return
            saved = self.share - self._left(counts)
            if saved > _SMALLEST:
                last = float(self.ranks[group][self.stops[group][0] - self.stops[group][place] - 1])
                self.offers[group] = (last, (params - self.params.count(counts)) / saved, place)
                return


def _beside(coupling: Coupling) -> list[set[int]]:
    """For each group those that share a term of the cost with it, itself among them."""
    beside: dict[int, set[int]] = defaultdict(set)
    for node in coupling.model.nodes:
        near = set[int]()
        for name in (*node.inputs, *node.outputs):
            for labels in coupling.labelling.axes.get(name, ()):
                units = coupling.unit_of[distinct(labels)]
                near.update(np.unique(coupling.group_of[units[units >= 0]]).tolist())
        for number in near:
            beside[number] |= near
    return [beside[number] | {number} for number in range(len(coupling.groups))]
