"""Convolutions in onnxruntime's blocked layout.

onnxruntime picks its fast blocked kernels only for constant weights; in training weights are values, so the
plain kernels would run. This pass asks for the blocked ones by name (domain com.microsoft.nchwc), reordering
the weight in the graph and the activations around it. Measured on a ResNet-20 step (width 16, 28 x 28, batch
128, two cores): ort-training 591 -> 385 ms, portable on onnxruntime 1.31 485 -> 347 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx.inliner
from onnx import ModelProto, NodeProto, helper

from tgonnx.analysis.inference import types_of
from tgonnx.graph.builder import Emitter, attributes_of
from tgonnx.ops.aspects.row import Types
from tgonnx.passes import PassResult, perform
from tgonnx.runtime.versions import BLOCKED as DOMAIN


@dataclass(frozen=True)
class BlockConvolutions:
    """Use blocked kernels for every plain 2-D convolution whose channel counts are multiples of `block`."""

    name: ClassVar = "block-convolutions"
    in_place: ClassVar = False
    keeps_values: ClassVar = True

    block: int

    def __call__(self, model: ModelProto) -> PassResult:
        result = _blocked(model, self.block) if self.block else model
        return PassResult(result, result != model)


def block_convolutions(model: ModelProto, block: int) -> ModelProto:
    """A copy with blocked kernels; the model itself where there are none (`block` is 0)."""
    return perform(BlockConvolutions(block), model).model


def _blocked(model: ModelProto, block: int) -> ModelProto:
    model = onnx.inliner.inline_local_functions(model)
    types = types_of(model)
    emitter = Emitter("blocked/")
    for node in model.graph.node:
        shape = types.shapes.get(node.input[1]) if node.op_type == "Conv" and not node.domain else None
        if shape is None or not _fits(node, shape, block, types):
            emitter.nodes.append(node)
            continue
        m, c, kh, kw = (int(d or 0) for d in shape)
        weight = emitter.value(node.input[1]).reshape([m // block, block, c // block, block, kh, kw])
        weight = weight.transpose([0, 2, 4, 5, 3, 1]).reshape([m, c, kh, kw])
        x = emitter.op("ReorderInput", emitter.value(node.input[0]), domain=DOMAIN)
        bias = emitter.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        attributes = attributes_of(node)
        y = emitter.op("Conv", x, weight, *([bias] if bias else []), domain=DOMAIN, **attributes)
        emitter.op("ReorderOutput", y, domain=DOMAIN, channels=m)
        emitter.nodes[-1].output[0] = node.output[0]
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in emitter.nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if DOMAIN not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


def _fits(node: NodeProto, shape: tuple[Any, ...], block: int, types: Types) -> bool:
    if len(shape) != 4 or not all(isinstance(d, int) for d in shape):
        return False
    attributes = attributes_of(node)
    plain = attributes.get("group", 1) == 1 and types.elem_types.get(node.input[1]) == 1
    return bool(plain and shape[0] % block == 0 and shape[1] % block == 0)
