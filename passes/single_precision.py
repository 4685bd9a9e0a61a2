"""A training copy in float32, whatever floating-point type the model has.

Handled: float16, bfloat16 and float64 initializers, constants and casts. Inputs keep their types, so that the
same batches fit, and are cast; outputs become float32. Half precision does not hold small updates of weights, and
few runtimes have kernels of all operators in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.passes import PassResult, perform

OTHERS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_TYPE_ATTRIBUTES = {"to", "dtype", "output_datatype"}


@dataclass(frozen=True)
class SinglePrecision:
    """Compute in float32. Subgraphs are left alone."""

    name: ClassVar = "single-precision"
    in_place: ClassVar = False
    keeps_values: ClassVar = False  # they are rounded otherwise, and outputs change their type

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        result = _in_float32(model)
        return PassResult(result, result is not model)


def single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in float32; the model itself if it does already."""
    return perform(SinglePrecision(), model).model


def _in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    kinds = {t.data_type for t in graph.initializer} | {v.type.tensor_type.elem_type for v in values}
    if not kinds & OTHERS:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        _convert(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _convert(attribute.t)
            elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in OTHERS:
                attribute.i = TensorProto.FLOAT
    for value in (*graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in OTHERS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    given = [v.name for v in graph.input if v.type.tensor_type.elem_type in OTHERS]
    renamed = {name: f"{name}/float32" for name in given}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    casts = [helper.make_node("Cast", [a], [b], name=b, to=TensorProto.FLOAT) for a, b in renamed.items()]
    body = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*casts, *body])
    return copy


def _convert(tensor: TensorProto) -> None:
    if tensor.data_type in OTHERS:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
