"""Quantised operators of onnxruntime (com.microsoft): what its static quantisation writes with QuantFormat.QOperator.

Each is a standard operator between DequantizeLinear and QuantizeLinear, and is defined so (`ort_fused.py` says what
definitions are for). A quantised operand takes three inputs: numbers, scale, zero point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper

from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.relations import Relation
from tgonnx.ops.aspects.row import Outputs, Row
from tgonnx.ops.aspects.tables import cost, definition, gated, rule
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import View, broadcast, same
from tgonnx.ops.joining import joined
from tgonnx.ops.linear import gemm, gemm_cost
from tgonnx.ops.ort_fused import MICROSOFT
from tgonnx.ops.quantized import BEFORE, for_each, gated_product, on_data, quantize
from tgonnx.ops.spatial import pool

UNARY = {"QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu"}
BINARY = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
# named as onnxruntime names what rounds its result to the steps of a scale
OTHERS = """
    QGemm QLinearConcat QLinearConv QLinearReduceMean QLinearSoftmax QLinearWhere QuantizeBFP QuantizeWithOrder
""".split()
POOLS = {"QLinearAveragePool": "AveragePool", "QLinearGlobalAveragePool": "GlobalAveragePool"}


def _optional(row: Row, index: int) -> Value | None:
    return row.input(index) if row.has(index) else None


def _real(row: Row, first: int, axis: int = 1) -> Value:
    """The quantised operand whose numbers are input `first`."""
    return row.op(
        "DequantizeLinear", row.input(first), row.input(first + 1), _optional(row, first + 2), axis=axis
    )


def _quantised(row: Row, y: Value, scale: int) -> Outputs:
    return [row.op("QuantizeLinear", y, row.input(scale), _optional(row, scale + 1))]


def _around(plain: str, operands: int) -> Callable[[Row, int], Outputs]:
    """The standard operator of as many quantised operands, with the same attributes."""

    def define(row: Row, opset: int) -> Outputs:
        if row.attribute("channels_last", 0):
            raise row.unsupported("channels come last")
        attributes = {k: v for k, v in row.attributes.items() if k != "channels_last"}
        y = row.op(plain, *(_real(row, 3 * i) for i in range(operands)), **attributes)
        return _quantised(row, y, 3 * operands)

    return define


for _table, _operands in ((UNARY | POOLS, 1), (BINARY, 2)):
    for _op_type, _plain in _table.items():
        definition(_op_type, domain=MICROSOFT)(_around(_plain, _operands))


traits(*UNARY, *BINARY, *POOLS, *OTHERS, "QuantizeLinear", are=Traits(quantizes=True), domain=MICROSOFT)
traits("QuantizeLinear", "DequantizeLinear", are=Traits(elementwise=True), domain=MICROSOFT)
traits("DequantizeLinear", are=Traits(advice=BEFORE), domain=MICROSOFT)


rule("QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)(
    quantize
)  # 16- and 4-bit numbers in older opsets


def _steps(row: Row) -> tuple[Value, Value | None]:
    """Scale and zero point, of one number or of one for each index of an axis."""
    rank, axis, steps = row.rank(row.x), row.axis(1), []
    for index in range(1, 3):
        step = _optional(row, index)
        if step is not None and row.rank(step) == 1:
            step = step.reshape([-1 if i == axis else 1 for i in range(rank)])
        steps.append(step)
    assert steps[0] is not None
    return steps[0], steps[1]


@definition("DequantizeLinear", domain=MICROSOFT)
def dequantize_definition(row: Row, opset: int) -> Outputs:
    scale, zero = _steps(row)
    x = row.x.cast_like(scale)
    return [(x if zero is None else x - zero.cast_like(scale)) * scale]


@definition("QuantizeLinear", domain=MICROSOFT)
def quantize_definition(row: Row, opset: int) -> Outputs:
    scale, zero = _steps(row)
    y = row.op("Round", row.x / scale)
    if zero is None:
        return [row.op("Clip", y, row.like(0.0), row.like(255.0)).cast(TensorProto.UINT8)]
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(zero.elem_type))
    y = row.op("Clip", y + zero.cast_like(row.x), row.like(float(limits.min)), row.like(float(limits.max)))
    return [y.cast(zero.elem_type)]


@rule(*UNARY, domain=MICROSOFT)
def unary(view: View) -> Iterator[Relation]:
    yield from same(view.input(0), view.output())


@rule(*BINARY, domain=MICROSOFT)
def binary(view: View) -> Iterator[Relation]:
    yield from broadcast([view.input(0), view.input(3)], view.output())


@rule(*POOLS, domain=MICROSOFT)
def channels_first_pool(view: View) -> Iterator[Relation]:
    if not view.attribute("channels_last", 0):
        yield from pool(view)


@rule("QLinearSoftmax", domain=MICROSOFT)
def softmax(view: View) -> Iterator[Relation]:
    x = view.input(0)
    axis = view.attribute("axis", -1) % x.rank
    normalised = [axis] if view.attribute("opset") >= 13 else range(axis, x.rank)
    yield from same(x, view.output(), skip=normalised)


@definition("QLinearSoftmax", domain=MICROSOFT)
def softmax_definition(row: Row, opset: int) -> Outputs:
    if row.attribute("opset") < 13:
        raise row.unsupported("it normalises several axes at once")
    return _quantised(row, row.op("Softmax", _real(row, 0), axis=row.attribute("axis", -1)), 3)


@rule("QLinearConcat", domain=MICROSOFT)
def concat(view: View) -> Iterator[Relation]:
    """Scale and zero point of the result come first, then the operands."""
    yield from joined(
        [view.input(i) for i in range(2, len(view.inputs), 3)], view.output(), view.attribute("axis")
    )


@definition("QLinearConcat", domain=MICROSOFT)
def concat_definition(row: Row, opset: int) -> Outputs:
    operands = [_real(row, i) for i in range(2, len(row.node.input), 3)]
    return _quantised(row, row.op("Concat", *operands, axis=row.attribute("axis")), 0)


@rule("QGemm", domain=MICROSOFT)
def qgemm(view: View) -> Iterator[Relation]:
    """A and B quantised, C in products of their scales; B may have a scale for each column. Gates act on A."""
    a, b = view.input(0), view.input(3)
    yield from on_data(gemm(_as_gemm(view)), a, 1 - view.attribute("transA", 0))
    yield from for_each(b[1 - view.attribute("transB", 0)], view.inputs[4:6])


def _as_gemm(view: View) -> View:
    return replace(view, inputs=(view.input(0), view.input(3), view.inputs[6] if view.has(6) else None))


cost("QGemm", domain=MICROSOFT)(lambda view: gemm_cost(_as_gemm(view)))
gated("QGemm", domain=MICROSOFT)(gated_product)


@definition("QGemm", domain=MICROSOFT)
def qgemm_definition(row: Row, opset: int) -> Outputs:
    turned = {name: int(row.attribute(name, 0)) for name in ("transA", "transB")}
    y = row.op("Gemm", _real(row, 0), _real(row, 3, 1 - turned["transB"]), **turned)
    if row.has(6):
        y = y + row.op("Cast", row.input(6), to=TensorProto.FLOAT) * (row.input(1) * row.input(4))
    alpha = float(row.attribute("alpha", 1.0))
    y = y if alpha == 1.0 else y * row.like(alpha, row.input(1))
    return _quantised(row, y, 7) if row.has(7) else [y]
