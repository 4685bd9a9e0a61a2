"""Which channels live or die together: units, groups, sites and the reasons why the rest is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.alternatives import Meeting, chosen_meetings
from tgonnx.analysis.axis_graph import Axis, axis_graph, shortest_path
from tgonnx.analysis.branches import Gone, Part, gone_with
from tgonnx.analysis.cost import CostModel
from tgonnx.analysis.labelling import Labelling
from tgonnx.analysis.lengths import Length, find_lengths
from tgonnx.analysis.model import Model
from tgonnx.io.summary import ROWS, Shown, Summary, amount, left_out
from tgonnx.ops.aspects.relations import (
    Labels,
    Tie,
    distinct,
    lookup,
)
from tgonnx.ops.aspects.view import View
from tgonnx.options import Attention as Attention

if TYPE_CHECKING:  # heavy, and needed to explain only
    import networkx as nx


@dataclass(frozen=True)
class PlacedSite:
    """A site of one node, with the unit of each label (-1: pinned)."""

    kind: Literal["contract", "normalize"]
    node: int
    input: int
    axis: int
    units: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pinned:
    """An axis of a weight that is not cut, or only in part, and why."""

    value: str
    axis: int
    kept: int
    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Group:
    """Units with the same shape of coupling: each removes up to `width` channels from its member axes together.

    `kinds[k]` numbers the kind of unit k within the group: units of one kind are in exactly the same axes.
    """

    name: str
    units: npt.NDArray[np.int64]
    members: tuple[Axis, ...]
    width: int
    kinds: npt.NDArray[np.int64]

    @property
    def size(self) -> int:
        return len(self.units)


@dataclass(frozen=True, repr=False)
class Coupling(Shown):
    """The result of `analyze`.

    `unit_of[label]` is the unit of each label, -1 where it is pinned; `class_of[label]` names its class. `ties` are
    what made the classes, each with the number of its node. `of_attention` numbers the groups of heads (or of what
    all heads lose alike), all others being of channels. `meetings` are where alternatives are to be chosen.
    `closed` names the branches and alternatives that are not counted, `thinned` how many elements are not zero of
    weights of which some are, and `whole` is the coupling that counts all.
    """

    model: Model
    labelling: Labelling
    views: tuple[View, ...]
    unit_of: npt.NDArray[np.int64]
    class_of: npt.NDArray[np.int64]
    ties: tuple[tuple[int, Tie], ...]
    groups: tuple[Group, ...]
    sites: tuple[PlacedSite, ...]
    pinned: tuple[Pinned, ...]
    attention: Attention = "heads"
    of_attention: frozenset[int] = frozenset()
    meetings: tuple[Meeting, ...] = ()
    closed: tuple[str, ...] = ()
    thinned: Mapping[str, int] = field(default_factory=dict)
    whole: Coupling | None = None

    @property
    def branches(self) -> tuple[Part, ...]:
        """What can go whole: the residual branches of the model, or the alternatives that are to be chosen from."""
        if not self.meetings:
            return self.model.branches
        return tuple(alternative for meeting in self.meetings for alternative in meeting.alternatives)

    def parts(self, names: Iterable[str]) -> list[Part]:
        """The residual branches and alternatives of these names, in the order of the nodes that read them.

        Raises KeyError for a name that is none of either.
        """
        wanted, known = {*names}, dict[str, Part]()
        if not wanted:  # and nobody has to look for branches
            return []
        known |= {branch.name: branch for branch in self.model.branches}
        if wanted - {*known}:
            known |= {a.name: a for meeting in self.offered for a in meeting.alternatives}
        if unknown := wanted - {*known}:
            raise KeyError(min(unknown))
        return sorted((known[name] for name in wanted), key=lambda part: (part.add, part.operand))

    def choosing(self, words: Mapping[str, float]) -> Coupling:
        """The same where alternatives are to be chosen: what globs of nodes name, and how many of each stay.

        Raises OptionError.
        """
        words = {**dict.fromkeys(self.model.added, 1.0), **words}
        if not words:
            return self
        return replace(self, meetings=chosen_meetings(self.offered, words, self.model.source))

    @property
    def offered(self) -> tuple[Meeting, ...]:
        """Where alternatives meet: in sums, and in Concats whose operands can go without emptying anything else."""
        return (self.whole or self)._offered

    @cached_property
    def _offered(self) -> tuple[Meeting, ...]:
        return tuple(meeting for meeting in self.model.meetings if self._separable(meeting))

    def _separable(self, meeting: Meeting) -> bool:
        """Are the units of what is joined nobody else's whole axis, and each one's own?"""
        parts = [alternative for alternative in meeting.alternatives if alternative.axis is not None]
        units = [self.units_along(part) for part in parts]
        together = np.concatenate(units) if units else np.zeros(0, np.int64)
        if len(together) and (together.min() < 0 or len(np.unique(together)) < len(together)):
            return False
        for part, own in zip(parts, units, strict=True):
            inside = {name for index in part.nodes for name in self.model.nodes[index].outputs} | part.weights
            for value, axes in self.labelling.axes.items():
                if value not in inside and any(np.isin(self.units_of(a), own).all() for a in axes if len(a)):
                    return False
        return True

    def units_along(self, part: Part) -> npt.NDArray[np.int64]:
        """The units of what a Concat joins to others; none of a part of a sum."""
        axis = getattr(part, "axis", None)
        if axis is None:
            return np.zeros(0, np.int64)
        return self.units_of(self.labelling.axes[part.value][axis])

    @cached_property
    def left_open(self) -> npt.NDArray[np.bool_]:
        """The units that stay where parts are closed: all but those of what Concats joined, [units]."""
        opened = np.ones(self.units, bool)
        for part in self.parts(self.closed):
            opened[self.units_along(part)] = False
        return opened

    @cached_property
    def gate_of_unit(self) -> npt.NDArray[np.int64]:
        """The place among `branches` of the one that each unit goes with, or their number, [units]."""
        found = np.full(self.units, len(self.branches), np.int64)
        for place, part in enumerate(self.branches):
            found[self.units_along(part)] = place
        return found

    @cached_property
    def foreign(self) -> tuple[str, ...]:
        """The parts that the original does not have: alternatives that were added to it."""
        added = (meeting for meeting in self.meetings if meeting.name in self.model.added)
        return tuple(other.name for meeting in added for other in meeting.alternatives[1:])

    @property
    def original(self) -> Coupling:
        """The coupling that counts what the original has."""
        return (self.whole or self)._without_foreign

    @cached_property
    def _without_foreign(self) -> Coupling:
        return self.closing(self.foreign)

    def closing(self, names: Iterable[str]) -> Coupling:
        """The same with these parts closed and no others: what is in them costs nothing.

        Raises KeyError for a name that is none of a part.
        """
        parts, whole = self.parts(names), self.whole or self
        if not parts:
            return whole
        return replace(whole, closed=tuple(part.name for part in parts), whole=whole)

    def thinning(self, counts: Mapping[str, int]) -> Coupling:
        """The same with so many elements of these weights that are not zero, and all of the others."""
        whole = self.whole or self
        return replace(whole, thinned=counts, whole=whole) if counts else whole

    @cached_property
    def gone(self) -> Gone:
        """What goes with the closed branches."""
        return gone_with(self.model, self.parts(self.closed))

    @cached_property
    def gone_groups(self) -> frozenset[int]:
        """Numbers of the groups all of whose weights go with closed branches."""
        gone, stored = self.gone.initializers, self.model.initializers
        return frozenset(
            number
            for number, group in enumerate(self.groups)
            if gone and {m.value for m in group.members if m.value in stored} <= gone
        )

    def family_of(self, group: int) -> str:
        """What the units of a group are: `channel`, `head` or `head-dim`."""
        if group not in self.of_attention:
            return "channel"
        return "head" if self.attention == "heads" else "head-dim"

    @cached_property
    def units(self) -> int:
        return sum(group.size for group in self.groups)

    @cached_property
    def group_of(self) -> npt.NDArray[np.int64]:
        """The group number of each unit."""
        owner = np.zeros(self.units, np.int64)
        for number, group in enumerate(self.groups):
            owner[group.units] = number
        return owner

    @cached_property
    def kind_of(self) -> npt.NDArray[np.int64]:
        """The number of each unit's kind: units of one kind are in exactly the same axes."""
        parts, start = [np.zeros(0, np.int64)], 0
        for group in self.groups:
            parts.append(group.kinds + start)
            start += int(group.kinds.max()) + 1
        return np.concatenate(parts)

    @cached_property
    def guards(self) -> tuple[tuple[int, ...], ...]:
        """Sets of kinds that may not all be closed, because an axis would be left empty.

        Only those that no group of a single kind ensures already.
        """
        whole = {int(self.kind_of[g.units[0]]) for g in self.groups if not g.kinds.any()}
        found = set()
        several = len(whole) < len(self.groups)  # groups of several kinds
        for axes in self.labelling.axes.values() if several else ():
            for labels in axes:
                units = self.unit_of[distinct(labels)]
                if len(units) and units.min() >= 0:
                    found.add(tuple(np.unique(self.kind_of[units]).tolist()))
        return tuple(sorted(kinds for kinds in found if not whole & set(kinds)))

    @cached_property
    def lengths(self) -> tuple[Length, ...]:
        """Stored numbers that stand for the length of an axis that is cut."""
        found = find_lengths(self.model, self.views)
        return tuple(n for n in found if any((self.units_of(labels) >= 0).any() for labels in n.axes))

    def axis_units(self, axis: Axis) -> npt.NDArray[np.int64]:
        return self.units_of(self.labelling.axes[axis.value][axis.axis])

    def units_of(self, labels: Labels) -> npt.NDArray[np.int64]:
        """The unit of each label, -1 where it is pinned."""
        return lookup(self.unit_of, labels)

    @cached_property
    def cut_axes(self) -> tuple[tuple[Axis, npt.NDArray[np.int64]], ...]:
        """Every axis of an initializer that can be cut, with the unit of each index (-1: pinned)."""
        axes = (
            (Axis(name, i), self.units_of(labels))
            for name in self.model.initializers
            for i, labels in enumerate(self.labelling.axes.get(name, ()))
        )
        return tuple((axis, units) for axis, units in axes if (units >= 0).any())

    @cached_property
    def cost_model(self) -> CostModel:
        """FLOPs, parameters and channels for any mask."""
        return CostModel(self)

    @cached_property
    def axis_graph(self) -> nx.Graph:
        """Axes, and the operators that tie them: the components that hold units are the coupled sets."""
        ties = ((self.model.nodes[node].label, tie) for node, tie in self.ties)
        return axis_graph(self.labelling.axes, self.labelling.owner(), ties)

    def why(self, pin: Pinned) -> list[Axis | str]:
        """How the reason reaches a pinned axis: axis, node, axis, ... to an axis of the node that pins it."""
        labels = self.labelling.axes[pin.value][pin.axis]
        pinned = self.class_of[labels[self.unit_of[labels] < 0][0]]
        alike = {
            Axis(value, i)
            for value, parts in self.labelling.axes.items()
            for i, part in enumerate(parts)
            if pinned in self.class_of[distinct(part)]
        }
        ends = {"input": self.model.inputs, "output": self.model.outputs}.get(pin.op_type, ())
        values = {name for n in self.model.nodes if n.label == pin.node for name in (*n.inputs, *n.outputs)}
        near = [axis for axis in alike if axis.value in (values if pin.node else ends)]
        return shortest_path(self.axis_graph.subgraph(alike), Axis(pin.value, pin.axis), near)

    def summary(self) -> Summary:
        """What can be cut, the largest groups first, and why the rest cannot."""
        cost, largest = self.cost_model.cost(), sorted(self.groups, key=lambda group: -group.size)
        reasons = Counter(pin.reason for pin in self.pinned).most_common(3)
        facts = [("cost", f"{amount(cost.flops)} FLOPs, {amount(cost.params)} parameters")]
        facts += [("pinned", f"{count} axes: {reason}") for reason, count in reasons]
        rows = [(g.name, f"{g.size:,}", str(g.width), str(len(g.members))) for g in largest[:ROWS]]
        size = f"{self.units:,} units in {len(self.groups):,} groups"
        return Summary(
            f"Coupling of {self.model.source}: {size}",
            facts,
            ("group", "units", "channels each", "axes"),
            rows,
            left_out(len(self.groups) - ROWS, "groups"),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "units": self.units,
            "groups": [
                {
                    "name": g.name,
                    "of": self.family_of(number),
                    "units": g.size,
                    "width": g.width,
                    "members": [str(m) for m in g.members],
                }
                for number, g in enumerate(self.groups)
            ],
            "pinned": [vars(p) for p in self.pinned],
        }
