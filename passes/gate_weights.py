"""Gate single weights: each element of kernels and matrices is multiplied by a gate of its own.

All gates are one vector, the graph value `WEIGHT_GATES`, one number for each element, weight after weight in the order
of `Model.single_weights`. It is split and shaped like the weights, and what read a weight reads the product. Weights
that are turned or reshaped on the way are gated as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.errors import UnsupportedError
from tgonnx.graph.proto import replace_nodes
from tgonnx.passes import PassResult, perform
from tgonnx.selection.mask import Mask
from tgonnx.selection.mask_file import Elements

WEIGHT_GATES = "tgonnx.weight_gate_values"  # float32 [elements]


@dataclass(frozen=True)
class GateWeights:
    """Gate every kernel and matrix of `coupling`: by what is `kept` of each, else by a graph input `WEIGHT_GATES`."""

    name: ClassVar = "gate-weights"
    in_place: ClassVar = False

    coupling: Coupling
    kept: Elements | None = None

    @property
    def keeps_values(self) -> bool:
        """With all gates open."""
        return self.kept is not None and all(part.all() for part in self.kept.values())

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        if not self.coupling.model.single_weights:
            return PassResult(model, False)
        return PassResult(_gated(model, self.coupling, self.kept), True)


def gate_weights(proto: onnx.ModelProto, coupling: Coupling, kept: Elements | None = None) -> onnx.ModelProto:
    """A copy of a model of the weights that `coupling` was made from, with gates on them.

    Raises UnsupportedError if it has them already.
    """
    return perform(GateWeights(coupling, kept), proto).model


def held_at_zero(proto: onnx.ModelProto, coupling: Coupling, mask: Mask) -> onnx.ModelProto:
    """The model as it trains on: with zeros that have no gradient, where there are such."""
    return gate_weights(proto, coupling, mask.weights) if mask.weights else proto


def _gated(proto: onnx.ModelProto, coupling: Coupling, kept: Elements | None) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if any(WEIGHT_GATES in (*node.input, *node.output) for node in graph.node):
        raise UnsupportedError(
            f"{coupling.model.source}: the model holds gates already ({WEIGHT_GATES!r}); "
            "train the model it was made from"
        )
    sizes = coupling.model.single_weights
    if kept is None:
        total = [sum(sizes.values())]
        graph.input.append(helper.make_tensor_value_info(WEIGHT_GATES, TensorProto.FLOAT, total))
    else:
        parts = [kept[n].ravel() if n in kept else np.ones(size, bool) for n, size in sizes.items()]
        graph.initializer.append(
            numpy_helper.from_array(np.concatenate(parts).astype(np.float32), WEIGHT_GATES)
        )
    nodes, new = _products(graph, {name: stored[name] for name in sizes}, coupling.model.opset)
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    replace_nodes(graph, [*nodes, *graph.node])
    return result


def _products(
    graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto], opset: int
) -> tuple[list[onnx.NodeProto], dict[str, str]]:
    """Nodes that split the vector and multiply the weights, and what stands for each weight."""

    def constant(name: str, values: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    places = [f"{WEIGHT_GATES}_{number}" for number in range(len(weights))]
    lengths = [int(np.prod(tensor.dims)) for tensor in weights.values()]
    if opset >= 13:
        inputs = [WEIGHT_GATES, constant(f"{WEIGHT_GATES}_lengths", lengths)]
        nodes = [helper.make_node("Split", inputs, places, axis=0)]
    else:
        nodes = [helper.make_node("Split", [WEIGHT_GATES], places, axis=0, split=lengths)]
    new = {}
    for place, (name, tensor) in zip(places, weights.items(), strict=True):
        gate, product = f"{place}_shaped", f"{place}_product"
        nodes.append(helper.make_node("Reshape", [place, constant(f"{place}_shape", [*tensor.dims])], [gate]))
        if tensor.data_type != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [gate], [f"{gate}_cast"], to=tensor.data_type))
            gate = f"{gate}_cast"
        nodes.append(helper.make_node("Mul", [name, gate], [product]))
        new[name] = product
    return nodes, new
