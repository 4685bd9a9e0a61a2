"""Units that do nothing: closing them changes no output, whatever the input.

Sparse training leaves them (network slimming sets the scale and shift of BatchNormalization to zero, soft filter
pruning whole filters). A unit does nothing if, wherever something sums over it, what comes in is zero or the weight is.

Which channels are zero, or constant, is found node by node. Each node is run alone, on several draws: what is known of
its inputs stands there as it is, all else is drawn at random, whatever the network could give it. A channel that comes
out the same in all draws is constant: sums and products of random numbers do not agree by chance, and draws of
several magnitudes and both signs are on both sides of every threshold.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.errors import TgonnxError
from tgonnx.graph.types import Array
from tgonnx.runtime.noise import read_by
from tgonnx.runtime.sessions import open_session

DRAWS = (1e-2, 1.0, 1e2, 1e4)  # magnitudes
MOST = 1 << 22  # elements of a value that is looked at

Open = NDArray[np.bool_]


def dead_units(coupling: Coupling) -> Open:
    """True for each unit that can be closed without changing what the model computes, [units]."""
    dead = np.zeros(coupling.units, bool)
    if not _has_zeros(coupling):
        return dead
    constants = _Constants(coupling)
    while True:  # what only dead units read is dead, too
        found = _idle(coupling, constants.run())
        if not (found & ~dead).any():
            return dead
        dead |= found
        constants.clear(dead)


def _idle(coupling: Coupling, constants: _Constants) -> Open:
    """The units of which only zeros are summed."""
    live, read = np.zeros(coupling.units + 1, bool), np.zeros(coupling.units + 1, bool)
    for site in coupling.sites:
        nothing: Open = np.zeros(len(site.units), bool)
        if site.kind == "contract":
            for name in coupling.model.nodes[site.node].inputs:  # what is summed, and what it meets
                for axis, labels in enumerate(coupling.labelling.axes.get(name, ())):
                    if np.array_equal(coupling.units_of(labels), site.units):
                        nothing = nothing | constants.zeros(name, axis, len(labels))
        read[site.units] = True
        live[site.units[~nothing]] = True
    return read[:-1] & ~live[:-1]


def _has_zeros(coupling: Coupling) -> bool:
    """Whether a slice of some weight along an axis that can be cut is zero: without one, nothing is dead."""
    for axis, units in coupling.cut_axes:
        array = numpy_helper.to_array(coupling.model.initializers[axis.value])
        if array.dtype.kind == "f" and (_empty(array, axis.axis) & (units >= 0)).any():
            return True
    return False


def _empty(array: Array, axis: int) -> Open:
    """Which slices along an axis hold nothing but zeros."""
    found: Open = ~np.any(array, axis=tuple(i for i in range(array.ndim) if i != axis))
    return found


Slices = Mapping[int, tuple[Open, Array]]  # by axis: which are constant, and what they are


class _Constants:
    """Walks the nodes of a model, with the shapes that analysis counts with."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.model = coupling, coupling.model
        self.known: dict[str, Slices] = {}
        self.stored = {name: numpy_helper.to_array(t) for name, t in self.model.initializers.items()}

    def run(self) -> _Constants:
        for node in self.model.nodes:
            if any(name in self.known or name in self.stored for name in node.inputs):
                self._visit(node.proto)
        return self

    def zeros(self, name: str, axis: int, count: int) -> Open:
        """Which slices of a value are zero on every input."""
        if name in self.stored:
            array = self.stored[name]
            return _empty(array, axis) if array.dtype.kind == "f" else np.zeros(count, bool)
        if axis not in self.known.get(name, {}):
            return np.zeros(count, bool)
        constant, values = self.known[name][axis]
        found: Open = constant & (values == 0)
        return found

    def clear(self, dead: Open) -> None:
        """Let the weights of dead units be zero: what reads them reads nothing."""
        gone = np.append(dead, False)
        for axis, units in self.coupling.cut_axes:
            array = np.array(self.stored[axis.value])
            if array.dtype.kind == "f":
                np.moveaxis(array, axis.axis, 0)[gone[units]] = 0
                self.stored[axis.value] = array

    def _visit(self, node: onnx.NodeProto) -> None:
        """Learn which slices of a node's outputs are constant. What cannot be run alone tells nothing."""
        outputs = [name for name in node.output if name in self.model.shapes]
        reads = sorted(read_by(node))
        shapes = self.model.shapes
        if not outputs or any(name not in self.stored and name not in shapes for name in reads):
            return
        if any(
            np.prod(shapes[name], dtype=np.float64) > MOST for name in (*outputs, *reads) if name in shapes
        ):
            return
        try:
            draws = [self._draw(node, reads, scale, number) for number, scale in enumerate(DRAWS)]
        except TgonnxError:  # no runtime has it, or not for such inputs
            return
        for name in outputs:
            found = [draw[name] for draw in draws]
            if found[0].dtype.kind == "f" and found[0].ndim and found[0].size:
                self._keep(name, np.stack(found))

    def _draw(self, node: onnx.NodeProto, reads: list[str], scale: float, seed: int) -> dict[str, Array]:
        """The outputs of the node alone, on inputs of a magnitude. Raises TgonnxError if it does not run."""
        rng = np.random.default_rng(seed)
        feeds = {name: self._value(name, scale, rng) for name in reads if name not in self.stored}
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in feeds.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
            [numpy_helper.from_array(self.stored[name], name) for name in reads if name in self.stored],
        )
        proto = self.model.proto
        piece = helper.make_model(
            graph, opset_imports=proto.opset_import, ir_version=proto.ir_version, functions=proto.functions
        )
        return open_session(piece, 1, optimised=False).run(feeds)

    def _value(self, name: str, scale: float, rng: np.random.Generator) -> Array:
        """Something that a value may be, with what is known of it in its place. Raises TgonnxError for a value of
        integers of which nothing is known."""
        exact = self.model.first.known.get(name)
        if exact is not None:
            return exact
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(self.model.first.types[name]))
        if kind.kind != "f":
            raise TgonnxError(f"{name} may be anything")
        value = (scale * rng.standard_normal(self.model.shapes[name])).astype(kind)
        for axis, (constant, values) in self.known.get(name, {}).items():
            turned = np.moveaxis(value, axis, 0)  # a view
            turned[constant] = values[constant].reshape(-1, *[1] * (value.ndim - 1))
        return value

    def _keep(self, name: str, draws: Array) -> None:
        """Remember which slices are one number in all draws [draws, *shape]."""
        slices = {}
        for axis in range(draws.ndim - 1):
            rows = np.moveaxis(draws, axis + 1, 0).reshape(draws.shape[axis + 1], -1)
            constant = (rows == rows[:, :1]).all(1)
            if constant.any():
                slices[axis] = (constant, rows[:, 0])
        if slices:
            self.known[name] = slices
