"""What a model declares of its inputs."""

from __future__ import annotations

import re

import numpy as np
import onnx
from onnx import TensorProto, helper


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must feed: those without an initializer as default."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    defaults |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in defaults]


# What exporters write into `dim_param` for want of a name; two axes that have it in common are not one axis.
_PLACEHOLDER = re.compile(
    r"[\W_]*|-?\d+|none|null|nan|unk|unknown|undef|undefined|dyn|dynamic|any", re.IGNORECASE
)


def is_placeholder(dim_param: str) -> bool:
    """Does this `dim_param` say only that a size is unknown ("?", "", "-1", "None"), and name no axis?"""
    return _PLACEHOLDER.fullmatch(dim_param.strip()) is not None


def fixed_size(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    """The size that a declared axis is fixed to, or None: old exporters write -1 or 0 for an open one."""
    return int(dim.dim_value) if dim.dim_value > 0 else None


def open_sizes(value: onnx.ValueInfoProto) -> bool:
    """Leave out the declared sizes that fix nothing, in place. Says whether there were any."""
    for dim in (unknown := _unknown_sizes(value)):
        dim.ClearField("dim_value")
    return bool(unknown)


def _unknown_sizes(value: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    dims = value.type.tensor_type.shape.dim
    return [dim for dim in dims if dim.HasField("dim_value") and fixed_size(dim) is None]


def describe_type(value: onnx.ValueInfoProto) -> str:
    """A value's type and axes, as `float32[N, 3, 224, 224]`; `?` is an axis without name and size."""
    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value")).removesuffix("_type")
    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.STRING:
        kind = "string"
    elif tensor.elem_type == TensorProto.UNDEFINED:
        kind = "?"
    else:
        kind = str(np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    if not tensor.HasField("shape"):
        return kind
    axes = (str(fixed_size(dim) or dim.dim_param or "?") for dim in tensor.shape.dim)
    return f"{kind}[{', '.join(axes)}]"
