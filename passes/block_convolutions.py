"""Convolutions in onnxruntime's blocked layout.

onnxruntime picks its fast blocked kernels only for constant weights; in training weights are values, so the
plain kernels would run. This pass asks for the blocked ones by name (domain com.microsoft.nchwc), reordering
the weight in the graph and the activations around it. Measured on a ResNet-20 step (width 16, 28 x 28, batch
128, two cores): ort-training 591 -> 385 ms, portable on onnxruntime 1.31 485 -> 347 ms.

Handled:
* convolutions over all channels, and depthwise ones (16 samples, 960 channels, 3 x 3 places: 1.8 -> 0.13 ms);
* channels that fill no block, as pruning leaves them, are padded with zeros inside the graph where that is faster
  (64 samples, 3 x 3, 14 x 14 places: 40 channels 3.2 -> 2.8 ms, 24 channels 1.5 -> 1.4, but 20 channels 1.2 -> 1.3);
  fewer input channels than a block has are read as they are (12 channels 0.6 -> 0.34);
* a product over channels alone (1 x 1) is fast as it is, and reordering what goes in and out costs more unless the
  image is small: 16 -> 96 channels of 48 x 48 places 1.0 ms plain, 2.3 in blocks; 160 -> 960 of 3 x 3 0.36 and 0.24;
* a weight is reordered by one small transpose and a gather of whole blocks. One transpose of six axes takes longer: for
  512 x 512 x 3 x 3 elements 7.4 ms instead of 2.9. Where the weight was mirrored and transposed before, for the
  gradient of an input, that is done by the same gather: 13.2 -> 1.8 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, helper

from tgonnx.analysis.inference import types_of
from tgonnx.graph.builder import Array, Emitter, Value, attributes_of
from tgonnx.graph.proto import captured_names
from tgonnx.ops.aspects.row import Types, static_shape
from tgonnx.passes import PassResult, perform
from tgonnx.runtime.versions import BLOCKED as DOMAIN

QUARTER = 4  # channels that reordering takes at a time
SMALL = 64  # places of an image for which 1 x 1 convolutions are faster in blocks
WASTE = (
    1.1,
    1.8,
    3.0,
)  # how much more may be computed with zeros: 1 x 1, larger kernels, those of few input channels


@dataclass(frozen=True)
class BlockConvolutions:
    """Use blocked kernels, of `block` channels, for the 2-D convolutions that they are faster for."""

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
        form = _form(node, types, block)
        if form is None:
            emitter.nodes.append(node)
            continue
        weight, x = weights.reordered(node.input[1], form), emitter.value(node.input[0])
        if not form.few:
            channels = form.m if form.depthwise else form.c
            x = emitter.op("ReorderInput", _padded(x, (0, -channels % QUARTER, 0, 0)), domain=DOMAIN)
        bias = [_padded(emitter.value(name), (form.more_m,)) for name in node.input[2:] if name]
        attributes = attributes_of(node)
        if form.depthwise:
            attributes["group"] = form.m + form.more_m
        y = emitter.op("Conv", x, weight, *bias, domain=DOMAIN, **attributes)
        emitter.op("ReorderOutput", y, domain=DOMAIN, channels=form.m)
        emitter.nodes[-1].output[0] = node.output[0]
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in weights.without_passed_by(model.graph)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if DOMAIN not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


@dataclass(frozen=True)
class _Form:
    """How a convolution is done in blocks: its weight is [m, c, *kernel], with so many more channels of zeros.

    `few` input channels fill no block: they are read as they are.
    """

    m: int
    c: int
    kernel: tuple[int, int]
    depthwise: bool
    few: bool
    block: int

    @property
    def more_m(self) -> int:
        return -self.m % self.block

    @property
    def more_c(self) -> int:
        return 0 if self.few or self.depthwise else -self.c % self.block

    @property
    def waste(self) -> float:
        """How much more is computed with zeros."""
        return (self.m + self.more_m) * (self.c + self.more_c) / (self.m * self.c)

    def pays(self, places: int | None) -> bool:
        """Is it faster than the plain kernel? `places` are those of the output's image, if that is known."""
        if self.depthwise:
            return True
        if self.kernel == (1, 1):
            return not self.few and places is not None and places <= SMALL and self.waste <= WASTE[0]
        return self.waste <= WASTE[2 if self.few else 1]


def _form(node: NodeProto, types: Types, block: int) -> _Form | None:
    """Of a convolution that is faster in blocks."""
    if node.op_type != "Conv" or node.domain or types.elem_types.get(node.input[1]) != 1:
        return None
    shape = static_shape(types.shapes.get(node.input[1]))
    if shape is None or len(shape) != 4 or 0 in shape:
        return None
    m, c, *kernel = shape
    groups = attributes_of(node).get("group", 1)
    depthwise = c == 1 and m == groups and groups > 1
    if groups > 1 and not depthwise:
        return None
    form = _Form(m, c, (kernel[0], kernel[1]), depthwise, c < block and not depthwise, block)
    space = static_shape(types.shapes.get(node.output[0], (None,))[2:])
    return form if form.pays(space[0] * space[1] if space else None) else None


