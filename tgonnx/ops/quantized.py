"""Integer arithmetic with scales and zero points.

A closed channel contributes nothing where it holds its zero point, so it is set to that instead of to zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from tgonnx.ops.aspects.gating import Gating
from tgonnx.ops.aspects.relations import Choice, Labels, Relation, Site, Term, Tie
from tgonnx.ops.aspects.tables import cost, gated, resize, rule
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Operand, View, same
from tgonnx.ops.convolution import conv_cost, resize_groups, summed_channels
from tgonnx.ops.linear import matmul_cost, matrix_product

BEFORE = "prune the model before it is quantised"


traits("QuantizeLinear", "DequantizeLinear", are=Traits(elementwise=True))
traits("QuantizeLinear", are=Traits(quantizes=True))
traits("DequantizeLinear", are=Traits(advice=BEFORE))

if TYPE_CHECKING:  # heavy, and needed for gates only
    import onnx_graphsurgeon as gs


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(view: View) -> Iterator[Relation]:
    """One scale for all, one for each index of an axis, or one for each block of indices, which stay together."""
    x, axis, block = view.input(0), view.attribute("axis", 1), view.attribute("block_size", 0)
    scales = [o for o in view.inputs[1:3] if o is not None]
    if block:
        for operand in (view.output(), *scales):
            yield from same(x, operand, skip=[axis % x.rank])
        return
    yield from same(x, view.output())
    yield from for_each(x[axis % x.rank] if x.rank else None, scales)


traits("DynamicQuantizeLinear", are=Traits(quantizes=True))


@rule("DynamicQuantizeLinear")
def dynamic_quantize(view: View) -> Iterator[Relation]:
    """The range always includes zero, so zeros in the place of closed channels do not change it."""
    x = view.input(0)
    yield from same(x, view.output())
    for axis, labels in enumerate(x.axes):
        yield Site("contract", 0, axis, labels)


traits("MatMulInteger", are=Traits(weights=(0, 1), rounds=True, advice=BEFORE))
traits("QLinearMatMul", are=Traits(weights=(0, 3), quantizes=True))


@rule("MatMulInteger", "QLinearMatMul")
def matmul(view: View) -> Iterator[Relation]:
    a, b, steps = _operands(view)
    yield from on_data(matrix_product(a, b, view.output()), a, a.rank - 1)
    if a.rank > 1:
        yield from for_each(a[a.rank - 2], steps[0])
    if b.rank > 1:
        yield from for_each(b[b.rank - 1], steps[1])


traits("ConvInteger", are=Traits(weights=(1,), rounds=True, advice=BEFORE))
traits("QLinearConv", are=Traits(weights=(3, 8), quantizes=True))


@rule("ConvInteger", "QLinearConv")
def conv(view: View) -> Iterator[Relation]:
    (x, w, steps), y = _operands(view), view.output()
    yield Tie(x[0], y[0])
    yield Tie(w[0], y[1])
    yield from for_each(y[1], [*steps[1], *view.inputs[8:9]])
    yield from on_data(summed_channels(x[1], y[1], w, view.attribute("group", 1)), x, 1)


def _operands(view: View) -> tuple[Operand, Operand, tuple[list[Operand], list[Operand]]]:
    """Both factors, and the scales and zero points of each."""
    second = 3 if view.op_type.startswith("QLinear") else 1
    places = ((1, 2), (4, 5)) if second == 3 else ((2,), (3,))
    first, other = ([view.input(i) for i in indices if view.has(i)] for indices in places)
    return view.input(0), view.input(second), (first, other)


def for_each(labels: Labels | None, steps: Iterable[Operand | None]) -> Iterator[Relation]:
    """Vectors of scales or zero points have one number for each of `labels`."""
    for operand in filter(None, steps):
        if labels is not None and operand.rank == 1 and len(operand[0]) == len(labels) > 1:
            yield Tie(operand[0], labels)


def on_data(relations: Iterable[Relation], x: Operand, axis: int) -> Iterator[Relation]:
    """The same relations, gates acting on the first operand."""
    site = Site("normalize", 0, axis, x[axis])
    for relation in relations:
        if isinstance(relation, Choice):
            yield Choice(tuple(
                replace(a, relations=tuple(site if isinstance(r, Site) else r for r in a.relations))
                for a in relation.alternatives
            ))  # fmt: skip
        else:
            yield site if isinstance(relation, Site) else relation


@gated("MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv")
def gated_product(g: Gating) -> None:
    gate_quantized(g, 2)


def gate_quantized(g: Gating, zero_point: int) -> None:
    """x becomes (x - zero) * mask + zero, in 32 bits; `zero_point` is the input that holds zero."""
    x = g.node.inputs[0]
    wide = g.emit("Cast", x, to=TensorProto.INT32)
    mask = g.emit("Cast", g.mask, to=TensorProto.INT32)
    zero = _zero_point(g, zero_point)
    if zero is not None:
        wide = g.emit("Sub", wide, zero)
    wide = g.emit("Mul", wide, mask)
    if zero is not None:
        wide = g.emit("Add", wide, zero)
    narrow = g.emit("Cast", wide, to=helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype)))
    g.replace_input(narrow)


def _zero_point(g: Gating, index: int) -> gs.Variable | None:
    if not g.view.has(index):
        return None
    zero = g.emit("Cast", g.node.inputs[index], to=TensorProto.INT32)
    rows = g.view.input(index)
    if rows.rank == 1 and len(rows[0]) > 1:  # one for each row of a matrix
        zero = g.emit("Reshape", zero, g.constant(np.array([-1, 1], np.int64)))
    return zero


resize("ConvInteger", "QLinearConv")(resize_groups)
cost("ConvInteger")(conv_cost)
cost("MatMulInteger", "QLinearMatMul")(matmul_cost)


@cost("QLinearConv")
def qlinear_conv_cost(view: View) -> list[Term]:
    (_, w, _), y = _operands(view), view.output()
    return [(float(np.prod(w.shape[2:]) * np.prod(y.shape[2:])), (y[0], y[1], w[1]))]
