"""Models of any size, and the forms in which files come: value_info, weights as inputs, sparse constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from random_builder import Builder
from random_graphs import IMAGE_BLOCKS, group_norm, random_model, shuffle
from random_sizes import sized_image_model, sized_sequence_model

OPSETS = (11, 13, 17, 18, 21)
ANY_SIZE = tuple(block for block in IMAGE_BLOCKS if block not in (group_norm, shuffle))  # those are for 8 x 8


def wild_model(seed: int, opset: int = 17, length: int = 3) -> onnx.ModelProto:
    """A model drawn from `seed`, mostly with free axes, in one of the forms that exporters leave it in."""
    rng = np.random.default_rng([seed, 1])
    if rng.random() < 0.2:
        model = random_model(seed, opset, length)
    else:
        model = _sized(np.random.default_rng(seed), opset, length)
    for form, chance in FORMS:
        if rng.random() < chance:
            form(model, rng)
    return model


def _sized(rng: np.random.Generator, opset: int, length: int) -> onnx.ModelProto:
    b = Builder(rng, opset, bool(rng.random() < 0.5), True)
    image = rng.random() < 0.6
    y, rank = sized_image_model(b, length, ANY_SIZE) if image else sized_sequence_model(b, length)
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * rank)]
    graph = helper.make_graph(b.nodes, "random", b.inputs, outputs, b.initializers)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10)


def hints(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """value_info with the names of the free axes."""
    del model.graph.value_info[:]
    model.graph.value_info.extend(onnx.shape_inference.infer_shapes(model).graph.value_info)


def no_output_shape(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Outputs that state their type alone, which the format allows."""
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def stale_hints(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """value_info of the sizes that the model once had, before its axes were made free by hand.

    A runtime that believes them runs at those sizes only.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if not dim.HasField("dim_value"):
                dim.dim_value = 3 if axis == 0 else (40, 56)[axis - 2] if len(dims) == 4 else 16
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    model.graph.value_info.extend(onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph.value_info)


def weights_as_inputs(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Initializers listed among the inputs: all of them, as before IR version 4, or some weights.

    Not where sizes of a Resize are cut from a shape by them: onnx's data propagation takes the result for empty.
    """
    if any(node.op_type == "Resize" for node in model.graph.node):
        return
    old, known = rng.random() < 0.4, {value.name for value in model.graph.input}
    if old and model.opset_import[0].version < 21:
        model.ir_version = 3
    for tensor in model.graph.initializer:
        weight = tensor.data_type == TensorProto.FLOAT and rng.random() < 0.5
        if tensor.name not in known and (old or weight):
            model.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )


def sparse_weights(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Some matrices, mostly zeros, as sparse initializers or as sparse constants."""
    inputs = {value.name for value in model.graph.input}
    for tensor in list(model.graph.initializer):
        if len(tensor.dims) != 2 or tensor.data_type != TensorProto.FLOAT or tensor.name in inputs:
            continue
        if rng.random() < 0.5:
            continue
        values = numpy_helper.to_array(tensor).ravel().copy()
        places = np.sort(rng.choice(values.size, max(1, values.size // 2), replace=False))
        kept = numpy_helper.from_array(values[places], tensor.name)
        where = numpy_helper.from_array(places.astype(np.int64), "")
        sparse = helper.make_sparse_tensor(kept, where, list(tensor.dims))
        model.graph.initializer.remove(tensor)
        if model.ir_version < 8 or rng.random() < 0.5:
            node = helper.make_node("Constant", [], [tensor.name], sparse_value=sparse)
            model.graph.node.insert(0, node)
        else:
            model.graph.sparse_initializer.append(sparse)


Form = Callable[[onnx.ModelProto, np.random.Generator], None]
FORMS: tuple[tuple[Form, float], ...] = (
    (hints, 0.4),
    (stale_hints, 0.1),
    (no_output_shape, 0.05),
    (sparse_weights, 0.1),
    (weights_as_inputs, 0.15),
)
