"""Elementwise functions of one input."""

from __future__ import annotations

import math
from collections.abc import Callable

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.ops.registry import gradient

Derivative = Callable[[Row], Value]


def _step(row: Row, condition: Value) -> Value:
    return condition.cast_like(row.x)


def _choose(row: Row, condition: Value, a: Value | float, b: Value | float) -> Value:
    return row.op("Where", condition, *(v if isinstance(v, Value) else row.like(v) for v in (a, b)))


def _sigmoid(row: Row, x: Value) -> Value:
    return row.op("Sigmoid", x)


def _hard_sigmoid(row: Row) -> Value:
    alpha = float(row.attr("alpha", 0.2))
    inside = row.op("And", row.y > 0.0, row.y < 1.0)
    return _step(row, inside) * alpha


def _hard_swish(row: Row) -> Value:
    slope = (row.x * (1 / 3) + 0.5) * _step(row, row.x > -3.0)
    return _choose(row, row.x >= 3.0, 1.0, slope)


def _gelu(row: Row) -> Value:
    x = row.x
    if row.attr("approximate", "none") == "tanh":
        c = math.sqrt(2 / math.pi)
        t = row.op("Tanh", (x + x * x * x * 0.044715) * c)
        return (1.0 + t) * 0.5 + x * 0.5 * (1.0 - t * t) * (c + x * x * (3 * c * 0.044715))
    cdf = (1.0 + row.op("Erf", x * math.sqrt(0.5))) * 0.5
    return cdf + x * row.op("Exp", x * x * -0.5) * (1 / math.sqrt(2 * math.pi))


def _mish(row: Row) -> Value:
    t = row.op("Tanh", row.op("Softplus", row.x))
    return t + row.x * _sigmoid(row, row.x) * (1.0 - t * t)


def _swish(row: Row) -> Value:
    alpha = float(row.attr("alpha", 1.0))
    s = _sigmoid(row, row.x * alpha)
    return s + row.y * alpha * (1.0 - s)


def _selu(row: Row) -> Value:
    alpha, gamma = (
        float(row.attr("alpha", 1.67326319217681884765625)),
        float(row.attr("gamma", 1.05070102214813232)),
    )
    return _choose(row, row.x > 0.0, gamma, row.y + alpha * gamma)


def _elu(row: Row) -> Value:
    return _choose(row, row.x > 0.0, 1.0, row.y + float(row.attr("alpha", 1.0)))


def _celu(row: Row) -> Value:
    return _choose(row, row.x > 0.0, 1.0, row.op("Exp", row.x * (1.0 / float(row.attr("alpha", 1.0)))))


def _shrink(row: Row) -> Value:
    return _step(row, row.op("Abs", row.x) > float(row.attr("lambd", 0.5)))


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
    "LeakyRelu": lambda r: _choose(r, r.x > 0.0, 1.0, float(r.attr("alpha", 0.01))),
    "ThresholdedRelu": lambda r: _step(r, r.x > float(r.attr("alpha", 1.0))),
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


@gradient("PRelu")
def prelu(row: Row) -> list[Value | None]:
    """Slope broadcast to the input."""
    x, slope, positive = row.x, row.input(1), row.x > 0.0
    dx = _choose(row, positive, row.dy, row.dy * slope)
    return [dx, row.unbroadcast(_choose(row, positive, 0.0, row.dy * x), slope) if row.need(1) else None]


@gradient("Clip")
def clip(row: Row) -> list[Value | None]:
    """Bounds are inputs since opset 11; they receive the gradient of what they cut off."""
    zero, x, dy = row.like(0.0), row.x, row.dy
    inside: Value | None = None
    grads: list[Value | None] = []
    for index, cuts in ((1, "Less"), (2, "Greater")):
        if not row.has(index):
            grads.append(None)
            continue
        outside = row.op(cuts, x, row.input(index))
        grads.append(row.op("Where", outside, dy, zero).sum(None, False) if row.need(index) else None)
        keep = row.op("Not", outside)
        inside = keep if inside is None else row.op("And", inside, keep)
    return [row.op("Identity", dy) if inside is None else dy * inside.cast_like(x), *grads]
