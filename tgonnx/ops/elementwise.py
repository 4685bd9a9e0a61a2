"""Operators that treat every element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from tgonnx.graph.algebra import Element, Size
from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.asked import Asked, whole
from tgonnx.ops.aspects.relations import Relation, Tie
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.tables import elements, gradient, rule
from tgonnx.ops.aspects.traits import EACH, Traits, traits
from tgonnx.ops.aspects.view import Operand, Unlabelled, View, broadcast, same

UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitCast BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin
    Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
""".split()


BINARY = """
    Add Sub Mul Div Pow Mod And Or Xor Less LessOrEqual Greater GreaterOrEqual BitShift BitwiseAnd BitwiseOr
    BitwiseXor CastLike PRelu SwiGLU
""".split()


VARIADIC = "Sum Mean Max Min Where".split()


Derivative = Callable[[Row], Value]


def _binary(da: Callable[[Row], Value], db: Callable[[Row], Value]) -> Callable[[Row], Grads]:
    def row_function(row: Row) -> Grads:
        return [
            row.unbroadcast(derivative(row), row.input(i)) if row.need(i) else None
            for i, derivative in enumerate((da, db))
        ]

    return row_function


def _same(row: Row) -> Value:
    return row.dy


gradient("Add")(_binary(_same, _same))


gradient("Sub")(_binary(_same, lambda r: -r.dy))


gradient("Mul")(_binary(lambda r: r.dy * r.input(1), lambda r: r.dy * r.x))


gradient("Div")(_binary(lambda r: r.dy / r.input(1), lambda r: -(r.dy * r.y / r.input(1))))


def _step(row: Row, condition: Value) -> Value:
    return condition.cast_like(row.x)


def _choose(row: Row, condition: Value, a: Value | float, b: Value | float) -> Value:
    return row.op("Where", condition, *(v if isinstance(v, Value) else row.like(v) for v in (a, b)))


def _sigmoid(row: Row, x: Value) -> Value:
    return row.op("Sigmoid", x)


def _hard_sigmoid(row: Row) -> Value:
    alpha = float(row.attribute("alpha", 0.2))
    inside = row.op("And", row.y > 0.0, row.y < 1.0)
    return _step(row, inside) * alpha


def _hard_swish(row: Row) -> Value:
    slope = (row.x * (1 / 3) + 0.5) * _step(row, row.x > -3.0)
    return _choose(row, row.x >= 3.0, 1.0, slope)


def _gelu(row: Row) -> Value:
    x = row.x
    if row.attribute("approximate", "none") == "tanh":
        c = math.sqrt(2 / math.pi)
        t = row.op("Tanh", (x + x * x * x * 0.044715) * c)
        return (1.0 + t) * 0.5 + x * 0.5 * (1.0 - t * t) * (c + x * x * (3 * c * 0.044715))
    cdf = (1.0 + row.op("Erf", x * math.sqrt(0.5))) * 0.5
    return cdf + x * row.op("Exp", x * x * -0.5) * (1 / math.sqrt(2 * math.pi))


def _mish(row: Row) -> Value:
    t = row.op("Tanh", row.op("Softplus", row.x))
    return t + row.x * _sigmoid(row, row.x) * (1.0 - t * t)


def _swish(row: Row) -> Value:
    alpha = float(row.attribute("alpha", 1.0))
    s = _sigmoid(row, row.x * alpha)
    return s + row.y * alpha * (1.0 - s)


def _selu(row: Row) -> Value:
    alpha, gamma = (
        float(row.attribute("alpha", 1.67326319217681884765625)),
        float(row.attribute("gamma", 1.05070102214813232)),
    )
    return _choose(row, row.x > 0.0, gamma, row.y + alpha * gamma)


def _elu(row: Row) -> Value:
    return _choose(row, row.x > 0.0, 1.0, row.y + float(row.attribute("alpha", 1.0)))


def _celu(row: Row) -> Value:
    return _choose(row, row.x > 0.0, 1.0, row.op("Exp", row.x * (1.0 / float(row.attribute("alpha", 1.0)))))


def _shrink(row: Row) -> Value:
    return _step(row, row.op("Abs", row.x) > float(row.attribute("lambd", 0.5)))


