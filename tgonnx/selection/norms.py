"""How large the weights of each unit are."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import FLOAT_TYPES, PARAMETER_TYPES, QUANTISED_TYPES
from tgonnx.analysis.uses import Uses
from tgonnx.graph.proto import attribute_of
from tgonnx.ops.aspects.traits import traits_of

Array = npt.NDArray[np.float64]


def unit_norms(coupling: Coupling, power: int = 2) -> Array:
    """The L2 norm of all weights that go with each unit, per root of their number; quantised ones as real numbers.

    A BatchNormalization that alone reads what a weight puts out is folded into it. With `power` 1, it is the mean
    magnitude.
    """
    squares, counts = np.zeros(coupling.units), np.zeros(coupling.units)
    steps, factors = _steps(coupling), _folded(coupling)
    no_weights = {name for pair in steps.values() for name in pair}
    for name, tensor in coupling.model.initializers.items():
        axes = coupling.labelling.axes.get(name, ())
        if len(axes) < 2 or tensor.data_type not in PARAMETER_TYPES or name in no_weights:
            continue
        units = [coupling.unit_of[labels] for labels in axes]
        if not any((u >= 0).any() for u in units):
            continue
        values = np.abs(_real(coupling, tensor, *steps.get(name, ("", ""))) * factors.get(name, 1.0)) ** power
        for axis, owner in enumerate(units):
            held = owner >= 0
            if held.any():
                summed = values.sum(axis=tuple(i for i in range(values.ndim) if i != axis))
                np.add.at(squares, owner[held], summed[held])
                np.add.at(counts, owner[held], values.size / values.shape[axis])
    means: Array = (squares / np.maximum(counts, 1)) ** (1 / power)
    return means


def _folded(coupling: Coupling) -> dict[str, Array]:
    """What the elements of a weight are multiplied by in a BatchNormalization behind its only use."""
    uses = Uses(coupling.model.proto)
    factors = {}
    for name, (use, *others) in uses.by_weight.items():
        readers = uses.readers[use.output]
        are = traits_of(readers[0]) if len(readers) == 1 else None
        if others or are is None or not are.statistics:
            continue
        places = are.weights[0], are.statistics[1]
        scale, variance = (uses.stored.get(readers[0].input[i]) for i in places)
        shape = tuple(uses.stored[name].dims)
        if scale is None or variance is None or use.output in uses.outputs:
            continue
        epsilon = attribute_of(readers[0], "epsilon", 1e-5)
        spread = np.sqrt(np.maximum(numpy_helper.to_array(variance).astype(np.float64), 0) + epsilon)
        folded = numpy_helper.to_array(scale).astype(np.float64) / spread
        elements = use.matrix(np.arange(math.prod(shape)).reshape(shape))  # [groups, terms, outputs]
        if elements.shape[0] * elements.shape[2] != folded.size:
            continue
        values = np.ones(math.prod(shape))
        values[elements] = folded.reshape(elements.shape[0], 1, -1)
        factors[name] = values.reshape(shape)
    return factors


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


def unit_distances(coupling: Coupling) -> Array:
    """The sum of the distances of each unit's weights from those of the other units of its group, [units].

    Weights of which units of a group have unlike numbers are left out.
    """
    squares = [np.zeros((group.size, group.size)) for group in coupling.groups]
    factors = _folded(coupling)
    for axis, units in coupling.cut_axes:
        tensor = coupling.model.initializers[axis.value]
        if tensor.data_type not in FLOAT_TYPES or len(tensor.dims) < 2:
            continue
        weight = numpy_helper.to_array(tensor).astype(np.float64) * factors.get(axis.value, 1.0)
        rows = np.moveaxis(weight, axis.axis, 0).reshape(len(units), -1)
        for number in np.unique(coupling.group_of[units[units >= 0]]):
            group = coupling.groups[number]
            places = [np.flatnonzero(units == unit) for unit in group.units]
            if len({len(found) for found in places}) != 1 or not len(places[0]):
                continue
            vectors = rows[np.stack(places)].reshape(group.size, -1)
            norms = np.square(vectors).sum(1)
            squares[number] += norms[:, None] + norms - 2 * vectors @ vectors.T
    scores = np.empty(coupling.units)
    for group, found in zip(coupling.groups, squares, strict=True):
        scores[group.units] = np.sqrt(np.maximum(found, 0)).sum(1)
    return scores
