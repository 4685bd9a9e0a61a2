"""Gate residual branches: what an Add adds to its shortcut is multiplied by a gate, all shapes being as they were.

What a layer of a plain chain puts out is mixed with what it takes.

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

from tgonnx.analysis.branches import Branch
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
    made: dict[str, list[onnx.NodeProto]] = {}  # by the value that they make of
    readers: dict[str, str] = {}
    for number, branch in enumerate(coupling.branches):
        gate = _gate(graph, number, vector, coupling.model.first.types[branch.value])
        if branch.layer:
            one = f"{vector}_{number}_one"
            kind = helper.tensor_dtype_to_np_dtype(coupling.model.first.types[branch.value])
            graph.initializer.append(numpy_helper.from_array(np.ones(1, kind), one))
            made[branch.sum] = [*gate, *_mixed(branch, gate[-1].output[0], one, f"{vector}_{number}")]
        else:
            readers[branch.value] = f"{vector}_{number}_gated"
            inputs = [branch.value, gate[-1].output[0]]
            made[branch.value] = [*gate, helper.make_node("Mul", inputs, [readers[branch.value]])]
    raw = {b.sum: f"{vector}_{i}_raw" for i, b in enumerate(coupling.branches) if b.layer}
    nodes = []
    for node in graph.node:
        node.input[:] = [readers.get(name, name) for name in node.input]
        names = [*node.output]
        node.output[:] = [raw.get(name, name) for name in names]
        nodes += [node, *(extra for name in names for extra in made.get(name, ()))]
    replace_nodes(graph, nodes)
    return result


def _gate(graph: onnx.GraphProto, number: int, vector: str, elem_type: int) -> list[onnx.NodeProto]:
    """The nodes that take one gate out of the vector, [1], in the type of what it multiplies."""
    stem = f"{vector}_{number}"
    graph.initializer.append(numpy_helper.from_array(np.array([number]), f"{stem}_place"))
    made = [helper.make_node("Gather", [vector, f"{stem}_place"], [stem], axis=0)]
    if elem_type != TensorProto.FLOAT:
        made.append(helper.make_node("Cast", [stem], [f"{stem}_cast"], to=elem_type))
    return made


def _mixed(branch: Branch, gate: str, one: str, stem: str) -> list[onnx.NodeProto]:
    """What a layer puts out times its gate, and what it takes times the rest of one: at one or zero, either exactly."""
    kept, passed, closed = f"{stem}_kept", f"{stem}_passed", f"{stem}_closed"
    return [
        helper.make_node("Sub", [one, gate], [closed]),
        helper.make_node("Mul", [f"{stem}_raw", gate], [kept]),
        helper.make_node("Mul", [branch.shortcut, closed], [passed]),
        helper.make_node("Add", [kept, passed], [branch.sum]),
    ]
