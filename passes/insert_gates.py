"""Insert gates: the model in which closed units contribute nothing, all shapes being as they were.

Handled:
* `contract` sites: the operand that is summed (a weight where there is one) is multiplied by the gates of its axis;
* `normalize` sites: the node is replaced by its form over the open labels only (the operator's `gated` entry);
* stored numbers that stand for the length of an axis become that of the open labels (`tgonnx.analysis.lengths`);
* an axis of channels times space, whose length is not the same for all inputs (a group of GroupNormalization as
  exporters write it): the gates of its channels are repeated as often as the value at hand wants it.

All gates are one vector, the graph value `GATES`, one number per unit; each site gathers its own, and pinned labels
read a constant 1. What makes the vector is the caller's: a mask, or a trainable gate.

Only new nodes are built with onnx-graphsurgeon. A node of the model is at most given other inputs, in a copy of its
protobuf: a round trip through another representation would lose what that does not know (sparse tensors,
metadata, parts of subgraphs).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper
from onnx_graphsurgeon.logger import G_LOGGER

from tgonnx import ops
from tgonnx.analysis.coupling import Coupling, PlacedSite
from tgonnx.analysis.lengths import Length
from tgonnx.errors import UnsupportedError
from tgonnx.graph.algebra import Size
from tgonnx.graph.proto import attribute_of, captured_names, fresh_name
from tgonnx.io.hollow import Hollow
from tgonnx.ops.aspects.gating import Gates, Gating
from tgonnx.passes import PassResult, perform, watching
from tgonnx.passes.file_form import give_form_back
from tgonnx.passes.gate_branches import gate_branches
from tgonnx.passes.gate_weights import gate_weights
from tgonnx.selection.mask import Mask

# It prints to stdout, where results go; what is wrong is raised, too
G_LOGGER.severity = G_LOGGER.CRITICAL + 1
GATES = "tgonnx.gate_values"  # float32 [units]


@dataclass(frozen=True)
class InsertGates:
    """Gate every site of `coupling`; with a mask, the gates are its constants, else a graph input `GATES`."""

    name: ClassVar = "insert-gates"
    in_place: ClassVar = False

    coupling: Coupling
    mask: Mask | None = None

    @property
    def keeps_values(self) -> bool:
        """With all gates open."""
        return self.mask is not None and bool(self.mask.open.all())

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        return PassResult(_gated(model, self.coupling, self.mask), True)


def gate(coupling: Coupling, mask: Mask) -> onnx.ModelProto:
    """The gated model as an ordinary inference model: the mask is the initializer `GATES`."""
    mask.check(coupling)
    gated = insert_gates(coupling.model.proto, coupling, mask)
    return give_form_back(gated, coupling.model.outline)


def gate_sharing(
    coupling: Coupling, mask: Mask, more: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda gated: gated
) -> Hollow:
    """The gated model in normal form, with the weights of the coupling's model: for what compares, and writes nothing.

    `more` is what to do with its nodes afterwards. While passes are watched, weights are copied: they are run.
    """
    mask.check(coupling)
    if watching():
        return Hollow.of(more(insert_gates(coupling.model.proto, coupling, mask)))
    normal = Hollow.of(coupling.model.proto)
    return Hollow(more(insert_gates(normal.proto, coupling, mask)), normal.stored)


def insert_gates(proto: onnx.ModelProto, coupling: Coupling, mask: Mask | None) -> onnx.ModelProto:
    """Gate a copy of `proto`, the normal form that `coupling` was made from.

    Branches that a mask removes, and weights that get zeros, are closed by gates of their own. Raises UnsupportedError
    if the gates are to be an input of a model that is gated already.
    """
    gated = perform(InsertGates(coupling, mask), proto).model
    if mask is not None and mask.weights:
        gated = gate_weights(gated, coupling, mask.weights)
    return gate_branches(gated, coupling, mask.branches) if mask is not None and mask.branches else gated


def _gated(proto: onnx.ModelProto, coupling: Coupling, mask: Mask | None) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    del graph.value_info[:]
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    vector = GATES if mask is None else fresh_name(GATES, taken)
    if mask is not None:
        graph.initializer.append(numpy_helper.from_array(mask.open.astype(np.float32), vector))
    elif GATES not in taken:
        graph.input.append(helper.make_tensor_value_info(GATES, TensorProto.FLOAT, [coupling.units]))
    else:
        raise UnsupportedError(
            f"{coupling.model.source}: the model holds gates already ({GATES!r}); train the model it was made from"
        )
    nodes, constants = _Inserter(proto.graph, coupling, vector, taken).run()
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    return result


class _Inserter:
    """Builds new nodes; a node of the model takes part as a stand-in without attributes."""

    def __init__(self, graph: onnx.GraphProto, coupling: Coupling, vector: str, taken: set[str]) -> None:
        self.graph, self.coupling = graph, coupling
        self.types = coupling.model.first.types
        self.nodes: list[gs.Node | onnx.NodeProto] = []
        self.stand_ins: dict[int, onnx.NodeProto] = {}  # id of a stand-in -> what it stands for
        self.taken = taken
        self.count = 0
        values = gs.Variable(vector, np.float32, (coupling.units,))
        self.extended = self.emit("Concat", values, self.constant(np.ones(1, np.float32)), axis=0)
        self.gathered: dict[tuple[Any, ...], gs.Variable] = {}
        stored = {tensor.name for tensor in graph.initializer}
        self.turned = {  # weights that are stored the other way round
            node.output[0]: node
            for node in graph.node
            if node.op_type == "Transpose" and node.input[0] in stored and node.attribute
        }
        self.gated: dict[tuple[Any, ...], gs.Variable] = {}

    def run(self) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
        """The nodes of the gated graph, and the constants that it has on top of the model's."""
        sites: dict[int, list[PlacedSite]] = defaultdict(list)
        for site in self.coupling.sites:
            sites[site.node].append(site)
        lengths: dict[int, list[Length]] = defaultdict(list)
        for length in self.coupling.lengths:
            lengths[length.node].append(length)
        for index, proto in enumerate(self.graph.node):
            if not sites[index] and not lengths[index]:
                self.nodes.append(proto)
                continue
            node = self._stand_in(proto)
            for site in sites[index]:
                if site.kind == "contract":
                    self._contract(node, site)
            for length in lengths[index]:
                self._rescale(node, length)
            statistics = [site for site in sites[index] if site.kind == "normalize"]
            if statistics:
                self._normalize(index, node, statistics)
            else:
                self.nodes.append(node)
        new = [node for node in self.nodes if isinstance(node, gs.Node)]
        built = gs.export_onnx(gs.Graph(new, name="gates")).graph
        exported = iter(built.node)
        nodes = [
            node if isinstance(node, onnx.NodeProto) else self._written(node, next(exported))
            for node in self.nodes
        ]
        read = {name for node in nodes for name in node.input} | captured_names(self.graph)
        read |= {value.name for value in self.graph.output}
        left = [node for node in nodes if node.output[0] in read or node.output[0] not in self.turned]
        return left, list(built.initializer)

    def _stand_in(self, proto: onnx.NodeProto) -> gs.Node:
        inputs, outputs = ([gs.Variable(name) for name in names] for names in (proto.input, proto.output))
        node = gs.Node(proto.op_type, inputs=inputs, outputs=outputs, domain=proto.domain or None)
        self.stand_ins[id(node)] = proto
        return node

    def _written(self, node: gs.Node, exported: onnx.NodeProto) -> onnx.NodeProto:
        """A new node as it was exported; the model's own with its inputs and outputs as they are now."""
        if id(node) not in self.stand_ins:
            return exported
        proto = onnx.NodeProto()
        proto.CopyFrom(self.stand_ins[id(node)])
        proto.input[:], proto.output[:] = exported.input, exported.output
        return proto

    def _fresh(self, stem: str) -> str:
        self.count += 1
        while f"tgonnx.{stem}_{self.count}" in self.taken:
            self.count += 1
        return f"tgonnx.{stem}_{self.count}"

    def emit(
        self, op_type: str, *inputs: gs.Tensor, into: gs.Variable | None = None, **attributes: Any
    ) -> gs.Variable:
        """Append a node and return its output."""
        out = gs.Variable(self._fresh("gate")) if into is None else into
        self.nodes.append(gs.Node(op_type, self._fresh(op_type), attributes, list(inputs), [out]))
        return out

    def constant(self, value: np.ndarray) -> gs.Constant:
        return gs.Constant(self._fresh("constant"), value)

    def keep(self, node: gs.Node) -> None:
        """Append a node of the model as it is."""
        self.nodes.append(node)

    def _contract(self, node: gs.Node, site: PlacedSite) -> None:
        operand = node.inputs[site.input]
        name = self.coupling.model.nodes[site.node].inputs[site.input]
        key = (operand.name, site.axis, site.units.tobytes())
        if key not in self.gated:
            turned = self.turned.get(operand.name)
            if turned is None:
                self.gated[key] = self.emit("Mul", operand, self._gates_of(site, name, operand))
            else:  # onnxruntime transposes a matrix while it multiplies, if nothing stands between
                perm = list(attribute_of(turned, "perm", []))
                source, rank = gs.Variable(turned.input[0]), len(perm)
                gates = self._gates(site.units, perm[site.axis], rank, self.types[name])
                self.gated[key] = self.emit("Transpose", self.emit("Mul", source, gates), perm=perm)
        node.inputs[site.input] = self.gated[key]

    def _gates(self, units: npt.NDArray[np.int64], axis: int, rank: int, elem_type: int) -> gs.Variable:
        """The gates of these units along an axis, [1, .., n, .., 1] of `rank` axes, in the operand's type."""
        key = (units.tobytes(), axis - rank, rank, elem_type)
        if key not in self.gathered:
            indices = np.where(units < 0, self.coupling.units, units)
            shape = [1] * rank
            shape[axis] = len(indices)
            gates = self.emit("Gather", self.extended, self.constant(indices), axis=0)
            gates = self.emit("Reshape", gates, self.constant(np.array(shape, np.int64)))
            if elem_type != TensorProto.FLOAT:
                gates = self.emit("Cast", gates, to=elem_type)
            self.gathered[key] = gates
        return self.gathered[key]

    def _gates_of(self, site: PlacedSite, name: str, operand: gs.Tensor) -> gs.Variable:
        """The gates along the site's axis of the value `name`, which is `operand` here."""
        rank, elem_type = len(self.coupling.labelling.axes[name]), self.types[name]
        channels, order = self._channels(site, name)
        if not order:
            return self._gates(channels, site.axis, rank, elem_type)
        key = (operand.name, site.axis, site.units.tobytes(), order)
        if key not in self.gathered:
            # [channels, 1] or [1, channels] is spread over the rest of the axis, which the value at hand has
            count = self.constant(np.array([len(channels)], np.int64))
            axis = self.constant(np.array([site.axis], np.int64))
            length = self.emit("Gather", self.emit("Shape", operand), axis, axis=0)
            sizes = [count, self.emit("Div", length, count)]
            row = self._gates(channels, order.index("channels"), 2, elem_type)
            sizes = sizes if order[0] == "channels" else sizes[::-1]
            spread = self.emit("Expand", row, self.emit("Concat", *sizes, axis=0))
            shape = [1] * rank
            shape[site.axis] = -1
            self.gathered[key] = self.emit("Reshape", spread, self.constant(np.array(shape, np.int64)))
        return self.gathered[key]

    def _channels(self, site: PlacedSite, name: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
        """The units along an axis without what is repeated where its length is not fixed, and in which order."""
        dims = self.coupling.model.symbols.dims.get(name)
        size = None if dims is None else dims[site.axis]
        return without_repeats(site.units, size) if isinstance(size, Size) else (site.units, ())

    def _rescale(self, node: gs.Node, length: Length) -> None:
        """A number that goes with n^a (n - 1)^b: n is how many labels are open."""
        name = self.coupling.model.nodes[length.node].inputs[length.input]
        elem_type, (a, b) = self.types[name], length.exponents
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        units = [self.coupling.units_of(labels) for labels in length.axes]
        ratio = self._ratio([u for u in units if (u >= 0).any()], elem_type)
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
        elem_type = self.types[name]
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        masks = [self._gates_of(site, name, node.inputs[site.input]) for site in sites]
        mask = reduce(lambda a, b: self.emit("Mul", a, b), masks)
        channels = [self._channels(site, name) for site in sites]
        ratio = partial(self._ratio, [units for units, _ in channels], elem_type)
        spread = any(order for _, order in channels)
        gates = Gates(tuple(site.axis for site in sites), mask, ratio, spread)
        entry = ops.gated.get(node.op, node.domain)
        assert entry is not None  # the solver pins what has no gated form
        entry(Gating(view, node, gates, dtype, self))

    def _ratio(self, axes: list[npt.NDArray[np.int64]], elem_type: int) -> gs.Variable:
        """Number of labels over number of open ones, over all axes, of each of which these are the units."""
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        parts = []
        for units in axes:
            row = self._gates(units, 1, 2, elem_type)
            total = self.emit("MatMul", row, self.constant(np.ones((len(units), 1), dtype)))
            total = self.emit("Reshape", total, self.constant(np.zeros(0, np.int64)))
            parts.append(self.emit("Div", self.constant(np.array(len(units), dtype)), total))
        return reduce(lambda a, b: self.emit("Mul", a, b), parts)


def without_repeats(
    units: npt.NDArray[np.int64], size: Size
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """What is repeated along an axis of this length, each element by itself ("channels", "rest") or all in a row.

    What the terms of its length have in common is fixed, the rest is not. Where that does not fit (an axis that came
    through what sizes are not followed through), as many elements are one as are always alike. All are left otherwise.
    """
    alike = int(np.gcd.reduce(np.flatnonzero(np.diff(units)) + 1, initial=len(units)))
    counted = math.gcd(*(factor for _, factor in size.terms))
    for fixed in (counted, len(units) // alike):
        if len(units) % fixed or (fixed != counted and alike == 1):
            continue
        grid = units.reshape(fixed, -1)
        if (grid == grid[:, :1]).all():
            return grid[:, 0], ("channels", "rest")
        grid = units.reshape(-1, fixed)
        if (grid == grid[0]).all():
            return grid[0], ("rest", "channels")
    return units, ()
