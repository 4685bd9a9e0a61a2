"""Elementwise operators with broadcasting."""

from __future__ import annotations

from collections.abc import Callable

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.ops.registry import gradient

Grads = list[Value | None]


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


@gradient("Mod")
def modulo(row: Row) -> Grads:
    """With fmod=1: a - b trunc(a / b)."""
    a, b = row.x, row.input(1)
    quotient = (a - row.y) / b
    return [
        row.unbroadcast(row.dy, a) if row.need(0) else None,
        row.unbroadcast(-(row.dy * quotient), b) if row.need(1) else None,
    ]


@gradient("Sum", "Mean")
def variadic_sum(row: Row) -> Grads:
    """Sum or mean of any number of inputs."""
    count = len(row.node.input)
    dy = row.dy if row.node.op_type == "Sum" else row.dy * (1.0 / count)
    if row.node.op_type == "Sum":
        dy = row.op("Identity", dy)
    return [row.unbroadcast(dy, row.input(i)) if row.need(i) else None for i in range(count)]


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


@gradient("Where")
def where(row: Row) -> Grads:
    """Condition, then, else; all broadcast."""
    condition, zero = row.input(0), row.like(0.0, row.y)
    return [
        None,
        row.unbroadcast(row.op("Where", condition, row.dy, zero), row.input(1)) if row.need(1) else None,
        row.unbroadcast(row.op("Where", condition, zero, row.dy), row.input(2)) if row.need(2) else None,
    ]


@gradient("Identity")
def identity(row: Row) -> Grads:
    """Copies."""
    return [row.op("Identity", row.dy)]


@gradient("Cast", "CastLike")
def cast(row: Row) -> Grads:
    """Back to the type of the input."""
    return [row.dy.cast_like(row.x)]


@gradient("Dropout")
def dropout(row: Row) -> Grads:
    """dy * mask / (1 - ratio); the identity in inference mode."""
    training = row.constant(2)
    if not row.has(2) or (training is not None and not bool(training.reshape(()))):
        return [row.op("Identity", row.dy)]
    mask = row.output(1)
    mask.elem_type = 9
    ratio = row.input(1).cast_like(row.x) if row.has(1) else row.like(0.5)
    scaled = row.dy * mask.cast_like(row.x) / (1.0 - ratio)
    return [scaled if training is not None else row.op("Where", row.input(2), scaled, row.dy)]
