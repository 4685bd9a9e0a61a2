"""Select closed activations away: in a gated model, channels whose gates are closed become zero whatever they hold.

A gate multiplies the weight that consumes a channel, and zero times infinity is NaN. Where an overflow arises in a
closed channel, the gated model is not finite though the pruned one is. For verification every activation with closed
channels is therefore replaced by Where(open, activation, 0), and so is what a closed branch adds. Training keeps the
gates on the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.passes import PassResult
from tgonnx.selection.mask import Mask

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True)
class SelectClosed:
    """Zero what `mask` closes, on a copy of a model gated with it."""

    name: ClassVar = "select-closed"
    in_place: ClassVar = False
    keeps_values: ClassVar = False  # zero times infinity becomes zero

    coupling: Coupling
    mask: Mask

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return PassResult(copy, select_closed(copy, self.coupling, self.mask))


def select_closed(model: onnx.ModelProto, coupling: Coupling, mask: Mask) -> bool:
    """Do it in place; says whether anything was closed. Axes of dynamic size are left as they are."""
    kept = np.append(mask.open, True)
    outputs = {value.name for value in model.graph.output}
    branches = {part.value for part in coupling.parts(mask.branches)}
    nodes: list[onnx.NodeProto] = []
    stored: dict[bytes, str] = {}
    changed = False
    for node in model.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            is_open = None if name in outputs else _open(coupling, kept, name)
            is_open = np.zeros((), bool) if name in branches else is_open
            if is_open is None:
                continue
            node.output[index] = f"{name}/unselected"
            names = [_stored(model, stored, array) for array in (is_open, _zero(coupling, name))]
            nodes.append(helper.make_node("Where", [names[0], node.output[index], names[1]], [name]))
            changed = True
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return changed


def _open(coupling: Coupling, kept: np.ndarray, name: str) -> np.ndarray | None:
    """Which elements of a value are open, broadcastable to it; None if it has no closed ones."""
    axes = coupling.labelling.axes.get(name)
    model = coupling.model
    if axes is None or model.first.types.get(name) not in _FLOATS:
        return None
    is_open = np.ones((1,) * len(axes), bool)
    for axis, labels in enumerate(axes):
        here = kept[coupling.units_of(labels)]
        static = model.first.shapes[name][axis] == model.second.shapes.get(name, (0,) * len(axes))[axis]
        if here.all() or not static:
            continue
        shape = [1] * len(axes)
        shape[axis] = len(here)
        is_open = is_open & here.reshape(shape)
    return None if is_open.all() else is_open


def _zero(coupling: Coupling, name: str) -> np.ndarray:
    return np.zeros((), helper.tensor_dtype_to_np_dtype(coupling.model.first.types[name]))


def _stored(model: onnx.ModelProto, stored: dict[bytes, str], array: np.ndarray) -> str:
    """The name of an initializer of this value."""
    key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
    if key not in stored:
        stored[key] = f"tgonnx.select_{len(stored)}"
        model.graph.initializer.append(numpy_helper.from_array(array, stored[key]))
    return stored[key]
