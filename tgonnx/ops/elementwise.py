"""Operators that treat every element by itself."""

from __future__ import annotations

from collections.abc import Iterator

from tgonnx.labels import Relation, Tie
from tgonnx.ops.registry import rule
from tgonnx.ops.view import View, broadcast, same

UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus
    Softsign Sqrt Swish Tan Tanh ThresholdedRelu
""".split()
BINARY = """
    Add Sub Mul Div Pow Mod And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual BitShift BitwiseAnd BitwiseOr
    BitwiseXor CastLike PRelu
""".split()
VARIADIC = "Sum Mean Max Min Where".split()


@rule(*UNARY)
def unary(view: View) -> Iterator[Relation]:
    yield from same(view.input(0), view.output())


@rule(*BINARY, *VARIADIC)
def elementwise(view: View) -> Iterator[Relation]:
    if "axis" in view.attributes:  # opset 6 broadcasting
        return
    operands = view.inputs[:1] if view.op_type == "CastLike" else view.inputs
    yield from broadcast(operands, view.output())


@rule("Dropout")
def dropout(view: View) -> Iterator[Relation]:
    for output in view.outputs:
        if output is not None:
            yield from same(view.input(0), output)


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(view: View) -> Iterator[Relation]:
    x, axis, block = view.input(0), view.attribute("axis", 1), view.attribute("block_size", 0)
    if block:  # blocked scales have the rank of x; a cut would have to leave whole blocks
        return
    yield from same(x, view.output())
    for i in (1, 2):
        if view.has(i) and view.input(i).rank == 1 and len(view.input(i)[0]) > 1:
            yield Tie(view.input(i)[0], x[axis])
