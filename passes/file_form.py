"""What is a matter of the file and not of the network: put aside on the way in, given back on the way out.

Handled:
* initializers that are graph inputs, too (all of IR version 3, and `keep_initializers_as_inputs`): such an input is
  a default that a caller could override. Here it is a weight, and no input; what is written lists it again, as long
  as it exists;
* sizes below one in the shapes of inputs, outputs and hints, by which old exporters say that a size is unknown;
* sparse initializers and `sparse_value` constants, which are dense in normal form (up to `MAX_DENSE` elements;
  larger ones stay, and pin what they touch) and sparse again in what is written; others that are mostly zero, where
  that is asked for;
* IR versions below 4, and the standard domain by its other name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import ModelProto, SparseTensorProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tgonnx.graph.declared import open_sizes
from tgonnx.graph.proto import MAX_DENSE, dense
from tgonnx.passes import PassResult
from tgonnx.passes.normalize import sparse_constants

FIRST_IR_WITH_CONSTANTS = 4  # before it, every initializer is an input
FIRST_IR_WITH_SPARSE = 6
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)  # that runtimes make dense again


@dataclass(frozen=True)
class PutFormAside:
    """Bring a model, in place, to the form that analysis, surgery and training know."""

    name: ClassVar = "put-form-aside"
    in_place: ClassVar = True
    keeps_values: ClassVar = True

    def __call__(self, model: ModelProto) -> PassResult:
        renamed = [node for node in model.graph.node if node.domain == "ai.onnx"]
        for node in renamed:
            node.domain = ""
        before = (model.ir_version, len(model.graph.input), len(model.graph.sparse_initializer))
        model.ir_version = max(model.ir_version, FIRST_IR_WITH_CONSTANTS)
        _unlist(model.graph)
        _densify(model.graph)
        declared = (*model.graph.input, *model.graph.output, *model.graph.value_info)
        opened = [open_sizes(value) for value in declared]
        after = (model.ir_version, len(model.graph.input), len(model.graph.sparse_initializer))
        return PassResult(model, before != after or bool(renamed) or any(opened))


def give_form_back(model: ModelProto, original: ModelProto, sparse: bool = False) -> ModelProto:
    """`model`, changed in place: declared as `original` is, of which it is a version in normal form.

    Inputs that a caller must feed, and outputs, are declared exactly as they were; no other input is required. With
    `sparse`, every weight is stored sparsely that takes fewer bytes so, where the IR version has that.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    left, weights = _weights(graph), _weights(original.graph)
    inputs = [
        _resized(value, stored.get(value.name))
        for value in original.graph.input
        if value.name not in weights or value.name in left
    ]
    if original.ir_version < FIRST_IR_WITH_CONSTANTS:
        known = {value.name for value in inputs}
        inputs += [_declaration(tensor) for name, tensor in stored.items() if name not in known]
    outputs = {value.name: value for value in original.graph.output}
    _replace(graph.input, inputs)
    _replace(graph.output, [outputs.get(value.name, value) for value in graph.output])
    model.ir_version = original.ir_version
    if model.ir_version >= FIRST_IR_WITH_SPARSE:
        _sparsify(
            graph,
            {t.values.name for t in original.graph.sparse_initializer} | sparse_constants(original),
            sparse,
        )
    return model


def _weights(graph: onnx.GraphProto) -> set[str]:
    return {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}


def _unlist(graph: onnx.GraphProto) -> None:
    weights = _weights(graph)
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in weights:
            del graph.input[index]


def _densify(graph: onnx.GraphProto) -> None:
    for index in reversed(range(len(graph.sparse_initializer))):
        tensor = graph.sparse_initializer[index]
        if int(np.prod(tensor.dims, dtype=np.float64)) <= MAX_DENSE:
            graph.initializer.append(dense(tensor, tensor.values.name))
            del graph.sparse_initializer[index]


def _sparsify(graph: onnx.GraphProto, names: set[str], others: bool) -> None:
    """Store these sparsely again, unless fewer than half of their elements are zero now; others if that is smaller."""
    for index in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[index]
        listed = tensor.name in names
        if not listed and not (others and tensor.data_type in FLOATS and math.prod(tensor.dims) <= MAX_DENSE):
            continue
        values = numpy_helper.to_array(tensor)
        places = np.flatnonzero(values)
        if not 0 < 2 * len(places) <= values.size:
            continue
        made = _sparse(values, places, tensor.name)
        if listed or made.ByteSize() < tensor.ByteSize():
            graph.sparse_initializer.add().CopyFrom(made)
            del graph.initializer[index]


def _sparse(values: np.ndarray, places: np.ndarray, name: str) -> SparseTensorProto:
    held = numpy_helper.from_array(np.ascontiguousarray(values.reshape(-1)[places]), name)
    indices = numpy_helper.from_array(places.astype(np.int64), f"{name}_indices")
    return helper.make_sparse_tensor(held, indices, list(values.shape))


def _resized(value: ValueInfoProto, tensor: TensorProto | None) -> ValueInfoProto:
    """The declaration of a weight with the sizes that it has now; other inputs as they are."""
    if tensor is None:
        return value
    now = _copy(value)
    shape = now.type.tensor_type.shape
    if [d.dim_value for d in shape.dim] != list(tensor.dims):
        del shape.dim[:]
        shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in tensor.dims)
    return now


def _declaration(tensor: TensorProto) -> ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def _replace(part: Any, values: list[ValueInfoProto]) -> None:
    copies = [_copy(value) for value in values]
    del part[:]
    part.extend(copies)


def _copy(value: ValueInfoProto) -> ValueInfoProto:
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    return copy