DERIVATIVES: dict[str, Derivative] = {
    "Relu": lambda r: _step(r, r.y > 0.0),
    "Sigmoid": lambda r: r.y * (1.0 - r.y),
    "Tanh": lambda r: 1.0 - r.y * r.y,
    "Exp": lambda r: r.y,
    "Log": lambda r: 1.0 / r.x,
    "Sqrt": lambda r: 0.5 / r.y,
    "Reciprocal": lambda r: -(r.y * r.y),
    "Neg": lambda r: r.like(-1.0),
    "Abs": lambda r: r.op("Sign", r.x),
    "Erf": lambda r: r.op("Exp", -(r.x * r.x)) * (2 / math.sqrt(math.pi)),
    "Sin": lambda r: r.op("Cos", r.x),
    "Cos": lambda r: -r.op("Sin", r.x),
    "Tan": lambda r: 1.0 + r.y * r.y,
    "Asin": lambda r: 1.0 / r.op("Sqrt", 1.0 - r.x * r.x),
    "Acos": lambda r: -1.0 / r.op("Sqrt", 1.0 - r.x * r.x),
    "Atan": lambda r: 1.0 / (1.0 + r.x * r.x),
    "Sinh": lambda r: r.op("Cosh", r.x),
    "Cosh": lambda r: r.op("Sinh", r.x),
    "Asinh": lambda r: 1.0 / r.op("Sqrt", r.x * r.x + 1.0),
    "Acosh": lambda r: 1.0 / r.op("Sqrt", r.x * r.x - 1.0),
    "Atanh": lambda r: 1.0 / (1.0 - r.x * r.x),
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "LeakyRelu": lambda r: _choose(r, r.x > 0.0, 1.0, float(r.attribute("alpha", 0.01))),
    "ThresholdedRelu": lambda r: _step(r, r.x > float(r.attribute("alpha", 1.0))),
    "Softplus": lambda r: _sigmoid(r, r.x),
    "Softsign": lambda r: 1.0 / ((1.0 + r.op("Abs", r.x)) * (1.0 + r.op("Abs", r.x))),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
    "Mish": _mish,
    "Swish": _swish,
    "Shrink": _shrink,
}


def _elementwise(derivative: Derivative) -> Callable[[Row], list[Value | None]]:
    return lambda row: [row.dy * derivative(row)]


for _op_type, _derivative in DERIVATIVES.items():
    gradient(_op_type)(_elementwise(_derivative))


traits(*UNARY, *BINARY, *VARIADIC, "Dropout", are=Traits(elementwise=True))
traits("Cast", "Dropout", are=Traits(carries=(0,)))
traits("Where", are=Traits(carries=(1, 2)))
traits("Max", "Min", are=Traits(carries=EACH))
traits("Abs", "Add", "Cast", "Clip", "Max", "Min", "Neg", "Sub", "Sum", are=Traits(proportional=True))
traits("Add", are=Traits(plus=1, addends=EACH))
traits("Sum", are=Traits(addends=EACH))
traits("Sub", are=Traits(plus=-1))
traits("Add", "Sum", are=Traits(joins="sum"))
traits("Mean", are=Traits(joins="mean"))
traits("Mul", are=Traits(times=1))
traits("Div", are=Traits(times=-1))
traits("Sqrt", are=Traits(power=0.5))
traits("Reciprocal", are=Traits(power=-1.0))
traits("Pow", are=Traits(raises=True))
traits("Cast", are=Traits(converts=True))
traits("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", are=Traits(compares=True))
traits("Clip", "Dropout", "Mod", "Pow", are=Traits(set_up=True))
traits("Add", "Mul", "Relu", are=Traits(common=True))
traits("Add", "Mul", "Sub", are=Traits(native_gradient=True))
traits("PRelu", are=Traits(weights=(1,)))
traits("And", "BitShift", "IsInf", "IsNaN", "Not", "Or", "Xor", are=Traits(stops=True))
traits(
    *"Ceil Equal Floor Greater GreaterOrEqual Less LessOrEqual Round Sign".split(),
    are=Traits(stops=True, rounds=True),
)


@rule(*UNARY)
def unary(view: View) -> Iterator[Relation]:
    yield from same(view.input(0), view.output())


@gradient("Clip")
def clip(row: Row) -> Grads:
    """Bounds are inputs since opset 11; they receive the gradient of what they cut off."""
    zero, x, dy = row.like(0.0), row.x, row.dy
    grads: list[Value | None] = []
    for index, cuts in ((1, "Less"), (2, "Greater")):
        if not row.has(index):
            grads.append(None)
            continue
        outside = row.op(cuts, x, row.input(index)) if row.need(index) else None
        grads.append(None if outside is None else row.op("Where", outside, dy, zero).sum(None, False))
    if not (row.has(1) or row.has(2)):
        return [row.op("Identity", dy), *grads]
    return [dy * x.equals(row.y).cast_like(x), *grads]  # what was not cut off: one comparison


@rule(*BINARY, *VARIADIC)
def elementwise(view: View) -> Iterator[Relation]:
    if "axis" in view.attributes:  # opset 6 broadcasting
        return
    operands = view.inputs[:1] if view.op_type == "CastLike" else view.inputs
    yield from broadcast(operands, view.output())


