"""The axis graph: axes of values as nodes, an edge where an operator ties labels of both.

Labels are solved as arrays (`labels`); which axes hang together, and through which operators, is read off here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tgonnx.analysis.model import Node
from tgonnx.ops.aspects.relations import Labels, Tie, pairs

if TYPE_CHECKING:  # heavy, and needed to explain only
    import networkx as nx


@dataclass(frozen=True)
class Axis:
    """An axis of a named value."""

    value: str
    axis: int

    def __str__(self) -> str:
        return f"{self.value}[{self.axis}]"


def axis_graph(
    axes: Mapping[str, Sequence[Labels]], owner: Labels, ties: Iterable[tuple[str, Tie]]
) -> nx.Graph:
    """Every axis that has labels, and an edge for each pair of tied axes, with the first `node` that ties them.

    `axes` are the labels of each axis of each value, `owner` the number of each label's axis, counted in this order;
    `ties` come with their node's name.
    """
    import networkx as nx

    names = [Axis(value, i) for value, parts in axes.items() for i in range(len(parts))]
    graph = nx.Graph()
    graph.add_nodes_from(names)
    for node, tie in ties:
        ends = np.stack(pairs(tie.a, tie.b))
        for a, b in sorted(set(zip(*owner[ends].tolist(), strict=True))):
            if not graph.has_edge(names[a], names[b]):
                graph.add_edge(names[a], names[b], node=node)
    return graph


def shortest_path(graph: nx.Graph, start: Axis, ends: Iterable[Axis]) -> list[Axis | str]:
    """The shortest path from an axis to the nearest of `ends`: axis, node, axis, ... ; empty if there is none."""
    import networkx as nx

    paths = nx.single_source_shortest_path(graph, start) if start in graph else {}
    axes: list[Axis] = min((paths[end] for end in ends if end in paths), key=len, default=[])
    steps: list[Axis | str] = [*axes[:1]]
    for a, b in pairwise(axes):
        steps += [graph.edges[a, b]["node"], b]
    return steps


def places(axes: Sequence[Axis], nodes: Iterable[Node]) -> Labels:
    """The place of each axis in an order that does not depend on how a file orders nodes and initializers.

    Values are ordered by how deep in the graph they are first read, and by which input; alike ones stay as given.
    """
    depths: dict[str, int] = {}
    read: dict[str, tuple[int, int]] = {}
    for node in nodes:
        depth = 1 + max((depths.get(name, 0) for name in (*node.inputs, *node.captures)), default=0)
        depths.update(dict.fromkeys(node.outputs, depth))
        for i, name in enumerate(node.inputs):
            read[name] = min(read.get(name, (depth, i)), (depth, i))
    order = sorted(range(len(axes)), key=lambda i: (read.get(axes[i].value, (0, 0)), axes[i].axis))
    place = np.empty(len(axes), np.int64)
    place[order] = np.arange(len(axes))
    return place
