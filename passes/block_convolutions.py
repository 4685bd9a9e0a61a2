"""Convolutions in onnxruntime's blocked layout.

onnxruntime picks its fast blocked kernels only for constant weights; in training weights are values, so the
plain kernels would run. This pass asks for the blocked ones by name (domain com.microsoft.nchwc), reordering
the weight in the graph and the activations around it. Measured on a ResNet-20 step (width 16, 28 x 28, batch
128, two cores): ort-training 591 -> 385 ms, portable on onnxruntime 1.31 485 -> 347 ms.

Handled:
* convolutions over all channels, and depthwise ones (16 samples, 960 channels, 3 x 3 places: 1.8 -> 0.13 ms);
* a weight is reordered by one small transpose and a gather of whole blocks. One transpose of six axes takes longer: for
  512 x 512 x 3 x 3 elements 7.4 ms instead of 2.9. Where the weight was mirrored and transposed before, for the
  gradient of an input, that is done by the same gather: 13.2 -> 1.8 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx.inliner
from onnx import ModelProto, NodeProto, helper

from tgonnx.analysis.inference import types_of
from tgonnx.graph.builder import Array, Emitter, Value, attributes_of
from tgonnx.ops.aspects.row import Types, static_shape
from tgonnx.passes import PassResult, perform
from tgonnx.runtime.versions import BLOCKED as DOMAIN


@dataclass(frozen=True)
class BlockConvolutions:
    """Use blocked kernels for every 2-D convolution whose channel counts are multiples of `block`."""

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
    weights = _Weights(
        emitter, types, block, {name: node for node in model.graph.node for name in node.output}
    )
    for node in model.graph.node:
        shape = _fitting(node, types, block)
        if shape is None:
            emitter.nodes.append(node)
            continue
        weight = weights.reordered(node.input[1], shape)
        x = emitter.op("ReorderInput", emitter.value(node.input[0]), domain=DOMAIN)
        bias = emitter.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        attributes = attributes_of(node)
        y = emitter.op("Conv", x, weight, *([bias] if bias else []), domain=DOMAIN, **attributes)
        emitter.op("ReorderOutput", y, domain=DOMAIN, channels=shape[0])
        emitter.nodes[-1].output[0] = node.output[0]
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in emitter.nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if DOMAIN not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


def _fitting(node: NodeProto, types: Types, block: int) -> tuple[int, ...] | None:
    """The shape of the weight of a convolution that has a blocked kernel."""
    if node.op_type != "Conv" or node.domain or types.elem_types.get(node.input[1]) != 1:
        return None
    shape = static_shape(types.shapes.get(node.input[1]))
    if shape is None or len(shape) != 4 or shape[0] % block:
        return None
    groups = attributes_of(node).get("group", 1)
    whole = groups == 1 and shape[1] % block == 0
    return shape if whole or (shape[1] == 1 and shape[0] == groups) else None


@dataclass
class _Weights:
    """Writes weights in blocks: [M / b, C / b, kernel, b of C, b of M], or [M / b, kernel, b] for a depthwise one."""

    emitter: Emitter
    types: Types
    block: int
    made_by: Mapping[str, NodeProto]

    def reordered(self, name: str, shape: tuple[int, ...]) -> Value:
        m, c, kh, kw = shape
        b, taps = self.block, np.arange(kh * kw)
        if c == 1:
            return self._rows(self.emitter.value(name), m, taps).reshape(shape)
        source, taps = self._mirrored(name, (kh, kw))
        if source is None:
            order = taps + kh * kw * np.arange(c).reshape(
                c // b, b, 1
            )  # [blocks, b, taps]: places of [c, taps]
            return self._rows(self.emitter.value(name), m, order.transpose(0, 2, 1)).reshape(shape)
        # `source` is [c, m, kernel]: its rows are those of c, which end as the blocks' outer and inner axis
        columns = self.emitter.value(source).reshape([c * m // b, b, kh * kw]).transpose([0, 2, 1])
        order = taps + kh * kw * np.arange(m // b).reshape(-1, 1)  # [blocks of m, taps]
        order = order[:, :, None] + kh * kw * (m // b) * np.arange(b)  # [.., .., b of c]
        rows = self._gathered(columns.reshape([c // b, b * (m // b) * kh * kw, b]), order)
        return rows.reshape([c // b, m // b, -1]).transpose([1, 0, 2]).reshape(shape)

    def _rows(self, weight: Value, m: int, order: Array) -> Value:
        """[m, rest] as [m / b, rest in this order, b]."""
        columns = weight.reshape([m // self.block, self.block, order.size]).transpose([0, 2, 1])
        return (
            columns
            if np.array_equal(order.ravel(), np.arange(order.size))
            else self._gathered(columns, order)
        )

    def _gathered(self, columns: Value, order: Array) -> Value:
        return self.emitter.op("Gather", columns, self.emitter.ints(order.ravel().tolist()), axis=1)

    def _mirrored(self, name: str, kernel: tuple[int, int]) -> tuple[str | None, Array]:
        """What is mirrored along the kernel and then has its first two axes swapped to make this, and the new order."""
        taps = np.arange(kernel[0] * kernel[1]).reshape(kernel)
        swap = self.made_by.get(name)
        if swap is None or swap.op_type != "Transpose" or attributes_of(swap).get("perm") != [1, 0, 2, 3]:
            return None, taps.ravel()
        before = self.made_by.get(swap.input[0])
        axes = self._reversed(before) if before is not None and before.op_type == "Slice" else ()
        if before is None or not axes:
            return swap.input[0], taps.ravel()
        return before.input[0], np.flip(taps, tuple(axis - 2 for axis in axes)).ravel()

    def _reversed(self, node: NodeProto) -> Sequence[int]:
        """The kernel's axes that a Slice reverses, if that is all that it does."""
        known = [self.types.constants.get(name) for name in node.input[1:]]
        if len(known) != 4 or any(each is None for each in known):
            return ()
        starts, ends, axes, steps = (np.asarray(each) for each in known)
        whole = (starts == -1).all() and (steps == -1).all() and (ends < -(2**31)).all()
        return [int(axis) for axis in axes] if whole and set(axes.tolist()) <= {2, 3} else ()
