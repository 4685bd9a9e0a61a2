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
Of more operands that meet (Sum), all but one may be branches. What adds and does more, as SkipLayerNormalization does,
has them, too, if it can be written for one operand.

A layer of a plain chain that puts out the shape and type that it takes, and that nothing but itself reads, can be left
out, too: it is listed behind the branches, as one that has no sum.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from tgonnx import ops
from tgonnx.ops.aspects.traits import picked, traits_of

if TYPE_CHECKING:
    import networkx as nx

    from tgonnx.analysis.model import Model, Node

SINK = "outputs"  # the vertex behind all outputs
ALONE = 17  # the opset from which on a node that adds and does more can be written without one operand
FLOATS = (1, 10, 11, 16)  # float, half, double, bfloat16: what a gate can multiply


@dataclass(frozen=True)
class Branch:
    """A residual branch; nodes are given by their places in the model's normal form.

    The node at `add` puts out `sum`, for which `value`, at `operand`, is added to `shortcut`, and to others if it is
    not `alone`.
    `name` is `sum`, with `value` if several branches end there. `nodes` are those that flow only into it, `weights` the
    initializers that nothing else reads, and `within` the names of the branches that it is nested in. A `layer` of a
    plain chain adds nothing: it puts out `sum`, which is `value`, too, made of `shortcut`, and can be left out.
    """

    name: str
    add: int
    label: str
    sum: str
    operand: int
    value: str
    shortcut: str
    nodes: frozenset[int]
    weights: frozenset[str]
    within: tuple[str, ...] = ()
    alone: bool = True
    layer: bool = False

    @property
    def going(self) -> frozenset[int]:
        """The nodes that go with it."""
        return self.nodes | {self.add} if self.alone else self.nodes


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

    @property
    def layer(self) -> bool:
        """Whether it adds nothing, and is left out: what it takes, `shortcut`, is read in its place."""

    @property
    def shortcut(self) -> str:
        """What is left without it; empty if that is not one value."""


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
        within = tuple(other.name for other in branches if branch.add in other.nodes and other is not branch)
        branches[i] = replace(branch, within=within)
    return tuple(branches), tuple(one for one in found if isinstance(one, NoBranch))


class _Finder:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.makers = {name: node.index for node in model.nodes for name in node.outputs if name}
        self.readers: dict[str, set[int]] = defaultdict(set)
        for node in model.nodes:
            for name in read_by(node):
                self.readers[name].add(node.index)

    def run(self) -> list[Branch | NoBranch]:
        below = below_operands(self.model, {node.index for node in self.model.nodes if _addends(node)})
        sums = (n for n in self.model.nodes if _addends(n) and not self.model.static & {*_addends(n)})
        found = [one for node in sums for one in self._of(node, below)]
        inside = {index for one in found if isinstance(one, Branch) for index in (*one.nodes, one.add)}
        return [*found, *self._layers(inside)]

    def _of(self, node: Node, below: Mapping[Any, list[Any]]) -> list[Branch] | list[NoBranch]:
        """The branches of a node that adds, or why it has none."""
        operands = _addends(node)
        if not self._alike((*operands, node.outputs[0])):
            return _none(node, "operands and sum have not one shape at all sizes, and one type of floats")
        if not _is_pure(node) and not self._can_be_alone(node):
            return _none(
                node, f"what {node.op_type} does without one operand needs opset {ALONE} and no statistics"
            )
        regions = [frozenset(_nodes_under(below, (node.index, i))) for i in range(len(operands))]
        starts = [self._starts(region) for region in regions]
        reasons, ranks = [], {}
        for i in range(len(operands)):
            others = [j for j in range(len(operands)) if j != i]
            reads_it = any(self._stream(operands[j]) in starts[i] for j in others)
            if not regions[i]:
                reasons.append("what is added is an input, or is read elsewhere, too")
            elif not reads_it and not any(starts[i] & starts[j] for j in others):
                reasons.append("nothing that is added starts from what the other operand is or starts from")
            elif not self._learns(regions[i]):
                reasons.append("what flows only into it reads no weights")
            else:
                weights = self._alone(regions[i])
                ranks[i] = (reads_it, self._elements(weights), len(regions[i]), -i)
        if not ranks:
            return _none(node, "; ".join(dict.fromkeys(reasons)))
        stays = min(range(len(operands)), key=lambda i: (i in ranks, ranks.get(i, ())))
        shortcut, found = operands[stays], []
        for i in ranks:
            if i != stays and (self._stream(shortcut) in starts[i] or starts[i] & starts[stays]):
                found.append(self._branch(node, i, shortcut, regions[i]))
        if len(found) > 1:
            found = [replace(branch, name=f"{branch.sum} from {branch.value}") for branch in found]
        return found or _none(node, "nothing that is added starts from what would be left")

    def _branch(self, node: Node, operand: int, shortcut: str, region: frozenset[int]) -> Branch:
        weights, value = self._alone(region), node.inputs[operand]
        return Branch(
            node.outputs[0], node.index, node.label, node.outputs[0], operand, value, shortcut, region, weights,
            alone=_is_pure(node) and len(node.inputs) == 2,
        )  # fmt: skip

    def _can_be_alone(self, node: Node) -> bool:
        """Whether a node that does more than add can be written without one of its operands."""
        entry = ops.alone.get(node.op_type, node.domain)
        return entry is not None and self.model.opset >= ALONE and not any(node.outputs[1:3])

    def _layers(self, inside: Collection[int]) -> Iterator[Branch]:
        """Layers of a plain chain that put out what they take: the same shape and type, beside all branches."""
        model = self.model
        for node in model.nodes:
            region, value = [node.index], self._data_of(node)
            if node.index in inside or not self._multiplies(node) or value is None or value in model.outputs:
                continue
            if self.readers[value] != {node.index}:
                continue
            output: str | None = self._output_of(node)
            end: tuple[str, int] | None = None
            while output is not None:
                if self._alike((value, output)):
                    end = (output, len(region))
                readers = self.readers[output]
                if output in model.outputs or len(readers) != 1:
                    break
                following = model.nodes[next(iter(readers))]
                if (
                    following.index in inside
                    or self._multiplies(following)
                    or self._data_of(following) != output
                ):
                    break
                region.append(following.index)
                output = self._output_of(following)
            if end is not None:
                nodes = frozenset(region[: end[1]])
                maker = region[end[1] - 1]
                yield Branch(
                    end[0], maker, model.nodes[maker].label, end[0], -1, end[0], value, nodes, self._alone(nodes),
                    layer=True,
                )  # fmt: skip

    def _multiplies(self, node: Node) -> bool:
        """Whether it multiplies what it is given with what was learned."""
        known = ops.products.get(node.op_type, node.domain) is not None
        return known and self._learns([node.index])

    def _data_of(self, node: Node) -> str | None:
        """The one value of data that a node reads; None if there are others."""
        names = {name for name in read_by(node) if name not in self.model.static}
        return names.pop() if len(names) == 1 else None

    def _output_of(self, node: Node) -> str | None:
        """What a node puts out, if that is one value that somebody reads."""
        live = [name for name in node.outputs if name and (self.readers[name] or name in self.model.outputs)]
        return live[0] if len(live) == 1 and live[0] == node.outputs[0] else None

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
        return {
            self._stream(name) for name in found if name not in model.static and name not in model.first.known
        }

    def _stream(self, name: str) -> str:
        """The sum that a value is made of by the node that puts out both; else the value itself."""
        place = self.makers.get(name)
        node = None if place is None else self.model.nodes[place]
        at = 0 if node is None else traits_of(node).sum_at
        return node.outputs[at] or name if node is not None and 0 < at < len(node.outputs) else name

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


