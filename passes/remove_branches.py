"""Cut parts: residual branches, whose sums leave their shortcuts, and alternatives, whose sums leave the others.

Handled:
* nodes that only closed parts read go, and the initializers that nothing else reads;
* where one operand is left of a sum, that is read in its place; a shortcut that is itself such a sum, too;
* where several are left, the sum (or the mean) is that of these; what adds and does more is written without
  (`ops.aspects.tables.alone`);
* a layer of a plain chain: what read what it puts out reads what it takes;
* a sum that is an output of the graph, or is read in a subgraph: an Identity of what is left keeps its name;
* shapes that the file states of inner values which are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx

from tgonnx import ops
from tgonnx.analysis.branches import Part, still_read
from tgonnx.analysis.model import Model
from tgonnx.errors import VerificationError
from tgonnx.graph.proto import captured_names, remove_unused, replace_nodes
from tgonnx.passes import PassResult, perform


@dataclass(frozen=True)
class RemoveBranches:
    """Leave what else is added to these parts of `whole`, of whatever number of channels."""

    name: ClassVar = "remove-branches"
    in_place: ClassVar = False

    whole: Model
    parts: tuple[Part, ...]

    @property
    def keeps_values(self) -> bool:
        """With nothing to cut."""
        return not self.parts

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        if not self.parts:
            return PassResult(model, False)
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        _cut(copy.graph, self.whole, self.parts)
        return PassResult(copy, True)


def remove_branches(proto: onnx.ModelProto, whole: Model, parts: Sequence[Part]) -> onnx.ModelProto:
    """A copy without these parts of `whole`, of which channels may have been cut before.

    Raises VerificationError naming the node if one is not there.
    """
    return perform(RemoveBranches(whole, tuple(parts)), proto).model


def _cut(graph: onnx.GraphProto, whole: Model, parts: Sequence[Part]) -> None:
    makers = {name: node for node in graph.node for name in node.output}
    for part in parts:
        node = makers.get(part.sum)
        same = node is not None and [*node.input] == [*whole.nodes[part.add].inputs]
        if node is None or not (same or part.layer):
            raise VerificationError(f"node {part.label}: it does not add {part.value!r} to others any more")
    one: dict[str, str] = {}  # sums of which one operand is left
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for place, names in still_read(whole, parts).items():
        output = whole.nodes[place].outputs[0]
        if len(names) == 1:
            one[output] = one.get(names[0], names[0])
        elif (entry := ops.alone.get(makers[output].op_type, makers[output].domain)) is not None:
            replaced[output] = entry(makers[output], names[0])
        else:
            makers[output].input[:] = names
    nodes = []
    for node in graph.node:
        nodes += replaced.get(node.output[0], [node]) if node.output else [node]
    for node in nodes:
        node.input[:] = [one.get(name, name) for name in node.input]
    replace_nodes(graph, nodes)
    kept = {value.name for value in graph.output} | captured_names(graph)
    for node in graph.node:
        if node.output and node.output[0] in one and node.output[0] in kept:
            node.op_type, node.domain = "Identity", ""
            node.input[:] = [one[node.output[0]]]
            del node.attribute[:]
    remove_unused(graph)
    made = {name for node in graph.node for name in node.output}
    stale = [i for i, value in enumerate(graph.value_info) if value.name not in made]
    for i in reversed(stale):
        del graph.value_info[i]
