"""Twins of a model: the same function, rounded otherwise. How far they are apart is the noise of verification.

A correct cut sums the same numbers in another order. What that may change is what the last bits of weights and inputs
may change (backward error), so the twins' weights are off by that, each in its own type. Values that nothing reads, and
names, have no effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

from tgonnx.graph.proto import attribute_of, captured_names
from tgonnx.io.checker import without_initializers
from tgonnx.io.hollow import declaration, is_large
from tgonnx.ops.aspects.traits import traits_of
from tgonnx.runtime.measure import Array, epsilon
from tgonnx.runtime.shelf import Shelf, array_of, locate

LAST_BITS = 2.0  # units in the last place
_PART = 1 << 16  # elements that are changed at a time
HALF_STEP = 2.0**-9  # of a value in 8 bits
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_WHOLE = (*range(2, 8), TensorProto.STRING, TensorProto.BOOL, 12, 13)
_COARSE_CASTS = (*range(2, 8), TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.BFLOAT16, *range(12, 24))


TWIN = "tgonnx.twin"  # the shelf of a twin's weights


def twin(
    model: onnx.ModelProto, seed: int, relative: float | None = None, shelf: Shelf | None = None
) -> onnx.ModelProto:
    """A copy whose floating weights are off by up to `LAST_BITS`, or by up to a share of `relative` each.

    Large ones go to the `shelf`, if there is one, which must be opened as `TWIN`.
    """
    rng = np.random.default_rng(seed)
    exact = settings(model)
    copy = without_initializers(model)
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS and tensor.name not in exact:
            tensor = _shaken_tensor(tensor, rng, relative)
            if shelf is not None and is_large(tensor):
                place, tensor = shelf.place(tensor.raw_data), declaration(tensor)
                locate(tensor, TWIN, place)
        copy.graph.initializer.append(tensor)
    for node in copy.graph.node:
        if node.op_type == "Constant" and node.output[0] not in exact:
            for item in node.attribute:
                if item.name == "value" and item.t.data_type in _FLOATS:
                    item.t.CopyFrom(_shaken_tensor(item.t, rng, relative))
    return copy


def tempered(model: onnx.ModelProto, most: float = 1.0) -> onnx.ModelProto:
    """A copy whose floating weights are cut to -most..most: another function, of which the same rewriting is right."""
    copy = without_initializers(model)
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS:
            array = numpy_helper.to_array(tensor)
            cut = np.clip(array.astype(np.float64), -most, most).astype(array.dtype)
            tensor = numpy_helper.from_array(cut, tensor.name)
        copy.graph.initializer.append(tensor)
    return copy


def settings(model: onnx.ModelProto) -> set[str]:
    """The values that say how to compute rather than with what: scales of images, exponents, bounds."""
    found = {name for node in model.graph.node if traits_of(node).set_up for name in node.input[1:]} - {""}
    for node in reversed(model.graph.node):
        if found & set(node.output):
            found |= set(node.input) - {""}
    return found


def _shaken_tensor(
    tensor: onnx.TensorProto, rng: np.random.Generator, relative: float | None
) -> onnx.TensorProto:
    return numpy_helper.from_array(shaken(array_of(tensor), rng, relative), tensor.name)


def shaken_feeds(feeds: Mapping[str, Array], seed: int, relative: float | None = None) -> dict[str, Array]:
    """Inputs whose floats are off likewise."""
    rng = np.random.default_rng(seed)
    return {
        name: shaken(value, rng, relative) if _is_float(value) else value for name, value in feeds.items()
    }


def shaken(array: Array, rng: np.random.Generator, relative: float | None) -> Array:
    """`array` with each element off by a random share of its last bits, or of `relative`; zeros stay."""
    step = LAST_BITS * epsilon(array.dtype) if relative is None else max(relative, epsilon(array.dtype))
    off = np.empty(array.size, array.dtype)
    flat = array.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(
            0, array.size, _PART
        ):  # in double precision all at once would be many times as large
            part = flat[start : start + _PART].astype(np.float64)
            off[start : start + _PART] = (part * (1 + step * rng.uniform(-1, 1, part.size))).astype(
                array.dtype
            )
    return off.reshape(array.shape)


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def stepping_outputs(model: onnx.ModelProto) -> set[str]:
    """The outputs on whose way numbers round to steps: by quantisation, comparison, casts to coarser types."""
    whole = _whole_numbers(model)
    steps = {
        name
        for node in model.graph.node
        if _rounds(node) and not all(read in whole for read in node.input)
        for name in node.output
    }
    return reached_from(model, steps) & {value.name for value in model.graph.output}


def _rounds(node: onnx.NodeProto) -> bool:
    are = traits_of(node)
    return are.rounds or are.quantizes or (are.converts and attribute_of(node, "to") in _COARSE_CASTS)


def _whole_numbers(model: onnx.ModelProto) -> set[str]:
    """The values that are known to be integers: nothing about them is rounded."""
    slim = without_initializers(model)
    known = {value.name for value in slim.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in known:
            slim.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    graph = onnx.shape_inference.infer_shapes(slim).graph
    values = (*graph.input, *graph.value_info)
    return {value.name for value in values if value.type.tensor_type.elem_type in _WHOLE}


def reached_from(model: onnx.ModelProto, start: Iterable[str]) -> set[str]:
    """The values that depend on the values of `start`, themselves among them; on sizes alone does not count.

    Nor does what is multiplied by a stored zero, as exporters are made to keep an input that nothing needs.
    """
    reached, zeros = set(start), _zeros(model)
    for node in model.graph.node:
        if traits_of(node).reads_sizes or (traits_of(node).times > 0 and zeros & set(node.input)):
            continue
        if read_by(node) & reached:
            reached |= set(node.output) - {""}
    return reached


def _zeros(model: onnx.ModelProto) -> set[str]:
    """The stored values with which something is multiplied, and which hold nothing but zeros."""
    factors = {name for node in model.graph.node if traits_of(node).times > 0 for name in node.input}
    stored = [(tensor.name, tensor) for tensor in model.graph.initializer]
    for node in model.graph.node:
        if node.op_type == "Constant":
            stored += [(node.output[0], item.t) for item in node.attribute if item.name == "value"]
    return {name for name, tensor in stored if name in factors and not array_of(tensor).any()}


def read_by(node: onnx.NodeProto) -> set[str]:
    """The values that a node reads, in its subgraphs too."""
    reads = set(node.input)
    if any(item.type in (item.GRAPH, item.GRAPHS) for item in node.attribute):
        reads |= captured_names(helper.make_graph([node], "", [], []))
    return reads - {""}
