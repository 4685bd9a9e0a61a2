"""Which nodes a runtime runs as one, from what it recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import Axes, Term
from tgonnx.analysis.model import Node
from tgonnx.analysis.times import largest_of
from tgonnx.graph.structure import first_output


@dataclass(frozen=True)
class Cluster:
    """Operators that run as one: the first outputs of their nodes, the type of the one that does most, its work, and
    the axes of the largest value that they make."""

    outputs: tuple[str, ...]
    op_type: str
    work: tuple[Term, ...]
    elements: tuple[int, ...] | None


def clusters_of(
    coupling: Coupling,
    axes: Axes,
    work: Mapping[str, list[Term]],
    elements: Mapping[str, tuple[int, ...]],
    records: Sequence[Collection[str]],
) -> list[Cluster]:
    """All operators, in the order of the graph; every node by itself if nothing was recorded.

    `records` holds what was recorded of each copy of the model, by first output: what is one operator in one of them is
    one here.
    """
    nodes = {first_output(node.outputs): node for node in coupling.model.nodes}
    together = nx.Graph()
    together.add_nodes_from(nodes)
    readers: dict[str, list[str]] = defaultdict(list)
    for output, node in nodes.items():
        for name in node.inputs:
            if name in nodes:
                readers[name].append(output)
    for recorded in records:
        together.add_edges_from(_fused(nodes, readers, work, recorded))
    order = {output: number for number, output in enumerate(nodes)}
    parts = [sorted(part, key=order.__getitem__) for part in nx.connected_components(together)]
    full = axes.lengths(axes.sizes)

    def worth(output: str) -> float:
        return sum(float(t.coefficient * full[list(t.axes)].prod()) for t in work.get(output, ()))

    return [
        Cluster(
            tuple(part),
            nodes[max(reversed(part), key=worth)].op_type,
            tuple(term for output in part for term in work.get(output, ())),
            largest_of(axes, part, elements),
        )
        for part in sorted(parts, key=lambda part: order[part[0]])
    ]


def _fused(
    nodes: dict[str, Node],
    readers: Mapping[str, Sequence[str]],
    work: Mapping[str, Any],
    recorded: Collection[str],
) -> Iterator[tuple[str, str]]:
    """Nodes that were not recorded, each with a neighbour that was.

    One that multiplies is named after what reads it (an activation), another after what it reads.
    """
    if not recorded:
        return
    known = set(recorded)
    for output in reversed(nodes):  # what reads a node is settled before it
        if output not in known and output in work and len(readers[output]) == 1:
            yield output, readers[output][0]
            known.add(output)
    for output, node in nodes.items():
        if output not in known:
            near = [
                *(name for name in node.inputs if name in known),
                *(n for n in readers[output] if n in known),
            ]
            if near:
                yield output, near[0]
                known.add(output)