@rule("Equal")
def equal(view: View) -> Iterator[Relation]:
    """A value compared with each of some stored numbers is a one-hot code of it.

    Its axis has one entry for whatever the value may be, like the rows of a table of embeddings, and stays.
    """
    y = view.output()
    for operand, other in ((view.input(0), view.input(1)), (view.input(1), view.input(0))):
        for relation in broadcast([operand], y) if "axis" not in view.attributes else ():
            axis = next(
                i for i, labels in enumerate(y.axes) if isinstance(relation, Tie) and relation.b is labels
            )
            if not (_codes(operand) or _stretched(operand, other, axis - y.rank)):
                yield relation


def _codes(operand: Operand) -> bool:
    """Stored integers of which none is there twice."""
    known = operand.known if operand.static else None
    return known is not None and known.dtype.kind in "iu" and 1 < known.size == len(np.unique(known))


def _stretched(operand: Operand, other: Operand, axis: int) -> bool:
    """Is the other operand compared with all numbers that are stored along an axis (counted from the end)?"""
    lone = -axis > other.rank or len(other[axis]) == 1
    return operand.static and lone and len(operand[axis]) > 1


@gradient("Cast", "CastLike")
def cast(row: Row) -> Grads:
    """Back to the type of the input."""
    return [row.dy.cast_like(row.x)]


@gradient("Where")
def where(row: Row) -> Grads:
    """Condition, then, else; all broadcast."""
    condition, zero = row.input(0), row.like(0.0, row.y)
    return [
        None,
        row.unbroadcast(row.op("Where", condition, row.dy, zero), row.input(1)) if row.need(1) else None,
        row.unbroadcast(row.op("Where", condition, zero, row.dy), row.input(2)) if row.need(2) else None,
    ]


@gradient("Max", "Min")
def extremum(row: Row) -> Grads:
    """The gradient is shared equally among the inputs that attain the extremum."""
    count = len(row.node.input)
    hits = [row.input(i).equals(row.y).cast_like(row.x) for i in range(count)]
    total = hits[0]
    for hit in hits[1:]:
        total = total + hit
    share = row.dy / total
    return [row.unbroadcast(share * hits[i], row.input(i)) if row.need(i) else None for i in range(count)]


@gradient("Sum", "Mean")
def variadic_sum(row: Row) -> Grads:
    """Sum or mean of any number of inputs."""
    count = len(row.node.input)
    dy = row.dy if row.node.op_type == "Sum" else row.dy * (1.0 / count)
    if row.node.op_type == "Sum":
        dy = row.op("Identity", dy)
    return [row.unbroadcast(dy, row.input(i)) if row.need(i) else None for i in range(count)]


@gradient("Mod")
def modulo(row: Row) -> Grads:
    """With fmod=1: a - b trunc(a / b)."""
    a, b = row.x, row.input(1)
    quotient = (a - row.y) / b
    return [
        row.unbroadcast(row.dy, a) if row.need(0) else None,
        row.unbroadcast(-(row.dy * quotient), b) if row.need(1) else None,
    ]


@gradient("Pow")
def power(row: Row) -> Grads:
    """x ** p: p x ** (p - 1) and y log x (zero where x is zero)."""
    x, p = row.x, row.input(1)
    if p.elem_type != x.elem_type:
        p = p.cast_like(x)
    exponent = row.constant(1)
    dx: Value | None = None
    if row.need(0):
        square = exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2.0
        slope = x * 2.0 if square else p * row.op("Pow", x, p - 1.0)
        dx = row.unbroadcast(row.dy * slope, x)
    if not row.need(1):
        return [dx]
    log = row.op("Log", row.op("Where", x > 0.0, x, row.like(1.0)))
    return [dx, row.unbroadcast(row.dy * row.y * log, row.input(1))]


@gradient("PRelu")
def prelu(row: Row) -> Grads:
    """Slope broadcast to the input."""
    x, slope, positive = row.x, row.input(1), row.x > 0.0
    dx = _choose(row, positive, row.dy, row.dy * slope)
    return [dx, row.unbroadcast(_choose(row, positive, 0.0, row.dy * x), slope) if row.need(1) else None]


@rule("Dropout")
def dropout(view: View) -> Iterator[Relation]:
    training = view.known(2)
    if view.has(2) and (training is None or training.any()):
        raise Unlabelled("Dropout: what it drops is drawn at random, for each size anew")
    for output in view.outputs:
        if output is not None:
            yield from same(view.input(0), output)


