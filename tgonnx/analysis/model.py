"""A model in normal form, with what is known of its sizes."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from tgonnx.analysis.alternatives import Meeting, find_meetings
from tgonnx.analysis.branches import Branch, NoBranch, find_branches
from tgonnx.analysis.input_shapes import counted_shapes
from tgonnx.analysis.shapes import Shape, Sweep
from tgonnx.analysis.symbolic import Symbols
from tgonnx.analysis.weights import single_weights
from tgonnx.graph.algebra import Size
from tgonnx.graph.declared import describe_type
from tgonnx.graph.proto import captured_names
from tgonnx.graph.structure import structure_hash
from tgonnx.io.hollow import Hollow, filled
from tgonnx.io.stamp import hash_of
from tgonnx.io.summary import ROWS, Shown, Summary, amount, left_out

if TYPE_CHECKING:
    from tgonnx.analysis.coupling import Attention, Coupling

Source = str | os.PathLike[str] | bytes | onnx.ModelProto


class Node:
    """One node of a model, its attributes decoded and its position known."""

    def __init__(self, proto: onnx.NodeProto, index: int) -> None:
        self.proto = proto
        self.index = index
        self.op_type: str = proto.op_type
        self.domain: str = "" if proto.domain == "ai.onnx" else proto.domain
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return {
            a.name: helper.get_attribute_value(a)
            for a in self.proto.attribute
            if a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        }

    @property
    def label(self) -> str:
        """The node's name, or what stands in for it."""
        return self.proto.name or f"{self.op_type}_{self.index}"

    @cached_property
    def captures(self) -> set[str]:
        """Values of the outer graph that the node's subgraphs may read."""
        return captured_names(helper.make_graph([self.proto], "", [], [])) - {""}


@dataclass(frozen=True, repr=False)
class Model(Shown):
    """What `load` returns.

    `given` is the model as it was read; hollow, it has the weights that it shares with `proto`, the normal form, which
    surgery cuts. `symbols` says which sizes depend on dynamic axes; `first` holds the shapes under the binding of them
    that analysis counts with. `sizes` are the shapes of inputs that were asked for, `file_bytes` is what the model
    takes as a file.
    `added` names the sums of alternatives that are in the normal form alone: of each, the first is what the original
    has there.
    """

    given: onnx.ModelProto | Hollow
    proto: onnx.ModelProto
    symbols: Symbols
    source: str
    sizes: Mapping[str, Shape] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    file_bytes: int = 0
    read_digest: str = ""

    @cached_property
    def original(self) -> onnx.ModelProto:
        """The model as it was read. Who needs no weights asks for its `outline`: this may be a copy, which is kept."""
        return filled(self.given)

    @cached_property
    def outline(self) -> onnx.ModelProto:
        """The model as it was read, with declarations in the place of large initializers."""
        return Hollow.of(self.given).proto

    @cached_property
    def digest(self) -> str:
        """`tgonnx.io.stamp.hash_of` the model as it was read: `read_digest`, if that was worked out while reading."""
        return self.read_digest or hash_of(filled(self.given))

    @property
    def first(self) -> Sweep:
        return self.symbols.first

    @property
    def second(self) -> Sweep:
        """Other sizes of the dynamic axes, where the model runs with others."""
        return self.symbols.second

    @cached_property
    def couplings(self) -> dict[Attention, Coupling]:
        """What `analyze` has found, so that it is found once; by what of attention is cut."""
        return {}

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The residual branches, which may be removed whole."""
        return self._sums[0]

    @property
    def no_branches(self) -> tuple[NoBranch, ...]:
        """The sums that have no branch which may be removed, and why."""
        return self._sums[1]

    @cached_property
    def _sums(self) -> tuple[tuple[Branch, ...], tuple[NoBranch, ...]]:
        return find_branches(self)

    @cached_property
    def meetings(self) -> tuple[Meeting, ...]:
        """Where alternatives meet, which may be chosen from."""
        return find_meetings(self)

    @cached_property
    def single_weights(self) -> dict[str, int]:
        """The kernels and matrices whose elements may become zero, and how many elements each has."""
        return single_weights(self)

    @cached_property
    def nodes(self) -> list[Node]:
        return [Node(proto, i) for i, proto in enumerate(self.proto.graph.node)]

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    @cached_property
    def inputs(self) -> dict[str, onnx.ValueInfoProto]:
        """The graph inputs a user must feed."""
        return {v.name: v for v in self.proto.graph.input if v.name not in self.initializers}

    @cached_property
    def outputs(self) -> list[str]:
        return [value.name for value in self.proto.graph.output]

    @property
    def shapes(self) -> dict[str, Shape]:
        return self.first.shapes

    def summary(self) -> Summary:
        """What goes in and out, and which operators there are most of."""
        counts = Counter(node.op_type for node in self.nodes).most_common()
        most = ", ".join(f"{op_type} {count}" for op_type, count in counts[:6])
        stored = sum(math.prod(t.dims) for t in self.initializers.values())
        facts = [("input", f"{name} {describe_type(value)}") for name, value in [*self.inputs.items()][:ROWS]]
        facts += [
            ("output", f"{value.name} {describe_type(value)}") for value in self.proto.graph.output[:ROWS]
        ]
        facts += [("operators", most + (", ..." if len(counts) > 6 else ""))]
        rest = max(len(self.inputs) - ROWS, 0) + max(len(self.outputs) - ROWS, 0)
        size = f"{len(self.nodes):,} nodes, {amount(stored)} numbers in initializers, opset {self.opset}"
        return Summary(f"Model {self.source}: {size}", facts, left_out=left_out(rest, "inputs and outputs"))

    @cached_property
    def structure(self) -> str:
        """What the network is apart from its weights, as a hash: a mask belongs to one structure."""
        return structure_hash(self.outline)

    @property
    def opset(self) -> int:
        return self.first.opsets.get("", 1)

    @property
    def batch(self) -> int:
        """Samples in the binding that is counted with: 1 if the first axis of the first input is fixed at 1."""
        for name, value in self.inputs.items():
            dims = value.type.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                return self.shapes[name][0]
        return 1

    @property
    def counted_at(self) -> dict[str, Shape]:
        """The shapes of inputs, where the cost depends on them: axes behind the first one are open."""
        return counted_shapes(self.outline, self.shapes)

    @cached_property
    def static(self) -> set[str]:
        """Values computed from initializers alone."""
        static = set(self.initializers)
        for node in self.nodes:
            if all(name in static or not name for name in node.inputs) and node.inputs and not node.captures:
                static.update(node.outputs)
        return static


def known_elements(model: Model, name: str) -> list[int | float | None] | None:
    """The elements of a small vector, None for one that depends on a dynamic axis; None if nothing is known."""
    value = model.first.known.get(name)
    if value is None or value.ndim > 1:
        return None
    parts = model.symbols.parts(name)
    if parts is None:
        return [None] * value.size if name in model.symbols.elements else np.atleast_1d(value).tolist()
    return [None if isinstance(part, Size) else part for part in parts.ravel()]