def _none(node: Node, reason: str) -> list[NoBranch]:
    return [NoBranch(node.outputs[0], node.label, reason)]


def _addends(node: Node) -> list[str]:
    """What meets in the sum that a node makes: two values or more, all different; else none."""
    names = picked(node.inputs, traits_of(node).addends)
    return names if len(names) > 1 and len({*names}) == len(names) else []


def _is_pure(node: Node) -> bool:
    """Whether a node that adds does nothing else: one operand alone is what it puts out."""
    return traits_of(node).elementwise


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
    held = {name for index in (*nodes, *left) for name in read_by(model.nodes[index])}
    return Gone(nodes, frozenset(name for name in held - wanted if name in model.initializers))


def still_read(model: Model, parts: Iterable[Part]) -> dict[int, tuple[str, ...]]:
    """What the nodes that lose operands read of them when parts are cut, by their places in the model.

    A node that loses all puts out nothing, and who reads that loses it, too. The last node of a layer of a plain chain
    reads what the layer takes.
    """
    closed: dict[int, set[int]] = defaultdict(set)
    layers: dict[int, str] = {}
    for part in parts:
        if part.layer:
            layers[part.add] = part.shortcut
        else:
            closed[part.add].add(part.operand)
    left: dict[int, tuple[str, ...]] = {}
    nothing: set[str] = set()
    for node in model.nodes if closed or layers else ():
        gone = closed.get(node.index, ())
        if node.index in layers:
            stay = [layers[node.index]]
        elif gone or not nothing.isdisjoint(node.inputs):
            stay = [name for i, name in enumerate(node.inputs) if i not in gone and name]
        else:
            continue
        left[node.index] = tuple(name for name in stay if name not in nothing)
        if not left[node.index]:
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
        names = left.get(node.index)
        if names is None:
            needed[node.index] = True
            wanted |= read_by(node)
        elif len(names) > 1 and (entry := ops.alone.get(node.op_type, node.domain)) is not None:
            needed[node.index] = True
            for made in reversed(entry(node.proto, names[0])):
                if not wanted.isdisjoint(made.output):
                    wanted |= {*filter(None, made.input)}
        else:
            needed[node.index] = len(names) > 1
            wanted |= {*names}
    return needed, wanted
