"""Insert gates: the model in which closed units contribute nothing, all shapes being as they were.

Handled:
* `contract` sites: the operand that is summed (a weight where there is one) is multiplied by the gates of its axis;
* `normalize` sites: the node is replaced by its form over the open labels only (the operator's `gated` entry);
* stored numbers that stand for the length of an axis become that of the open labels (`tgonnx.lengths`).

All gates are one vector, the graph value `GATES`, one number per unit; each site gathers its own, and pinned labels
read a constant 1. What makes the vector is the caller's: a mask, or a trainable gate.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from tgonnx import ops
from tgonnx.coupling import Coupling, PlacedSite
from tgonnx.lengths import Length
from tgonnx.ops.gating import Gating
from tgonnx.passes import PassResult
from tgonnx.passes.file_form import give_form_back
from tgonnx.selection import Mask

GATES = "tgonnx.gate_values"  # float32 [units]


@dataclass(frozen=True)
class InsertGates:
    """Gate every site of `coupling`; with a mask, the gates are its constants, else a graph input `GATES`."""

    coupling: Coupling
    mask: Mask | None = None

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        return PassResult(insert_gates(model, self.coupling, self.mask), bool(self.coupling.sites))


def gate(coupling: Coupling, mask: Mask) -> onnx.ModelProto:
    """The gated model as an ordinary inference model: the mask is the initializer `GATES`."""
    mask.check(coupling)
    gated = InsertGates(coupling, mask)(coupling.model.proto).model
    return give_form_back(gated, coupling.model.original)


def insert_gates(proto: onnx.ModelProto, coupling: Coupling, mask: Mask | None) -> onnx.ModelProto:
    """Gate a copy of `proto`, the normal form that `coupling` was made from."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:]
    graph = gs.import_onnx(copy)
    if mask is None:
        values: gs.Tensor = gs.Variable(GATES, np.float32, (coupling.units,))
        graph.inputs.append(values)
    else:
        values = gs.Constant(GATES, mask.open.astype(np.float32))
    _Inserter(graph, coupling, values).run()
    gated = gs.export_onnx(graph)
    result = onnx.ModelProto()
    result.CopyFrom(copy)
    inputs = [value for value in gated.graph.input if value.name == GATES]
    for part, new in (
        (result.graph.node, gated.graph.node),
        (result.graph.initializer, gated.graph.initializer),
    ):
        del part[:]
        part.extend(new)
    result.graph.input.extend(inputs)
    return result


