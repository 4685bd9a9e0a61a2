"""Alternatives: what is added, averaged or joined where several values meet, and may be chosen from.

A meeting is a Sum, a Mean, or a tree of Adds whose inner sums nothing else reads, as exporters write the sum of
a list. Its alternatives are the operands that depend on the inputs and have, at all sizes, type and shape of what comes
out. What flows only into one of them goes with it, as in `tgonnx.analysis.branches`; an alternative of no nodes is
the value itself, as a skip is. A constant operand stays.

Closing alternatives leaves the sum of the others, or their mean. With one left there is nothing to add. At a Concat, an
operand that nothing else reads is an alternative: its channels go with it (`Coupling.offered` says where that can be).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgonnx.analysis.branches import FLOATS, _nodes_under, below_operands, read_by
from tgonnx.errors import OptionError
from tgonnx.ops.aspects.traits import traits_of
from tgonnx.options import means

if TYPE_CHECKING:
    from tgonnx.analysis.model import Model, Node


@dataclass(frozen=True)
class Alternative:
    """One of the operands of a meeting; nodes are given by their places in the model's normal form.

    `name` is the value that the meeting puts out with the alternative's number in brackets. `value` stands at `operand`
    of the node at `add`, called `label`, whose output is `sum`: in a tree of Adds not always what the meeting puts out.
    `nodes` are those that flow only into it, `weights` the initializers that nothing else reads, and `within` the names
    of the alternatives that it is nested in. `axis` is the one along which a Concat joins it to others, None in a sum.
    """

    name: str
    meeting: str
    add: int
    label: str
    sum: str
    operand: int
    value: str
    nodes: frozenset[int]
    weights: frozenset[str]
    within: tuple[str, ...] = ()
    axis: int | None = None
    layer: bool = False
    shortcut: str = ""

    @property
    def going(self) -> frozenset[int]:
        """The nodes that go with it."""
        return self.nodes


@dataclass(frozen=True)
class Meeting:
    """Where alternatives meet: `name` is the value that comes out of the node `label`; `labels` has all its nodes.

    `keep` is how many of its alternatives stay; 0 where nobody has said so.
    """

    name: str
    label: str
    labels: frozenset[str]
    alternatives: tuple[Alternative, ...]
    keep: int = 0


def find_meetings(model: Model) -> tuple[Meeting, ...]:
    """Where two or more alternatives meet in a model, in the order of its nodes."""
    return tuple(_Finder(model).run())


def chosen_meetings(known: Iterable[Meeting], words: Mapping[str, float], source: str) -> tuple[Meeting, ...]:
    """The meetings that globs name, each with the number of its alternatives that stay.

    Raises OptionError for a glob that matches none, and for a number that leaves nothing to choose.
    """
    keeps: dict[str, tuple[Meeting, int]] = {}
    meetings = [*known]
    for glob, number in words.items():
        hits = [meeting for meeting in meetings if means(glob, meeting.name, *meeting.labels)]
        if not hits:
            some = ", ".join(repr(meeting.label) for meeting in meetings[:3])
            cure = f"; alternatives meet in {some}{', ...' if len(meetings) > 3 else ''}" if some else ""
            raise OptionError("choose", f"{glob!r} names no node of {source} where alternatives meet{cure}")
        for meeting in hits:
            count = len(meeting.alternatives)
            if number != int(number) or not 1 <= number < count:
                can = f"node {meeting.label} has {count} alternatives, of which 1 to {count - 1} can stay"
                raise OptionError("choose", f"'{glob}={number:g}': {can}")
            keeps[meeting.name] = (meeting, int(number))
    return tuple(
        Meeting(m.name, m.label, m.labels, m.alternatives, keeps[m.name][1])
        for m in meetings
        if m.name in keeps
    )


class _Finder:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.makers = {name: node for node in model.nodes for name in node.outputs if name}
        self.readers: dict[str, set[int]] = defaultdict(set)
        reads: Counter[str] = Counter(model.outputs)
        for node in model.nodes:
            for name in read_by(node):
                self.readers[name].add(node.index)
            reads.update(name for name in node.inputs if name)
            reads.update(node.captures)
        self.once = {name for name, count in reads.items() if count == 1}

    def run(self) -> Iterator[Meeting]:
        nodes = [node for node in self.model.nodes if self._joins(node) or self._concatenates(node)]
        if not nodes:
            return
        below = below_operands(self.model, {node.index for node in nodes})
        found, inner = [], set[int]()
        for node in reversed(nodes):
            if node.index in inner:
                continue
            leaves = [*self._leaves(node)]
            inner |= {leaf.index for leaf, _ in leaves}
            parts = [(leaf, frozenset(_nodes_under(below, (leaf[0].index, leaf[1])))) for leaf in leaves]
            if self._concatenates(node):  # what is read elsewhere, too, stays
                parts = [part for part in parts if self._makes(part[1], node.inputs[part[0][1]])]
            if len(parts) > 1 and any(region for _, region in parts):
                found.append((node, parts))
        found.reverse()
        alternatives = [
            self._alternative(node.outputs[0], number, leaf, region)
            for node, parts in found
            for number, (leaf, region) in enumerate(parts)
        ]
        for node, parts in found:
            labels = {node.label, *(leaf[0].label for leaf, _ in parts)}
            mine = [a for a in alternatives if a.meeting == node.outputs[0]]
            nested = (_within(a, alternatives) for a in mine)
            yield Meeting(node.outputs[0], node.label, frozenset(labels), tuple(nested))

    def _joins(self, node: Node) -> bool:
        """Does it add or average values of one type and shape, which depend on the inputs?"""
        if not traits_of(node).joins:
            return False
        names = [name for name in node.inputs if self._flows(name)]
        if len(names) < 2 or len({*names}) < len(names):
            return False
        return self._alike((*names, node.outputs[0]))

    def _concatenates(self, node: Node) -> bool:
        """Does it join floats that depend on the inputs, along an axis?"""
        names = [name for name in node.inputs if self._flows(name)]
        if traits_of(node).joins or not traits_of(node).joins_along or len({*names}) < max(2, len(names)):
            return False
        return all(self.model.first.types.get(name) in FLOATS for name in names)

    def _makes(self, region: frozenset[int], name: str) -> bool:
        maker = self.makers.get(name)
        return maker is not None and maker.index in region

    def _flows(self, name: str) -> bool:
        return bool(name) and name not in self.model.static and name not in self.model.first.known

    def _alike(self, names: tuple[str, ...]) -> bool:
        """Are these floats of one type and of one shape, whatever the sizes of the inputs?"""
        model, first = self.model, self.model.first
        if any(name not in model.symbols.dims for name in names):
            return False
        types = {first.types.get(name) for name in names}
        if len(types) > 1 or not types & {*FLOATS}:
            return False
        shapes = [list(model.symbols.dims[name]) for name in names]
        return all(shape == shapes[0] for shape in shapes[1:])

    def _is_inner(self, name: str) -> bool:
        """Is it a sum that one other sum alone reads, be it after something constant was added to it?"""
        maker = self.makers.get(name)
        if maker is None or name not in self.once or not _adds(maker):
            return False
        return self._joins(maker) or self._shifts(maker)

    def _shifts(self, node: Node) -> bool:
        """Does it add something constant to such a sum?"""
        names = [name for name in node.inputs if self._flows(name)]
        return len(names) == 1 and self._alike((*names, *node.outputs)) and self._is_inner(names[0])

    def _leaves(self, node: Node) -> Iterator[tuple[Node, int]]:
        for place, name in enumerate(node.inputs):
            if _adds(node) and self._is_inner(name):
                yield from self._leaves(self.makers[name])
            elif self._flows(name):
                yield node, place

    def _alternative(
        self, meeting: str, number: int, leaf: tuple[Node, int], region: frozenset[int]
    ) -> Alternative:
        node, place = leaf
        held = {name for index in region for name in read_by(self.model.nodes[index])}
        stored, outputs = self.model.initializers, {*self.model.outputs}
        weights = {n for n in held if n in stored and n not in outputs and self.readers[n] <= region}
        return Alternative(
            name=f"{meeting}[{number}]",
            meeting=meeting,
            add=node.index,
            label=node.label,
            sum=node.outputs[0],
            operand=place,
            value=node.inputs[place],
            nodes=region,
            weights=frozenset(weights),
            axis=self._axis(node) if self._concatenates(node) else None,
        )

    def _axis(self, node: Node) -> int:
        axis, rank = int(node.attributes.get("axis", 0)), len(self.model.shapes.get(node.outputs[0], ()))
        return axis + rank if axis < 0 else axis


def _within(alternative: Alternative, others: Iterable[Alternative]) -> Alternative:
    within = tuple(other.name for other in others if alternative.add in other.nodes)
    return Alternative(**(vars(alternative) | {"within": within}))


def _adds(node: Node) -> bool:
    return traits_of(node).plus > 0
