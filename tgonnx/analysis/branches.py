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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

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

    @property
    def sum(self) -> str:
        """The value that the Add puts out."""
        return self.name

    @property
    def going(self) -> frozenset[int]:
        """The nodes that go with it."""
        return self.nodes | {self.add}


class Part(Protocol):
    """What can be taken out of a model whole: it stands at an operand of a node that does without."""

    @property
    def name(self) -> str:
        """What it is called in masks."""

    @property
    def add(self) -> int:
        """The place of the node that reads it."""

    @property
    def label(self) -> str:
        """That node for people."""

    @property
    def sum(self) -> str:
        """What that node puts out."""

    @property
    def operand(self) -> int:
        """Where it is read."""

    @property
    def value(self) -> str:
        """What is read there."""

    @property
    def nodes(self) -> frozenset[int]:
        """The places of the nodes that flow only into it."""

    @property
    def weights(self) -> frozenset[str]:
        """The initializers that nothing else reads."""

    @property
    def within(self) -> tuple[str, ...]:
        """The parts that it is nested in."""

    @property
    def going(self) -> frozenset[int]:
        """The places of the nodes that go with it."""


@dataclass(frozen=True)
class Gone:
    """What a model loses with some branches: places of nodes, and names of initializers."""

    nodes: frozenset[int] = frozenset()
    initializers: frozenset[str] = frozenset()


def find_branches(model: Model) -> tuple[Branch, ...]:
    """The residual branches of a model, in the order of its nodes."""
    return tuple(_Finder(model).run())


class _Finder:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.makers = {name: node.index for node in model.nodes for name in node.outputs if name}
        self.readers: dict[str, set[int]] = defaultdict(set)
        for node in model.nodes:
            for name in read_by(node):
                self.readers[name].add(node.index)

    def run(self) -> Iterator[Branch]:
        below = below_operands(self.model, {node.index for node in self.model.nodes if _adds(node)})
        found = []
        for node in self.model.nodes:
            if _adds(node) and (branch := self._of(node, below)) is not None:
                found.append(branch)
        for branch in found:
            within = tuple(other.name for other in found if branch.add in other.nodes)
            yield Branch(**(vars(branch) | {"within": within}))

    def _of(self, node: Node, below: Mapping[Any, list[Any]]) -> Branch | None:
        """The branch of an Add, if it has one."""
        if not self._alike((*node.inputs, node.outputs[0])):
            return None
        regions = [frozenset(_nodes_under(below, (node.index, i))) for i in (0, 1)]
        starts = [self._starts(region) for region in regions]
        candidates = []
        for i in (0, 1):
            shortcut = node.inputs[1 - i]
            reads_it = shortcut in starts[i]
            if not reads_it and not starts[i] & starts[1 - i]:
                continue
            if not regions[i] or not self._learns(regions[i]):
                continue
            weights = self._alone(regions[i])
            rank = (reads_it, self._elements(weights), len(regions[i]), -i)
            candidates.append((rank, i, weights))
        if not candidates:
            return None
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
                found |= {name for name in read_by(node) if self.makers.get(name) not in region}
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
        held = {name for index in region for name in read_by(model.nodes[index])}
        outputs = set(model.outputs)
        return frozenset(
            n for n in held if n in model.initializers and n not in outputs and self.readers[n] <= region
        )

    def _elements(self, names: Iterable[str]) -> int:
        return sum(math.prod(self.model.initializers[name].dims) for name in names)


def _adds(node: Node) -> bool:
    return traits_of(node).plus > 0 and len(node.inputs) == 2 and node.inputs[0] != node.inputs[1]


def read_by(node: Node) -> set[str]:
    """The values that a node and its subgraphs read."""
    return {name for name in (*node.inputs, *node.captures) if name}


def below_operands(model: Model, joints: Collection[int]) -> dict[Any, list[Any]]:
    """The tree of post-dominators, downwards: what is behind a vertex on every way to the outputs.

    Vertices are places of nodes, and (place, i) for each operand of a node of `joints`, which stands between its
    maker and the node: what flows into the node by one operand alone is behind that.
    """
    import networkx as nx

    makers = {name: node.index for node in model.nodes for name in node.outputs if name}
    graph: nx.DiGraph = nx.DiGraph()  # from readers to makers
    graph.add_node(SINK)
    for name in model.outputs:
        if name in makers:
            graph.add_edge(SINK, makers[name])
    for node in model.nodes:
        ends: list[tuple[Any, str]] = [(node.index, name) for name in read_by(node)]
        if node.index in joints:
            ends = [((node.index, i), name) for i, name in enumerate(node.inputs)]
            graph.add_edges_from((node.index, vertex) for vertex, _ in ends)
        graph.add_edges_from((vertex, makers[name]) for vertex, name in ends if name in makers)
    live = nx.descendants(graph, SINK) | {SINK}
    below: dict[Any, list[Any]] = defaultdict(list)
    for vertex, above in nx.immediate_dominators(graph.subgraph(live), SINK).items():
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


def gone_with(model: Model, parts: Iterable[Part]) -> Gone:
    """What no output depends on any more when these parts are cut, and initializers that nothing else reads."""
    left = still_read(model, parts)
    if not left:
        return Gone()
    (before, _), (after, wanted) = _needed(model, {}), _needed(model, left)
    nodes = frozenset(node.index for node in model.nodes if before[node.index] and not after[node.index])
    held = {name for index in nodes for name in read_by(model.nodes[index])}
    return Gone(nodes, frozenset(name for name in held - wanted if name in model.initializers))


def still_read(model: Model, parts: Iterable[Part]) -> dict[int, tuple[str, ...]]:
    """What the nodes that lose operands read of them when parts are cut, by their places in the model.

    A node that loses all puts out nothing, and who reads that loses it, too.
    """
    closed: dict[int, set[int]] = defaultdict(set)
    for part in parts:
        closed[part.add].add(part.operand)
    left: dict[int, tuple[str, ...]] = {}
    nothing: set[str] = set()
    for node in model.nodes if closed else ():
        if node.index in closed or not nothing.isdisjoint(node.inputs):
            gone = closed.get(node.index, ())
            stay = [name for i, name in enumerate(node.inputs) if i not in gone and name not in nothing]
            left[node.index] = tuple(stay)
            if not stay:
                nothing |= {*node.outputs}
    return left


def _needed(model: Model, left: Mapping[int, tuple[str, ...]]) -> tuple[list[bool], set[str]]:
    """Whether an output depends on each node, and the values that are read for the outputs.

    A node with a single operand left passes it on, and is none of its own.
    """
    wanted, needed = set(model.outputs), [False] * len(model.nodes)
    for node in reversed(model.nodes):
        if wanted.isdisjoint(node.outputs):
            continue
        if node.index in left:
            needed[node.index] = len(left[node.index]) > 1
            wanted |= {*left[node.index]}
            continue
        needed[node.index] = True
        wanted |= read_by(node)
    return needed, wanted
