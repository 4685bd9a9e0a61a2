"""Cut residual branches: what read the sum reads the shortcut.

Handled:
* nodes that only closed branches read go, and the initializers that nothing else reads;
* a shortcut that is itself the sum of a closed branch: what is left of that is read;
* a sum that is an output of the graph, or is read in a subgraph: an Identity of the shortcut keeps its name;
* shapes that the file states of inner values which are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx

from tgonnx.analysis.branches import Branch
from tgonnx.errors import VerificationError
from tgonnx.graph.proto import captured_names, remove_unused
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
    left = {branch.name: branch.shortcut for branch in branches}
    for branch in branches:
        node = makers.get(branch.name)
        if node is None or {*node.input} != {branch.value, branch.shortcut}:
            raise VerificationError(
                f"node {branch.label}: it does not add {branch.value!r} to {branch.shortcut!r} any more"
            )
    for branch in branches:
        while left[branch.name] in left:
            left[branch.name] = left[left[branch.name]]
    for node in graph.node:
        node.input[:] = [left.get(name, name) for name in node.input]
    kept = {value.name for value in graph.output} | captured_names(graph)
    for branch in branches:
        if branch.name in kept:
            node = makers[branch.name]
            node.op_type, node.domain = "Identity", ""
            node.input[:] = [left[branch.name]]
            del node.attribute[:]
    remove_unused(graph)
    made = {name for node in graph.node for name in node.output}
    stale = [i for i, value in enumerate(graph.value_info) if value.name not in made]
    for i in reversed(stale):
        del graph.value_info[i]
