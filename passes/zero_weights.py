"""Store zeros where a mask keeps no single weight; shapes and types stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from tgonnx.graph.proto import with_values
from tgonnx.passes import PassResult, perform
from tgonnx.selection.mask import Mask
from tgonnx.selection.mask_file import Elements


@dataclass(frozen=True)
class ZeroWeights:
    """Store zeros where weights are not `kept`."""

    name: ClassVar = "zero-weights"
    in_place: ClassVar = False

    kept: Elements

    @property
    def keeps_values(self) -> bool:
        """With everything kept."""
        return all(part.all() for part in self.kept.values())

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for tensor in copy.graph.initializer:
            if tensor.name in self.kept:
                values = np.where(self.kept[tensor.name], stored := numpy_helper.to_array(tensor), 0)
                if not np.array_equal(values, stored):
                    doc = tensor.doc_string
                    tensor.CopyFrom(numpy_helper.from_array(values.astype(stored.dtype), tensor.name))
                    tensor.doc_string = doc
        return PassResult(copy, copy != model)


def zero_weights(proto: onnx.ModelProto, kept: Elements) -> onnx.ModelProto:
    """A copy with zeros where weights are not kept."""
    return perform(ZeroWeights(kept), proto).model


def pruned_of(trained: onnx.ModelProto, proto: onnx.ModelProto, mask: Mask) -> onnx.ModelProto:
    """`proto` with the weights of what trained on; that itself where it has no gates."""
    if not mask.weights:
        return trained
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in trained.graph.initializer}
    return zero_weights(with_values(proto, values), mask.weights)
