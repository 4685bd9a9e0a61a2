"""Cut residual branches: what read the sum reads the shortcut.

Handled:
* nodes that only closed branches read go, and the initializers that nothing else reads;
* a shortcut that is itself the sum of a closed branch: what is left of that is read;
* a Sum of more operands loses some; what adds and does more is written without (`ops.aspects.tables.alone`);
* a layer of a plain chain: what read what it puts out reads what it takes;
* a sum that is an output of the graph, or is read in a subgraph: an Identity of the shortcut keeps its name;
* shapes that the file states of inner values which are gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx

from tgonnx import ops
from tgonnx.analysis.branches import Branch
from tgonnx.errors import VerificationError
from tgonnx.graph.proto import captured_names, remove_unused, replace_nodes
from tgonnx.ops.aspects.traits import picked, traits_of
from tgonnx.passes import PassResult, perform


@dataclass(frozen=True)
class RemoveBranches:
    """Leave the shortcuts of these branches, of whatever number of channels."""

    name: ClassVar = "remove-branches"
    in_place: ClassVar = False

    branches: tuple[Branch, ...]

    @property
    def keeps_values(self) -> bool:
        """With nothing to cut."""
        return not self.branches

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        if not self.branches:
            return PassResult(model, False)
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        _cut(copy.graph, self.branches)
        return PassResult(copy, True)


def remove_branches(proto: onnx.ModelProto, branches: Sequence[Branch]) -> onnx.ModelProto:
    """A copy without these branches, of which channels may have been cut before.

    Raises VerificationError naming the node if one is not there.
    """
    return perform(RemoveBranches(tuple(branches)), proto).model


def _cut(graph: onnx.GraphProto, branches: Sequence[Branch]) -> None:
    makers = {name: node for node in graph.node for name in node.output}
    left, replaced = dict[str, str](), dict[str, list[onnx.NodeProto]]()
    ends: dict[str, list[Branch]] = defaultdict(list)
    for branch in branches:
        ends[branch.sum].append(branch)
    for name, cut in ends.items():
        _check(makers.get(name), cut)
        node, values = makers[name], {branch.value for branch in cut}
        addends = [n for n in picked(node.input, traits_of(node).addends) if n not in values]
        if cut[0].layer:
            left[name] = cut[0].shortcut
        elif (entry := ops.alone.get(node.op_type, node.domain)) is not None:
            replaced[name] = entry(node, addends[0])
        elif len(addends) == 1:
            left[name] = addends[0]
        else:
            node.input[:] = addends
    for name in left:
        while left[name] in left:
            left[name] = left[left[name]]
    nodes = []
    for node in graph.node:
        nodes += replaced.get(node.output[0], [node]) if node.output else [node]
    for node in nodes:
        node.input[:] = [left.get(name, name) for name in node.input]
    replace_nodes(graph, nodes)
    kept = {value.name for value in graph.output} | captured_names(graph)
    for node in graph.node:
        if node.output and node.output[0] in left and node.output[0] in kept:
            node.op_type, node.domain = "Identity", ""
            node.input[:] = [left[node.output[0]]]
            del node.attribute[:]
    remove_unused(graph)
    made = {name for node in graph.node for name in node.output}
    stale = [i for i, value in enumerate(graph.value_info) if value.name not in made]
    for i in reversed(stale):
        del graph.value_info[i]


def _check(node: onnx.NodeProto | None, cut: Sequence[Branch]) -> None:
    """Raise VerificationError unless the node still is what the branches end in."""
    for branch in cut:
        added = {branch.value, branch.shortcut}
        if node is None or not (branch.layer or added <= {*node.input}):
            raise VerificationError(
                f"node {branch.label}: it does not add {branch.value!r} to {branch.shortcut!r} any more"
            )
