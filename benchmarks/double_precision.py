"""The slope of a training graph's loss in float64, by the ONNX reference implementation: slow and exact.

For losses so steep and curved that in float32 no step is both small enough to be straight and large enough to be
seen.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from tgonnx.engines.gradient_check import moving
from tgonnx.engines.spec import StepSpec
from tgonnx.graph.builder import Array

STEP = 1e-8  # of the root mean square of each parameter


def slope(spec: StepSpec, gradients: Mapping[str, Array], feeds: Mapping[str, Array]) -> tuple[float, float]:
    """What the gradients say and what the loss does, per unit of the step that `gradient_check` takes."""
    model, directions, t = moving(spec.model, gradients)
    doubled = as_double(model)
    names = {value.name for value in doubled.graph.input}
    given = {n: v.astype(np.float64) if v.dtype == np.float32 else v for n, v in feeds.items() if n in names}
    evaluator = ReferenceEvaluator(doubled)
    ends = []
    for sign in (1, -1):
        given[t] = np.full(len(directions), sign * STEP)
        ends.append(float(evaluator.run([spec.model.graph.output[0].name], given)[0]))
    predicted = sum(float(np.sum(gradients[n] * d, dtype=np.float64)) for n, d in directions.items())
    return predicted, (ends[0] - ends[1]) / (2 * STEP)


def as_double(model: ModelProto) -> ModelProto:
    """A copy that computes in float64 what the model computes in float32."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for tensor in copy.graph.initializer:
        _widen(tensor)
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return copy


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
