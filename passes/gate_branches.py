"""Gate parts: what is added of a residual branch or an alternative is multiplied by a gate; shapes stay.

A mean is one over the open alternatives: it is multiplied by their number and divided by the sum of the gates.

What a layer of a plain chain puts out is mixed with what it takes.

All gates are one vector, the graph value `BRANCH_GATES`, one number for each branch in the order of
`Coupling.branches`. What makes the vector is the caller's: constants, a graph input, or part of a trainable gate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.analysis.branches import Branch, Part
from tgonnx.analysis.coupling import Coupling
from tgonnx.errors import UnsupportedError
from tgonnx.graph.proto import fresh_name, replace_nodes
from tgonnx.ops.aspects.traits import traits_of
from tgonnx.passes import PassResult, perform

BRANCH_GATES = "tgonnx.branch_gate_values"  # float32 [branches], or [alternatives]
ALL_GATES = "tgonnx.all_gate_values"  # float32 [units + branches], where both learn


@dataclass(frozen=True)
class GateBranches:
    """Gate all that can go of `coupling`: with `closed` names, by constants, else by a graph input `BRANCH_GATES`."""

    name: ClassVar = "gate-branches"
    in_place: ClassVar = False

    coupling: Coupling
    closed: Collection[str] | None = None

    @property
    def keeps_values(self) -> bool:
        """With all gates open."""
        return self.closed is not None and not self.closed

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        if not self.coupling.branches and not self.closed:
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
    parts = _gated_parts(coupling, closed or ())
    if closed is not None:
        opened = np.array([part.name not in closed for part in parts], np.float32)
        graph.initializer.append(numpy_helper.from_array(opened, vector))
    elif BRANCH_GATES not in taken:
        graph.input.append(helper.make_tensor_value_info(BRANCH_GATES, TensorProto.FLOAT, [len(parts)]))
    else:
        raise UnsupportedError(
            f"{coupling.model.source}: the model holds gates already ({BRANCH_GATES!r}); "
            "train the model it was made from"
        )
    types = coupling.model.first.types
    made: dict[str, list[onnx.NodeProto]] = {}  # of branches, by the value that they make of
    readers, raw = dict[str, str](), dict[str, str]()
    gated: dict[str, list[tuple[int, Part]]] = defaultdict(list)  # alternatives by the sum
    for number, part in enumerate(parts):
        if isinstance(part, Branch):
            extra, gate = _gate(graph, number, vector, types[part.value])
            stem = f"{vector}_{number}"
            if part.layer:
                raw[part.sum] = f"{stem}_raw"
                made[part.sum] = [*extra, *_mixed(graph, part, gate, stem, types[part.value])]
            else:  # what it adds is read by nothing else, whatever became of the node that adds it
                readers[part.value] = f"{stem}_gated"
                made[part.value] = [*extra, helper.make_node("Mul", [part.value, gate], [f"{stem}_gated"])]
        elif not len(coupling.units_along(part)):  # those of a Concat are gated channel by channel
            gated[part.sum].append((number, part))
    nodes = []
    for node in graph.node:
        here = gated[node.output[0]] if node.output else []
        gates = [_gate(graph, number, vector, types[part.value]) for number, part in here]
        nodes += [extra for found, _ in gates for extra in found]
        for (number, part), (_, gate) in zip(here, gates, strict=True):
            nodes.append(helper.make_node("Mul", [part.value, gate], [f"{vector}_{number}_gated"]))
            node.input[part.operand] = f"{vector}_{number}_gated"
        names = [*node.output]
        node.input[:] = [readers.get(name, name) for name in node.input]
        node.output[:] = [raw.get(name, name) for name in names]
        nodes += [node, *(extra for name in names for extra in made.get(name, ()))]
        if here and traits_of(node).joins == "mean":
            nodes += _of_the_open(graph, node, [gate for _, gate in gates], types[here[0][1].value])
    replace_nodes(graph, nodes)
    return result


def _gated_parts(coupling: Coupling, closed: Collection[str]) -> list[Part]:
    """All that can go, and what does."""
    parts: list[Part] = [*coupling.branches]
    known = {part.name for part in parts}
    return [*parts, *(part for part in coupling.parts(closed) if part.name not in known)]


def _gate(
    graph: onnx.GraphProto, number: int, vector: str, elem_type: int
) -> tuple[list[onnx.NodeProto], str]:
    """The gate of this number, of the type of what it multiplies, as nodes and their result."""
    stem = f"{vector}_{number}"
    graph.initializer.append(numpy_helper.from_array(np.array([number]), f"{stem}_place"))
    made = [helper.make_node("Gather", [vector, f"{stem}_place"], [stem], axis=0)]
    if elem_type == TensorProto.FLOAT:
        return made, stem
    return [*made, helper.make_node("Cast", [stem], [f"{stem}_cast"], to=elem_type)], f"{stem}_cast"


def _mixed(
    graph: onnx.GraphProto, layer: Branch, gate: str, stem: str, elem_type: int
) -> list[onnx.NodeProto]:
    """What a layer puts out times its gate, and what it takes times the rest of one: at one or zero, either exactly."""
    one, kept, passed, closed = (f"{stem}_{word}" for word in ("one", "kept", "passed", "closed"))
    array = np.ones(1, helper.tensor_dtype_to_np_dtype(elem_type))
    graph.initializer.append(numpy_helper.from_array(array, one))
    return [
        helper.make_node("Sub", [one, gate], [closed]),
        helper.make_node("Mul", [f"{stem}_raw", gate], [kept]),
        helper.make_node("Mul", [layer.shortcut, closed], [passed]),
        helper.make_node("Add", [kept, passed], [layer.sum]),
    ]


def _of_the_open(
    graph: onnx.GraphProto, mean: onnx.NodeProto, gates: Sequence[str], elem_type: int
) -> list[onnx.NodeProto]:
    """The nodes that make the mean of all operands one of those that are open; what has no gate is."""
    name, count = mean.output[0], len(mean.input)
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    for ending, number in (("count", count), ("always", count - len(gates))):
        array = np.array([number]).astype(dtype)
        graph.initializer.append(numpy_helper.from_array(array, f"{name}_{ending}"))
    mean.output[0] = f"{name}_of_all"
    return [
        helper.make_node("Sum", [*gates, f"{name}_always"], [f"{name}_open"]),
        helper.make_node("Div", [f"{name}_count", f"{name}_open"], [f"{name}_factor"]),
        helper.make_node("Mul", [mean.output[0], f"{name}_factor"], [name]),
    ]
