"""Where stored weights are multiplied with activations: the products of a model.

Handled: a weight that a node reads as it is stored, or turned and reshaped on the way; weights of several nodes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tgonnx import ops
from tgonnx.graph.proto import captured_names
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.products import Product
from tgonnx.ops.aspects.traits import traits_of

FLOATS = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    }
)


@dataclass(frozen=True)
class Use:
    """One product of a stored weight.

    `place` is the node's place in the graph, `output` its first output and `number` the product's number in the
    node: the two name it in every cut of the model. `way` is a model of the nodes that rearrange the weight before
    the node reads it; None where there are none.
    """

    place: int
    output: str
    number: int
    product: Product
    weight: str
    operand: str
    label: str
    way: onnx.ModelProto | None = None

    def matrix(self, weight: Array) -> Array:
        """The elements of the stored weight as matrices [groups, terms, outputs]."""
        return self.product.matrix(_along(self.way, weight))


def _along(way: onnx.ModelProto | None, weight: Array) -> Array:
    if way is None:
        return weight
    outputs: Any = ReferenceEvaluator(way).run(None, {way.graph.input[0].name: weight})
    return np.asarray(outputs[0])


class Uses:
    """All products of a model, by the name of the stored weight."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {value.name for value in model.graph.output} | captured_names(model.graph)

    @cached_property
    def by_weight(self) -> dict[str, list[Use]]:
        """The products of each weight of floats that takes part in products alone."""
        found: dict[str, list[Use]] = defaultdict(list)
        for place, node in enumerate(self.model.graph.node):
            for use in self._of_node(place, node):
                found[use.weight].append(use)
        return {name: uses for name, uses in found.items() if self._ends(name) == len(uses)}

    def _of_node(self, place: int, node: onnx.NodeProto) -> list[Use]:
        entry = ops.products.get(node.op_type, node.domain)
        if entry is None or not any(node.output):
            return []
        ways = {i: found for i, name in enumerate(node.input) if (found := self._way(name)) is not None}
        shapes = {
            i: np.shape(_along(way, np.zeros(tuple(self.stored[stored].dims), np.bool_)))
            for i, (stored, way) in ways.items()
        }
        output, label = next(filter(None, node.output)), node.name or node.output[0]
        uses = []
        for number, product in enumerate(entry(node, shapes)):
            operand = node.input[product.operand] if product.state is None else node.output[product.state]
            stored, way = ways[product.weight]
            if operand and operand not in self.stored and self.stored[stored].data_type in FLOATS:
                uses.append(Use(place, output, number, product, stored, operand, label, way))
        return uses

    def _way(self, name: str) -> tuple[str, onnx.ModelProto | None] | None:
        """The stored weight that a value holds the elements of, and how they get there; None if there is none."""
        nodes: list[onnx.NodeProto] = []
        value = name
        while value in self.makers and value not in self.outputs:
            node = self.makers[value]
            if not traits_of(node).rearranges or not all(other in self.stored for other in node.input[1:]):
                return None
            nodes.insert(0, node)
            value = node.input[0]
        if value not in self.stored:
            return None
        if not nodes:
            return value, None
        sizes = [self.stored[other] for node in nodes for other in node.input[1:]]
        kind = self.stored[value].data_type
        ends = [helper.make_tensor_value_info(end, kind, None) for end in (value, name)]
        graph = helper.make_graph(nodes, "way", ends[:1], ends[1:], initializer=sizes)
        return value, helper.make_model(graph, opset_imports=self.model.opset_import)

    def _ends(self, name: str) -> int:
        """How often a value is read, by nodes that rearrange it and others in their place; outputs count, too."""
        count = int(name in self.outputs)
        for node in self.readers[name]:
            if traits_of(node).rearranges and len(node.output) == 1 and node.input[0] == name:
                count += self._ends(node.output[0])
            else:
                count += sum(other == name for other in node.input)
        return count