def _padded(value: Value, more: Sequence[int]) -> Value:
    """With so many more zeros at the end of each axis."""
    return (
        value.emitter.op("Pad", value, value.emitter.ints([0] * len(more) + list(more)))
        if any(more)
        else value
    )


@dataclass
class _Weights:
    """Writes weights in blocks: [M / b, C / b, kernel, b of C, b of M]; [M / b, C, kernel, b] of few or one channel."""

    emitter: Emitter
    types: Types
    block: int
    made_by: Mapping[str, NodeProto]
    passed_by: list[str] = field(default_factory=list)  # what mirrored weights were, the last first

    def without_passed_by(self, graph: GraphProto) -> list[NodeProto]:
        """The nodes without those that made what nobody reads any more: onnxruntime would run them."""
        nodes = list(self.emitter.nodes)
        kept = captured_names(graph) | {value.name for value in graph.output}
        for name in dict.fromkeys(self.passed_by):
            if name not in kept and not any(name in node.input for node in nodes):
                nodes.remove(self.made_by[name])
        return nodes

    def reordered(self, name: str, form: _Form) -> Value:
        m, c, b, size = (
            form.m + form.more_m,
            form.c + form.more_c,
            self.block,
            form.kernel[0] * form.kernel[1],
        )
        shape = [m, c, *form.kernel]
        source, taps = self._mirrored(name, form.kernel)
        if source is None or form.few or form.depthwise:
            weight = _padded(self.emitter.value(name), (form.more_m, form.more_c, 0, 0))
            return self._rows(weight, m, self._blocks_of_input(c, size, form)).reshape(shape)
        # `source` is [c, m, kernel]: its rows are those of c, which end as the blocks' outer and inner axis
        weight = _padded(self.emitter.value(source), (form.more_c, form.more_m, 0, 0))
        columns = weight.reshape([c * m // b, b, size]).transpose([0, 2, 1])
        order = taps + size * np.arange(m // b).reshape(-1, 1)  # [blocks of m, taps]
        order = order[:, :, None] + size * (m // b) * np.arange(b)  # [.., .., b of c]
        rows = self._gathered(columns.reshape([c // b, b * (m // b) * size, b]), order)
        return rows.reshape([c // b, m // b, -1]).transpose([1, 0, 2]).reshape(shape)

    def _blocks_of_input(self, c: int, size: int, form: _Form) -> Array:
        """The places of [c, kernel] in the order that the kernels read."""
        places = np.arange(c * size)
        if form.few or form.depthwise:
            return places
        return places.reshape(c // self.block, self.block, size).transpose(0, 2, 1).ravel()

    def _rows(self, weight: Value, m: int, order: Array) -> Value:
        """[m, rest] as [m / b, rest in this order, b]."""
        columns = weight.reshape([m // self.block, self.block, order.size]).transpose([0, 2, 1])
        return columns if np.array_equal(order, np.arange(order.size)) else self._gathered(columns, order)

    def _gathered(self, columns: Value, order: Array) -> Value:
        return self.emitter.op("Gather", columns, self.emitter.ints(order.ravel().tolist()), axis=1)

    def _mirrored(self, name: str, kernel: tuple[int, int]) -> tuple[str | None, Array]:
        """What is mirrored along the kernel and then has its first two axes swapped to make this, and the new order."""
        taps = np.arange(kernel[0] * kernel[1]).reshape(kernel)
        swap = self.made_by.get(name)
        if swap is None or swap.op_type != "Transpose" or attributes_of(swap).get("perm") != [1, 0, 2, 3]:
            return None, taps.ravel()
        self.passed_by.append(name)
        before = self.made_by.get(swap.input[0])
        axes = self._reversed(before) if before is not None and before.op_type == "Slice" else ()
        if before is None or not axes:
            return swap.input[0], taps.ravel()
        self.passed_by.append(swap.input[0])
        return before.input[0], np.flip(taps, tuple(axis - 2 for axis in axes)).ravel()

    def _reversed(self, node: NodeProto) -> Sequence[int]:
        """The kernel's axes that a Slice reverses, if that is all that it does."""
        known = [self.types.constants.get(name) for name in node.input[1:]]
        if len(known) != 4 or any(each is None for each in known):
            return ()
        starts, ends, axes, steps = (np.asarray(each) for each in known)
        whole = (starts == -1).all() and (steps == -1).all() and (ends < -(2**31)).all()
        return [int(axis) for axis in axes] if whole and set(axes.tolist()) <= {2, 3} else ()