@gradient("Dropout")
def dropout_gradient(row: Row) -> Grads:
    """dy * mask / (1 - ratio); the identity_gradient in inference mode."""
    training = row.constant(2)
    if not row.has(2) or (training is not None and not bool(training.reshape(()))):
        return [row.op("Identity", row.dy)]
    mask = row.output(1)
    mask.elem_type = 9
    ratio = row.input(1).cast_like(row.x) if row.has(1) else row.like(0.5)
    scaled = row.dy * mask.cast_like(row.x) / (1.0 - ratio)
    return [scaled if training is not None else row.op("Where", row.input(2), scaled, row.dy)]


# --- elements of shape arithmetic ---------------------------------------------------------------------------


def _extreme(larger: bool) -> Callable[..., Element | None]:
    def rule(asked: Asked, *operands: Element) -> Element | None:
        best = operands[0]
        if not whole(*operands):
            return None
        for other in operands[1:]:
            order = asked.algebra.sign(asked.algebra.subtract(best, other))
            if order is None:
                natural = asked.natural(best, other) or (
                    larger and (asked.algebra.natural(best) or asked.algebra.natural(other))
                )
                best = asked.algebra.apply("Max" if larger else "Min", best, other, natural=natural)
            elif (order > 0) != larger and order:
                best = other
        return best

    return rule


def _compared(holds: Callable[[int], bool]) -> Callable[..., Element | None]:
    """A comparison is decided where the difference has one sign for all sizes."""

    def rule(asked: Asked, a: Element, b: Element) -> Element | None:
        if not whole(a, b):
            return None
        order = asked.algebra.sign(asked.algebra.subtract(a, b))
        if order is None and isinstance(a, Size) and not isinstance(b, Size):
            order = 1 if b < 0 and asked.algebra.natural(a) else None
        if order is None and isinstance(b, Size) and not isinstance(a, Size):
            order = -1 if a < 0 and asked.algebra.natural(b) else None
        return None if order is None else holds(order)

    return rule


@elements("Div")
def _divided_element(asked: Asked, a: Element, b: Element) -> Element:
    if asked.result.dtype.kind != "f":
        return asked.algebra.divide(a, b)
    even = asked.algebra.exact(a, b) if whole(a, b) else None
    return asked.algebra.apply("/", a, b, natural=asked.natural(a, b), whole=False) if even is None else even


@elements("Mul")
def _multiplied_element(asked: Asked, a: Element, b: Element) -> Element:
    if not whole(a, b):
        return asked.algebra.apply("*", a, b, natural=asked.natural(a, b), whole=False)
    return asked.algebra.multiply(a, b)


@elements("Mod")
def _rest_element(asked: Asked, a: Element, b: Element) -> Element:
    if not isinstance(b, Size) and asked.algebra.exact(a, b) is not None:
        return 0
    return asked.algebra.apply("Mod", a, b, natural=asked.natural(a, b))


@elements("Where")
def _where_element(asked: Asked, condition: Element, a: Element, b: Element) -> Element | None:
    if isinstance(condition, Size):
        return a if a == b else None
    return a if condition else b


@elements("And")
def _and_element(asked: Asked, a: Element, b: Element) -> Element | None:
    return False if a is False or b is False else None


@elements("Or")
def _or_element(asked: Asked, a: Element, b: Element) -> Element | None:
    return True if a is True or b is True else None


@elements("Floor", "Ceil", "Round")
def _rounded_element(asked: Asked, a: Element) -> Element:
    if asked.algebra.whole(a):
        return a
    return asked.algebra.apply(asked.node.op_type, a, natural=asked.natural(a))


@elements("Cast")
def _cast_element(asked: Asked, a: Element, *_: Element) -> Element | None:
    """Between numbers; a fraction is cut off towards zero."""
    kind = asked.result.dtype.kind
    if kind == "f" or (kind in "iu" and asked.algebra.whole(a)):
        return a
    return asked.algebra.apply("Trunc", a, natural=asked.natural(a)) if kind in "iu" else None


@elements("Abs")
def _magnitude_element(asked: Asked, a: Element) -> Element | None:
    return a if asked.algebra.natural(a) else None


elements("Add")(lambda asked, a, b: asked.algebra.add(a, b) if whole(a, b) else None)
elements("Sub")(lambda asked, a, b: asked.algebra.subtract(a, b) if whole(a, b) else None)
elements("Neg")(lambda asked, a: asked.algebra.multiply(a, -1))  # only of sizes: numbers are not asked about
elements("Sqrt")(lambda asked, a: asked.algebra.apply("Sqrt", a, natural=True, whole=False))
elements("Not")(lambda asked, a: None)
elements("Min")(_extreme(False))
elements("Max")(_extreme(True))
elements("Equal")(_compared(lambda order: order == 0))
elements("Less")(_compared(lambda order: order < 0))
elements("LessOrEqual")(_compared(lambda order: order <= 0))
elements("Greater")(_compared(lambda order: order > 0))
elements("GreaterOrEqual")(_compared(lambda order: order >= 0))
