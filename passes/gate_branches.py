"""Gate residual branches: what an Add adds to its shortcut is multiplied by a gate, all shapes being as they were.

All gates are one vector, the graph value `BRANCH_GATES`, one number for each branch in the order of
`Coupling.branches`. What makes the vector is the caller's: constants, a graph input, or part of a trainable gate.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.errors import UnsupportedError
from tgonnx.graph.proto import fresh_name, replace_nodes
from tgonnx.passes import PassResult, perform

BRANCH_GATES = "tgonnx.branch_gate_values"  # float32 [branches]
ALL_GATES = "tgonnx.all_gate_values"  # float32 [units + branches], where both learn


@dataclass(frozen=True)
class GateBranches:
    """Gate every branch of `coupling`: with `closed` names, by constants, else by a graph input `BRANCH_GATES`."""

    name: ClassVar = "gate-branches"
    in_place: ClassVar = False

    coupling: Coupling
    closed: Collection[str] | None = None

    @property
    def keeps_values(self) -> bool:
        """With all gates open."""
        return self.closed is not None and not self.closed

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        if not self.coupling.branches:
            return PassResult(model, False)
        return PassResult(_gated(model, self.coupling, self.closed), True)


def gate_branches(
    proto: onnx.ModelProto, coupling: Coupling, closed: Collection[str] | None = None
) -> onnx.ModelProto:
    """A copy of the normal form that `coupling` was made from, its channels gated or not, with gates on its branches.

    Raises UnsupportedError if the gates are to be an input of a model that has them already.
    """
    return perform(GateBranches(coupling, closed), proto).model


def _gated(proto: onnx.ModelProto, coupling: Coupling, closed: Collection[str] | None) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer}
    vector = BRANCH_GATES if closed is None else fresh_name(BRANCH_GATES, taken)
    if closed is not None:
        opened = np.array([branch.name not in closed for branch in coupling.branches], np.float32)
        graph.initializer.append(numpy_helper.from_array(opened, vector))
    elif BRANCH_GATES not in taken:
        size = [len(coupling.branches)]
        graph.input.append(helper.make_tensor_value_info(BRANCH_GATES, TensorProto.FLOAT, size))
    else:
        raise UnsupportedError(
            f"{coupling.model.source}: the model holds gates already ({BRANCH_GATES!r}); "
            "train the model it was made from"
        )
    numbers = {branch.name: number for number, branch in enumerate(coupling.branches)}
    nodes = []
    for node in graph.node:
        number = numbers.get(node.output[0]) if node.output else None
        if number is not None:
            nodes += _multiplied(graph, node, number, coupling, vector)
        nodes.append(node)
    replace_nodes(graph, nodes)
    return result


def _multiplied(
    graph: onnx.GraphProto, node: onnx.NodeProto, number: int, coupling: Coupling, vector: str
) -> list[onnx.NodeProto]:
    """The nodes that multiply an Add's branch by its gate, which the Add is made to read."""
    branch = coupling.branches[number]
    elem_type = coupling.model.first.types[branch.value]
    stem = f"{vector}_{number}"
    graph.initializer.append(numpy_helper.from_array(np.array([number]), f"{stem}_place"))
    made = [helper.make_node("Gather", [vector, f"{stem}_place"], [stem], axis=0)]
    gate = stem
    if elem_type != TensorProto.FLOAT:
        gate = f"{stem}_cast"
        made.append(helper.make_node("Cast", [stem], [gate], to=elem_type))
    made.append(helper.make_node("Mul", [branch.value, gate], [f"{stem}_gated"]))
    node.input[branch.operand] = f"{stem}_gated"
    return made
