"""Residual branches: what an addition adds to a shortcut, and nothing else reads.

A branch is what its operand of the Add post-dominates in the graph of nodes: every way from it to an output leads
through that operand. It is one if

* the shortcut has the type and, at all sizes, the shape of the sum, as has the branch: leaving the shortcut alone
  changes no shape;
* both start from the same value: the shortcut is what the branch reads, or made of what the branch reads, as a
  projection is;
* it reads weights.

Where both operands would do (a projection beside the convolutions, attention beside a feed-forward part), the one that
reads the other is the branch, else the one of more parameters, else of more nodes. So each Add has one branch at most.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tgonnx.ops.aspects.traits import picked, traits_of

if TYPE_CHECKING:
    import networkx as nx

    from tgonnx.analysis.model import Model, Node

SINK = "outputs"  # the vertex behind all outputs
FLOATS = (1, 10, 11, 16)  # float, half, double, bfloat16: what a gate can multiply


@dataclass(frozen=True)
class Branch:
    """A residual branch; nodes are given by their places in the model's normal form.

    `name` is the value that the Add puts out. The Add adds `value`, which stands at `operand`, to `shortcut`. `nodes`
    are those that flow only into it, `weights` the initializers that nothing else reads, and `within` the names of the
    branches that it is nested in.
    """

    name: str
    add: int
    label: str
    operand: int
    value: str
    shortcut: str
    nodes: frozenset[int]
    weights: frozenset[str]
    within: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoBranch:
    """A sum of two values of data that has no branch, and why: `name` is what the node of that label puts out."""

    name: str
    label: str
    reason: str


@dataclass(frozen=True)
class Gone:
    """What a model loses with some branches: places of nodes, and names of initializers."""

    nodes: frozenset[int] = frozenset()
    initializers: frozenset[str] = frozenset()


def find_branches(model: Model) -> tuple[tuple[Branch, ...], tuple[NoBranch, ...]]:
    """The residual branches of a model, in the order of its nodes, and the sums that have none."""
    found = _Finder(model).run()
    branches = [one for one in found if isinstance(one, Branch)]
    for i, branch in enumerate(branches):
        within = tuple(other.name for other in branches if branch.add in other.nodes)
        branches[i] = replace(branch, within=within)
    return tuple(branches), tuple(one for one in found if isinstance(one, NoBranch))


class _Finder:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.makers = {name: node.index for node in model.nodes for name in node.outputs if name}
        self.readers: dict[str, set[int]] = defaultdict(set)
        for node in model.nodes:
            for name in _read_by(node):
                self.readers[name].add(node.index)

    def run(self) -> list[Branch | NoBranch]:
        below = _below(_post_dominators(self.model, self.makers))
        sums = (n for n in self.model.nodes if _adds(n) and not self.model.static & {*n.inputs})
        return [self._of(node, below) for node in sums]

    def _of(self, node: Node, below: Mapping[Any, list[Any]]) -> Branch | NoBranch:
        """The branch of an Add, or why it has none."""
        if not self._alike((*node.inputs, node.outputs[0])):
            return _none(node, "operands and sum have not one shape at all sizes, and one type of floats")
        regions = [frozenset(_nodes_under(below, (node.index, i))) for i in (0, 1)]
        starts = [self._starts(region) for region in regions]
        candidates, reasons = [], []
        for i in (0, 1):
            shortcut = node.inputs[1 - i]
            reads_it = shortcut in starts[i]
            if not regions[i]:
                reasons.append("what is added is an input, or is read elsewhere, too")
                continue
            if not reads_it and not starts[i] & starts[1 - i]:
                reasons.append("nothing that is added starts from what the other operand is or starts from")
                continue
            if not self._learns(regions[i]):
                reasons.append("what flows only into it reads no weights")
                continue
            weights = self._alone(regions[i])
            rank = (reads_it, self._elements(weights), len(regions[i]), -i)
            candidates.append((rank, i, weights))
        if not candidates:
            return _none(node, "; ".join(dict.fromkeys(reasons)))
        _, i, weights = max(candidates)
        return Branch(
            node.outputs[0], node.index, node.label, i, node.inputs[i], node.inputs[1 - i], regions[i], weights
        )  # fmt: skip

    def _alike(self, names: tuple[str, ...]) -> bool:
        """Are these floats of one type and of one shape, whatever the sizes of the inputs, made of the inputs?"""
        model, first = self.model, self.model.first
        if any(name not in model.symbols.dims or name in model.static for name in names):
            return False
        types = {first.types.get(name) for name in names}
        if len(types) > 1 or not types & set(FLOATS):
            return False
        shapes = [model.symbols.dims[name] for name in names]
        return all(list(shape) == list(shapes[0]) for shape in shapes[1:])

    def _starts(self, region: Collection[int]) -> set[str]:
        """The values of data that a region reads and does not make; sizes, constants and weights are none."""
        model, found = self.model, set()
        for index in region:
            node = model.nodes[index]
            if not traits_of(node).reads_sizes:
                found |= {name for name in _read_by(node) if self.makers.get(name) not in region}
        return {name for name in found if name not in model.static and name not in model.first.known}

    def _learns(self, region: Iterable[int]) -> bool:
        """Does it hold what was learned: floats where an operator keeps its weights?"""
        model = self.model
        return any(
            name in model.static
            and model.first.types.get(name) in FLOATS
            and math.prod(model.shapes.get(name, ())) > 1
            for index in region
            for name in picked(model.nodes[index].inputs, traits_of(model.nodes[index]).weights)
        )

    def _alone(self, region: frozenset[int]) -> frozenset[str]:
        """The initializers that only a region reads."""
        model = self.model
        held = {name for index in region for name in _read_by(model.nodes[index])}
        outputs = set(model.outputs)
        return frozenset(
            n for n in held if n in model.initializers and n not in outputs and self.readers[n] <= region
        )

    def _elements(self, names: Iterable[str]) -> int:
        return sum(math.prod(self.model.initializers[name].dims) for name in names)


def _none(node: Node, reason: str) -> NoBranch:
    return NoBranch(node.outputs[0], node.label, reason)


def _adds(node: Node) -> bool:
    return traits_of(node).plus > 0 and len(node.inputs) == 2 and node.inputs[0] != node.inputs[1]


def _read_by(node: Node) -> set[str]:
    return {name for name in (*node.inputs, *node.captures) if name}


def _post_dominators(model: Model, makers: Mapping[str, int]) -> dict[Any, Any]:
    """What stands next on every way from a vertex to the outputs.

    Vertices are places of nodes, and (place, i) for each operand of an Add, which stands between its maker and the
    Add: what flows into the Add by one operand alone is behind that.
    """
    import networkx as nx

    graph: nx.DiGraph = nx.DiGraph()  # from readers to makers
    graph.add_node(SINK)
    for name in model.outputs:
        if name in makers:
            graph.add_edge(SINK, makers[name])
    for node in model.nodes:
        ends: list[tuple[Any, str]] = [(node.index, name) for name in _read_by(node)]
        if _adds(node):
            ends = [((node.index, i), name) for i, name in enumerate(node.inputs)]
            graph.add_edges_from((node.index, vertex) for vertex, _ in ends)
        graph.add_edges_from((vertex, makers[name]) for vertex, name in ends if name in makers)
    live = nx.descendants(graph, SINK) | {SINK}
    found: dict[Any, Any] = nx.immediate_dominators(graph.subgraph(live), SINK)
    return found


def _below(dominators: Mapping[Any, Any]) -> dict[Any, list[Any]]:
    """The tree of dominators, downwards."""
    below = defaultdict(list)
    for vertex, above in dominators.items():
        if vertex != above:
            below[above].append(vertex)
    return below


def _nodes_under(below: Mapping[Any, list[Any]], vertex: Any) -> Iterator[int]:
    """The places of all nodes that a vertex dominates."""
    waiting = list(below.get(vertex, ()))
    while waiting:
        one = waiting.pop()
        if isinstance(one, int):
            yield one
        waiting += below.get(one, ())


def gone_with(model: Model, branches: Iterable[Branch]) -> Gone:
    """What no output depends on any more when these branches are cut, and initializers that nothing else reads."""
    closed = {branch.add: branch.shortcut for branch in branches}
    if not closed:
        return Gone()
    before, after = _needed(model, {}), _needed(model, closed)
    nodes = frozenset(node.index for node in model.nodes if before[node.index] and not after[node.index])
    read = {name for node in model.nodes if node.index not in nodes for name in _read_by(node)}
    read |= set(model.outputs)
    held = {name for index in nodes for name in _read_by(model.nodes[index])}
    return Gone(nodes, frozenset(name for name in held - read if name in model.initializers))


def _needed(model: Model, closed: Mapping[int, str]) -> list[bool]:
    """Whether an output depends on each node; a closed Add reads its shortcut alone, and is none of its own."""
    wanted, needed = set(model.outputs), [False] * len(model.nodes)
    for node in reversed(model.nodes):
        if wanted.isdisjoint(node.outputs):
            continue
        if node.index in closed:
            wanted.add(closed[node.index])
            continue
        needed[node.index] = True
        wanted |= _read_by(node)
    return needed