class _Inserter:
    def __init__(self, graph: gs.Graph, coupling: Coupling, values: gs.Tensor) -> None:
        self.graph, self.coupling = graph, coupling
        self.types = coupling.model.first.types
        self.nodes: list[gs.Node] = []
        self.count = 0
        one = gs.Constant("tgonnx.one", np.ones(1, np.float32))
        self.extended = self.emit("Concat", values, one, axis=0)
        self.gathered: dict[tuple[Any, ...], gs.Variable] = {}
        self.gated: dict[tuple[Any, ...], gs.Variable] = {}

    def run(self) -> None:
        sites: dict[int, list[PlacedSite]] = defaultdict(list)
        for site in self.coupling.sites:
            sites[site.node].append(site)
        lengths: dict[int, list[Length]] = defaultdict(list)
        for length in self.coupling.lengths:
            lengths[length.node].append(length)
        for index, node in enumerate(list(self.graph.nodes)):
            here = sites[index]
            for site in here:
                if site.kind == "contract":
                    self._contract(node, site)
            for length in lengths[index]:
                self._rescale(node, length)
            statistics = [site for site in here if site.kind == "normalize"]
            if statistics:
                self._normalize(index, node, statistics)
            else:
                self.nodes.append(node)
        self.graph.nodes.clear()
        self.graph.nodes.extend(self.nodes)

    def emit(
        self, op_type: str, *inputs: gs.Tensor, into: gs.Variable | None = None, **attributes: Any
    ) -> gs.Variable:
        """Append a node and return its output."""
        self.count += 1
        out = gs.Variable(f"tgonnx.gate_{self.count}") if into is None else into
        self.nodes.append(gs.Node(op_type, f"tgonnx.{op_type}_{self.count}", attributes, list(inputs), [out]))
        return out

    def constant(self, value: np.ndarray) -> gs.Constant:
        self.count += 1
        return gs.Constant(f"tgonnx.constant_{self.count}", value)

    def _contract(self, node: gs.Node, site: PlacedSite) -> None:
        operand = node.inputs[site.input]
        name = self.coupling.model.nodes[site.node].inputs[site.input]
        key = (operand.name, site.axis, site.units.tobytes())
        if key not in self.gated:
            gates = self._gates(site, len(self.coupling.labelling.axes[name]), self.types[name])
            self.gated[key] = self.emit("Mul", operand, gates)
        node.inputs[site.input] = self.gated[key]

    def _gates(self, site: PlacedSite, rank: int, elem_type: int) -> gs.Variable:
        """The gates along the site's axis, [1, .., n, .., 1] of `rank` axes, in the operand's type."""
        key = (site.units.tobytes(), site.axis - rank, rank, elem_type)
        if key not in self.gathered:
            indices = np.where(site.units < 0, self.coupling.units, site.units)
            shape = [1] * rank
            shape[site.axis] = len(indices)
            gates = self.emit("Gather", self.extended, self.constant(indices), axis=0)
            gates = self.emit("Reshape", gates, self.constant(np.array(shape, np.int64)))
            if elem_type != onnx.TensorProto.FLOAT:
                gates = self.emit("Cast", gates, to=elem_type)
            self.gathered[key] = gates
        return self.gathered[key]

    def _rescale(self, node: gs.Node, length: Length) -> None:
        """A number that goes with n^a (n - 1)^b: n is how many labels are open."""
        name = self.coupling.model.nodes[length.node].inputs[length.input]
        elem_type, (a, b) = self.types[name], length.exponents
        dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
        units = [self.coupling.units_of(labels) for labels in length.axes]
        sites = [PlacedSite("contract", length.node, length.input, 0, u) for u in units if (u >= 0).any()]
        ratio = self._ratio(sites, [self._gates(site, 1, elem_type) for site in sites], dtype)
        value = node.inputs[length.input]
        if a:
            power = self.emit("Pow", ratio, self.constant(np.array(-a, dtype)))
            value = self.emit("Mul", value, power)
        if b:
            one, full = (self.constant(np.array(n, dtype)) for n in (1, length.full))
            rest = self.emit("Max", self.emit("Sub", self.emit("Div", full, ratio), one), one)
            share = self.emit("Div", rest, self.constant(np.array(max(length.full - 1, 1), dtype)))
            value = self.emit("Mul", value, self.emit("Pow", share, self.constant(np.array(b, dtype))))
        node.inputs[length.input] = value

    def _normalize(self, index: int, node: gs.Node, sites: list[PlacedSite]) -> None:
        view = self.coupling.views[index]
        name = self.coupling.model.nodes[index].inputs[sites[0].input]
        elem_type, rank = self.types[name], len(self.coupling.labelling.axes[name])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
        masks = [self._gates(site, rank, elem_type) for site in sites]
        mask = reduce(lambda a, b: self.emit("Mul", a, b), masks)
        axes = tuple(site.axis for site in sites)
        ratio = partial(self._ratio, sites, masks, dtype)
        gating = Gating(view, node, mask, ratio, axes, self.emit, self.constant, dtype, self.nodes.append)
        entry = ops.gated.get(node.op, node.domain)
        assert entry is not None  # the solver pins what has no gated form
        entry(gating)

    def _ratio(self, sites: list[PlacedSite], masks: list[gs.Variable], dtype: Any) -> gs.Variable:
        """Number of labels over number of open ones, over all sites."""
        parts = []
        for site, gates in zip(sites, masks, strict=True):
            size = self.constant(np.array(len(site.units), dtype))
            row = self.emit("Reshape", gates, self.constant(np.array([1, -1], np.int64)))
            total = self.emit("MatMul", row, self.constant(np.ones((len(site.units), 1), dtype)))
            total = self.emit("Reshape", total, self.constant(np.zeros(0, np.int64)))
            parts.append(self.emit("Div", size, total))
        return reduce(lambda a, b: self.emit("Mul", a, b), parts)
