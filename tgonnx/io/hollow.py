"""Models that share their weights: protobufs cannot, so that a copy of a model is a copy of its weights.

A `Hollow` model has declarations in the place of its large initializers, and says which tensors they are. What rewrites
nodes alone works on the declarations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, numpy_helper

from tgonnx.io.checker import byte_size, is_external, without_initializers

LARGE = 1 << 16  # bytes; what is smaller may be read as a size, an index or a bound, and stays where it is
_PLAIN = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64)


@dataclass(frozen=True)
class Hollow:
    """A model without its large initializers; `stored` has these by name, which may be those of another model."""

    proto: onnx.ModelProto
    stored: Mapping[str, TensorProto]

    @classmethod
    def of(cls, model: onnx.ModelProto | Hollow) -> Hollow:
        """The model itself if it is hollow, or one that holds the tensors of `model`."""
        if isinstance(model, Hollow):
            return model
        proto, stored = without_initializers(model), {}
        for tensor in model.graph.initializer:
            if is_large(tensor):
                proto.graph.initializer.append(declaration(tensor))
                stored[tensor.name] = tensor
            else:
                proto.graph.initializer.append(tensor)
        return cls(proto, stored)

    def filled(self) -> onnx.ModelProto:
        """The whole model, which holds copies of the tensors."""
        model = without_initializers(self.proto)
        for tensor in self.proto.graph.initializer:
            model.graph.initializer.append(self.stored[tensor.name] if is_external(tensor) else tensor)
        return model


def filled(model: onnx.ModelProto | Hollow) -> onnx.ModelProto:
    """The whole model; the model itself if it is that."""
    return model.filled() if isinstance(model, Hollow) else model


def is_large(tensor: TensorProto) -> bool:
    """Whether an initializer is worth sharing, and is stored in a way that can be."""
    if is_external(tensor) or tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return False
    return (tensor.data_type in _PLAIN or tensor.HasField("raw_data")) and byte_size(tensor) > LARGE


def declaration(tensor: TensorProto) -> TensorProto:
    """The tensor without its elements."""
    stub = TensorProto(name=tensor.name, data_type=tensor.data_type, data_location=TensorProto.EXTERNAL)
    stub.dims.extend(tensor.dims)
    if tensor.doc_string:
        stub.doc_string = tensor.doc_string
    return stub


def raw_of(tensor: TensorProto) -> bytes:
    """The elements as bytes, as `raw_data` has them."""
    stored = tensor if tensor.HasField("raw_data") else numpy_helper.from_array(numpy_helper.to_array(tensor))
    raw: bytes = stored.raw_data
    return raw
