"""The price of gates on branches and on single weights: what is in a branch costs as much as the branch is open.

Each term of a cost (`tgonnx.analysis.kinds`) is multiplied by the prices of the gates of all branches that it goes
with. At gates of zero and one that is what `Coupling.closing` counts, but for what only several closed branches
together take away (a weight that they share): while gates learn, that is charged for as if it stayed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import Counts, Kind, Measure, Products, Term
from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Emitter, Value


@dataclass(frozen=True)
class BranchCost:
    """Stands in for the cost model of a coupling where branches have gates, with or without those of units."""

    coupling: Coupling
    of_units: bool = True

    def measure(self, kind: Kind) -> BranchMeasure:
        """A kind of cost with the gates of branches. Raises UnsupportedError for one that is no sum of products."""
        found = self.coupling.cost_model.measure(kind)
        if not isinstance(found, Products):
            raise UnsupportedError(
                f"{self.coupling.model.source}: the {kind} of a branch cannot be learned from: choose blocks by a "
                "criterion (--criterion obs)"
            )
        return BranchMeasure(self.coupling, found, self.of_units, self.coupling.cost_model.total(kind))


class BranchMeasure:
    """One kind of cost whose gates are one vector: those of units, if they have any, then those of branches."""

    def __init__(self, coupling: Coupling, whole: Products, of_units: bool, total: float) -> None:
        self.coupling, self.whole, self.of_units = coupling, whole, of_units
        self.uncounted, self.block = whole.uncounted, whole.block
        self.total = total
        self._places = _places(coupling)

    def count(self, counts: Counts) -> float:
        """The cost with `counts` units kept of each kind of unit, and all branches."""
        return self.whole.count(counts)

    def by_owner(self, counts: Counts) -> dict[str, float]:
        """The same of each node or initializer."""
        return self.whole.by_owner(counts)

    def emit(self, emitter: Emitter, kept: Value) -> Value:
        """The share of the original's cost that is left, a scalar, from how far gates keep things, [gates, 1]."""
        e, axes = emitter, self.whole.axes
        units = self.coupling.units if self.of_units else 0
        of_units = e.constant(np.ones((self.coupling.units, 1), np.float32))
        with_parts = self.coupling.gate_of_unit
        if not units and (with_parts < len(self.coupling.branches)).any():  # channels that alternatives have
            with_one = e.op("Concat", kept, e.constant(np.ones((1, 1), np.float32)), axis=0)
            of_units = e.op("Gather", with_one, e.constant(with_parts), axis=0)
        if units:
            of_units = e.op("Gather", kept, e.constant(np.arange(units)), axis=0)
        parts: dict[frozenset[int], list[Term]] = defaultdict(list)
        values, lengths = self.whole.values(axes.sizes), axes.lengths(axes.sizes)
        for term, value in zip(self.whole.terms, values.tolist(), strict=True):
            if value:  # what it comes to, whatever a length costs: gates are priced along straight lines
                straight = replace(term, coefficient=value / float(np.prod(lengths[list(term.axes)])))
                parts[self._places.get(term.owner, frozenset())].append(straight)
        sum_ = e.scalar(0.0)
        for places, terms in sorted(parts.items(), key=lambda part: sorted(part[0])):
            part = Products(axes, terms)
            left = part.emit(e, of_units) * (part.count(axes.sizes) / self.total)
            for place in sorted(places):
                left = left * e.op("Gather", kept, e.constant(np.array([units + place])), axis=0).sum(
                    None, False
                )
            sum_ = sum_ + left
        return sum_


def _places(coupling: Coupling) -> dict[str, frozenset[int]]:
    """By the owner of a term (node, initializer or group), the places of the branches that it goes with.

    A name that stands for several things goes with what all of them go with.
    """
    model, found = coupling.model, dict[str, frozenset[int]]()

    def add(name: str, places: set[int]) -> None:
        found[name] = found.get(name, frozenset(places)) & frozenset(places)

    branches = [*enumerate(coupling.branches)]
    for node in model.nodes:
        inside = {place for place, branch in branches if node.index in branch.going}
        for name in (node.label, *filter(None, node.outputs)):  # times are owned by what was timed: an output
            add(name, inside)
    for name in model.initializers:
        add(name, {place for place, branch in branches if name in branch.weights})
    for group in coupling.groups:
        stored = {member.value for member in group.members if member.value in model.initializers}
        add(group.name, {place for place, branch in branches if stored and stored <= branch.weights})
    return found


@dataclass(frozen=True)
class WeightCost:
    """Stands in for the cost model of a coupling where single weights have gates, all of one price."""

    coupling: Coupling

    def measure(self, kind: Kind) -> WeightMeasure:
        """What is not zero. Raises UnsupportedError for another kind of cost, which zeros do not change."""
        if kind != "nonzeros":
            raise UnsupportedError(
                f"{self.coupling.model.source}: zeros leave the {kind} as they are: --target nonzeros=0.1"
            )
        return WeightMeasure(self.coupling.cost_model.measure(kind))


class WeightMeasure:
    """The share of elements that are kept, from their prices."""

    def __init__(self, whole: Measure) -> None:
        self.whole, self.uncounted, self.block = whole, whole.uncounted, whole.block

    def count(self, counts: Counts) -> float:
        """The number of all elements of what is kept of units."""
        return self.whole.count(counts)

    def by_owner(self, counts: Counts) -> dict[str, float]:
        """The same of each weight."""
        return self.whole.by_owner(counts)

    def emit(self, emitter: Emitter, kept: Value) -> Value:
        """The mean of how far elements are kept, [elements, 1]: a scalar."""
        return kept.mean(None, False)
