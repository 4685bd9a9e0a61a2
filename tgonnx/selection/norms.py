"""How large the weights of each unit are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import FLOAT_TYPES, PARAMETER_TYPES, QUANTISED_TYPES

Array = npt.NDArray[np.float64]


def unit_norms(coupling: Coupling) -> Array:
    """The L2 norm of all weights that go with each unit, per root of their number; quantised ones as real numbers."""
    squares, counts = np.zeros(coupling.units), np.zeros(coupling.units)
    steps = _steps(coupling)
    no_weights = {name for pair in steps.values() for name in pair}
    for name, tensor in coupling.model.initializers.items():
        axes = coupling.labelling.axes.get(name, ())
        if len(axes) < 2 or tensor.data_type not in PARAMETER_TYPES or name in no_weights:
            continue
        units = [coupling.unit_of[labels] for labels in axes]
        if not any((u >= 0).any() for u in units):
            continue
        values = np.square(_real(coupling, tensor, *steps.get(name, ("", ""))))
        for axis, owner in enumerate(units):
            held = owner >= 0
            if held.any():
                summed = values.sum(axis=tuple(i for i in range(values.ndim) if i != axis))
                np.add.at(squares, owner[held], summed[held])
                np.add.at(counts, owner[held], values.size / values.shape[axis])
    return np.sqrt(squares / np.maximum(counts, 1))


def _steps(coupling: Coupling) -> dict[str, tuple[str, str]]:
    """Scale and zero point of quantised weights: in nodes that have both, the next inputs after the weight."""
    stored, found = coupling.model.initializers, {}
    for node in coupling.model.nodes:
        for name, scale, zero in zip(node.inputs, node.inputs[1:], [*node.inputs[2:], ""], strict=False):
            quantised = name in stored and stored[name].data_type in QUANTISED_TYPES
            if quantised and scale in stored and stored[scale].data_type in FLOAT_TYPES:
                found[name] = (scale, zero if zero in stored else "")
    return found


def _real(coupling: Coupling, tensor: onnx.TensorProto, scale: str, zero: str) -> Array:
    """The numbers that a tensor stands for; as they are stored, if no scale is known."""
    values = numpy_helper.to_array(tensor).astype(np.float64)
    if not scale:
        return values
    if zero:
        values = values - _spread(coupling, zero, tensor.name, values.shape)
    return values * _spread(coupling, scale, tensor.name, values.shape)


def _spread(coupling: Coupling, step: str, weight: str, shape: tuple[int, ...]) -> Array:
    """A scale or zero point for all, for each index of the axis that goes with it, or for each block of indices."""
    values = numpy_helper.to_array(coupling.model.initializers[step]).astype(np.float64)
    fitting = [i for i, length in enumerate(shape) if values.shape == (length,)]
    if fitting:
        (ours, *_), unit_of = coupling.labelling.axes[step], coupling.unit_of
        theirs = coupling.labelling.axes[weight]
        axis = max(fitting, key=lambda i: np.array_equal(unit_of[ours], unit_of[theirs[i]]))
        return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    if values.ndim != len(shape):
        return np.asarray(values.mean())  # packed in a way of their own
    for axis, length in enumerate(shape):
        if values.shape[axis] < length:
            values = np.repeat(values, -(-length // values.shape[axis]), axis).take(range(length), axis)
    return values
