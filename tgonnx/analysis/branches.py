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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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

    The node at `add` puts out `sum`, for which `value` is added to `shortcut`, and to others if it is not `alone`.
    `name` is `sum`, with `value` if several branches end there. `nodes` are those that flow only into it, `weights` the
    initializers that nothing else reads, and `within` the names of the branches that it is nested in. A `layer` of a
    plain chain adds nothing: it puts out `sum`, which is `value`, too, made of `shortcut`, and can be left out.
    """

    name: str
    add: int
    label: str
    sum: str
    value: str
    shortcut: str
    nodes: frozenset[int]
    weights: frozenset[str]
    within: tuple[str, ...] = ()
    alone: bool = True
    layer: bool = False


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
            for name in _read_by(node):
                self.readers[name].add(node.index)

    def run(self) -> list[Branch | NoBranch]:
        below = _below(_post_dominators(self.model, self.makers))
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
                found.append(self._branch(node, operands[i], shortcut, regions[i]))
        if len(found) > 1:
            found = [replace(branch, name=f"{branch.sum} from {branch.value}") for branch in found]
        return found or _none(node, "nothing that is added starts from what would be left")

    def _branch(self, node: Node, value: str, shortcut: str, region: frozenset[int]) -> Branch:
        weights = self._alone(region)
        return Branch(
            node.outputs[0], node.index, node.label, node.outputs[0], value, shortcut, region, weights,
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
                    end[0], maker, model.nodes[maker].label, end[0], end[0], value, nodes, self._alone(nodes),
                    layer=True,
                )  # fmt: skip

    def _multiplies(self, node: Node) -> bool:
        """Whether it multiplies what it is given with what was learned."""
        known = ops.products.get(node.op_type, node.domain) is not None
        return known and self._learns([node.index])

    def _data_of(self, node: Node) -> str | None:
        """The one value of data that a node reads; None if there are others."""
        names = {name for name in _read_by(node) if name not in self.model.static}
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
                found |= {name for name in _read_by(node) if self.makers.get(name) not in region}
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
        held = {name for index in region for name in _read_by(model.nodes[index])}
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
        if addends := _addends(node):
            met = [((node.index, i), name) for i, name in enumerate(addends)]
            graph.add_edges_from((node.index, vertex) for vertex, _ in met)
            ends = [(vertex, name) for vertex, name in ends if name not in addends] + met
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
    closed: dict[int, list[Branch]] = defaultdict(list)
    for branch in branches:
        closed[branch.add].append(branch)
    if not closed:
        return Gone()
    before, after = _read_in(model, {}), _read_in(model, closed)
    passing = {place for place, cut in closed.items() if _passes(model.nodes[place], cut)}
    nodes = frozenset(place for place in before if place not in after or place in passing)
    read = set(model.outputs).union(*after.values())
    held = {name for index in nodes for name in _read_by(model.nodes[index])}
    held |= {name for place in closed for name in _read_by(model.nodes[place])}
    return Gone(nodes, frozenset(name for name in held - read if name in model.initializers))


def _passes(node: Node, cut: Sequence[Branch]) -> bool:
    """Whether nothing is left of the node in which these branches end, but what it reads besides."""
    return cut[0].layer or (_is_pure(node) and len(node.inputs) == len(cut) + 1)


def _parts(node: Node, cut: Sequence[Branch]) -> list[tuple[set[str], Sequence[str]]]:
    """What is read for which outputs of a node where these branches are cut."""
    if not cut:
        return [(_read_by(node), node.outputs)]
    if cut[0].layer:
        return [({cut[0].shortcut}, node.outputs)]
    values = {branch.value for branch in cut}
    entry = ops.alone.get(node.op_type, node.domain)
    if entry is None:
        return [(_read_by(node) - values, node.outputs)]
    (left,) = (name for name in _addends(node) if name not in values)
    return [({*filter(None, made.input)}, made.output) for made in entry(node.proto, left)]


def _read_in(model: Model, closed: Mapping[int, Sequence[Branch]]) -> dict[int, set[str]]:
    """What the nodes read that an output depends on where these branches are cut, by their places."""
    wanted, read = set(model.outputs), dict[int, set[str]]()
    for node in reversed(model.nodes):
        for inputs, outputs in reversed(_parts(node, closed.get(node.index, ()))):
            if not wanted.isdisjoint(outputs):
                wanted |= inputs
                read.setdefault(node.index, set()).update(inputs)
    return read
