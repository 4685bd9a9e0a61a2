"""The training copy: the graph as it is trained, never the user's.

Handled:
* the opset is raised to what the gradient rules expect, and everything is computed in float32;
* BatchNormalization normalises with the batch's statistics and keeps running averages (`statistics`), unless
  the batch is too small to have any; Dropout does nothing;
* free dimensions of the inputs are bound to the sizes of the batches;
* a gated copy's inputs of gate values, of units and of branches, become a trainable gate on one vector of logits;
* where alternatives are chosen from, the outcome of duels becomes one on the differences of logits.

What trains: weights, biases, scales and tables (`trainable`). Constants of the computation do not: bounds,
exponents, sizes, divisors, factors of the input. A value is trained through reshapes and transposes of its
initializer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tgonnx.data.axes import find_axes
from tgonnx.errors import UnsupportedError
from tgonnx.graph.proto import opset_of, remove_unused
from tgonnx.ops import trainable_gate as gates
from tgonnx.ops.aspects.traits import traits_of
from tgonnx.passes.fold_shapes import fold
from tgonnx.passes.gate_branches import ALL_GATES, BRANCH_GATES
from tgonnx.passes.gate_choices import DUEL_GATES, DUELS, MARGINS
from tgonnx.passes.gate_weights import WEIGHT_GATES
from tgonnx.passes.insert_gates import GATES
from tgonnx.passes.make_differentiable import make_differentiable
from tgonnx.passes.single_precision import single_precision
from tgonnx.runtime.versions import newest_versions

LOGITS = "tgonnx.gates"  # float32 [gates]
SMALLEST_BATCH = 8  # fewer samples say too little about a mean and a variance
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE}


@dataclass(frozen=True)
class TrainingCopy:
    """`weights` are the initializers to train; `statistics` maps running averages to their next values.

    `source` is what it is a copy of, for batches of other shapes.
    """

    model: onnx.ModelProto
    weights: tuple[str, ...]
    statistics: Mapping[str, str]
    source: onnx.ModelProto


def prepare_training(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], gradient: gates.Shape = "one"
) -> TrainingCopy:
    """A training copy of a model in normal form, gated or not, for batches of the given input shapes.

    Raises UnsupportedError if the opset cannot be converted, or if values are quantised.
    """
    for node in proto.graph.node:
        if traits_of(node).quantizes:
            raise UnsupportedError(
                f"node {node.name or node.output[0]} ({node.op_type}): rounding to steps has no slope to learn from; "
                "prune the model before it is quantised, or without data"
            )
    source = proto
    proto = _branches_taken(single_precision(proto), shapes)
    weights = tuple(trainable(proto))
    copy = make_differentiable(proto, *newest_versions())
    _bind(copy.graph, shapes)
    batch = find_axes(proto, shapes).samples(shapes)
    statistics: dict[str, str] = {}
    for index, node in enumerate(copy.graph.node):
        if node.op_type == "Dropout":
            _drop_nothing(node)
        elif node.op_type == "BatchNormalization" and batch >= SMALLEST_BATCH:
            statistics.update(_normalise_by_batch(node, index, copy.graph, statistics))
    inputs = {value.name for value in copy.graph.input}
    if DUEL_GATES in inputs:
        _open_duels(copy, gradient)
    elif inputs & {GATES, BRANCH_GATES, WEIGHT_GATES}:
        _open_gates(copy, gradient)
    remove_unused(copy.graph)
    kept = {tensor.name for tensor in copy.graph.initializer}
    return TrainingCopy(copy, tuple(name for name in weights if name in kept), statistics, source)


def _branches_taken(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """In batches of one shape, an `If` that asks for sizes takes one branch."""
    if all(node.op_type != "If" for node in proto.graph.node):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _bind(copy.graph, shapes)
    return fold(copy, {})[0]


def trainable(proto: onnx.ModelProto) -> Iterator[str]:
    """Float initializers of more than one element that stand where operators keep their weights."""
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    sizes = {
        name: int(np.prod(t.dims, dtype=np.int64)) * (t.data_type in _FLOATS) for name, t in stored.items()
    }
    source = {name: name for name in sizes}
    learned: set[str] = set()  # values that depend on a weight already
    gated = {GATES, BRANCH_GATES, WEIGHT_GATES, DUEL_GATES}  # values made of gates and constants
    seen: set[str] = set()
    for node in proto.graph.node:
        are = traits_of(node)
        if are.rearranges and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
            continue
        if any(name in gated for name in node.input) and all(n in gated or n in source for n in node.input):
            held = [name for name in node.input if name in source] if are.times > 0 else []
            if held:
                source[node.output[0]] = source[held[0]]
            else:
                gated.update(node.output)
            continue
        places = are.weights
        if (are.plus > 0 or are.times > 0) and any(name in learned for name in node.input):
            places = (0, 1)
        found = [source[node.input[i]] for i in places if i < len(node.input) and node.input[i] in source]
        for name in found:
            if sizes[name] > 1 and name not in seen:
                seen.add(name)
                if not are.plus or not _masks(stored[name]):
                    yield name
        if found or any(name in learned for name in node.input):
            learned.update(node.output)


def _masks(tensor: TensorProto) -> bool:
    """Is this added to shut something out, -inf or close to it in places?"""
    return bool(numpy_helper.to_array(tensor).min() < -1e4)


def _bind(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    del graph.value_info[:]
    for value in graph.input:
        if value.name in shapes:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=n) for n in shapes[value.name])
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _drop_nothing(node: NodeProto) -> None:
    """Dropout as it is in inference: its data input, and a mask of ones if somebody reads it."""
    data = node.input[0]
    if len(node.output) > 1 and node.output[1]:
        del node.input[1:]  # without training_mode, the operator keeps everything and returns the mask
        return
    node.op_type = "Identity"
    del node.attribute[:], node.input[:], node.output[1:]
    node.input.append(data)


def _normalise_by_batch(
    node: NodeProto, index: int, graph: onnx.GraphProto, known: Mapping[str, str]
) -> dict[str, str]:
    """Stored statistics of one node alone are carried on; a node with others stays as it is."""
    mean, variance = node.input[3], node.input[4]
    stored = {tensor.name for tensor in graph.initializer}
    if mean not in stored or variance not in stored or {mean, variance} & set(known) or mean == variance:
        return {}
    for attribute in node.attribute:
        if attribute.name == "training_mode":
            node.attribute.remove(attribute)
            break
    node.attribute.append(helper.make_attribute("training_mode", 1))
    del node.output[1:]
    node.output.extend([f"tgonnx.mean_{index}", f"tgonnx.variance_{index}"])
    return {mean: node.output[1], variance: node.output[2]}


def _open_gates(copy: onnx.ModelProto, gradient: gates.Shape) -> None:
    """Replace the input of gate values by a gate on stored logits; of two inputs, the one for units comes first."""
    graph = copy.graph
    values = [v for name in (GATES, BRANCH_GATES, WEIGHT_GATES) for v in graph.input if v.name == name]
    sizes = [value.type.tensor_type.shape.dim[0].dim_value for value in values]
    for value in values:
        graph.input.remove(value)
    vector, start = values[0].name if len(values) == 1 else ALL_GATES, 0
    for size, value in zip(sizes, values, strict=True) if len(values) > 1 else ():
        places = f"{value.name}_places"
        graph.initializer.append(numpy_helper.from_array(np.arange(start, start + size), places))
        graph.node.insert(0, helper.make_node("Gather", [vector, places], [value.name], axis=0))
        start += size
    graph.initializer.append(numpy_helper.from_array(np.full(sum(sizes), 0.5, np.float32), LOGITS))
    graph.node.insert(0, gates.node(LOGITS, vector, gradient))
    _import_gates(copy, gradient)


def _open_duels(copy: onnx.ModelProto, gradient: gates.Shape) -> None:
    """Replace the input of duels by gates on the differences of logits, and let who wins enough be open."""
    graph = copy.graph
    graph.input.remove(next(value for value in graph.input if value.name == DUEL_GATES))
    duels = next(tensor for tensor in graph.initializer if tensor.name == DUELS)
    graph.initializer.append(numpy_helper.from_array(np.full(duels.dims[1], 0.5, np.float32), LOGITS))
    graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), f"{LOGITS}.row"))
    last = next(node for node in graph.node if node.output[0] == BRANCH_GATES)
    last.input[0] = f"{MARGINS}.open"
    place = next(i for i, node in enumerate(graph.node) if node.output[0] == BRANCH_GATES)
    graph.node.insert(place, gates.node(MARGINS, f"{MARGINS}.open", "one"))
    made = [
        helper.make_node("Reshape", [LOGITS, f"{LOGITS}.row"], [f"{LOGITS}.as_row"]),
        helper.make_node("Transpose", [DUELS], [f"{DUELS}.turned"], perm=[1, 0]),
        helper.make_node("MatMul", [f"{LOGITS}.as_row", f"{DUELS}.turned"], [f"{LOGITS}.differences"]),
        gates.node(f"{LOGITS}.differences", DUEL_GATES, gradient),
    ]
    for node in reversed(made):
        graph.node.insert(0, node)
    _import_gates(copy, *dict.fromkeys((gradient, "one")))


def _import_gates(copy: onnx.ModelProto, *shapes: gates.Shape) -> None:
    copy.functions.extend(gates.function(shape, opset_of(copy)) for shape in shapes)
    copy.opset_import.append(helper.make_opsetid(gates.DOMAIN, gates.VERSION))
