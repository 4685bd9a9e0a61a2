"""How operators pass on single elements of shape arithmetic. An element of which nothing is known is None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from tgonnx.analysis.algebra import Element, Size
from tgonnx.analysis.symbolic_node import Asked
from tgonnx.ops.aspects.traits import EACH, traits_of

if TYPE_CHECKING:
    from tgonnx.analysis.symbolic import Symbols


def elements_of(node: onnx.NodeProto, symbols: Symbols) -> np.ndarray | None:
    """The elements of the node's one output, as an array of objects; None if they are not followed."""
    asked, are = Asked(node, symbols), traits_of(node)
    if are.reads_sizes == "axes":
        return _array(asked.dims()[asked.attribute("start", 0) : asked.attribute("end")])
    if are.reads_sizes == "elements":
        return np.array(asked.algebra.product(asked.dims()), object)
    if are.moves:
        return _moved(asked, are.carries)
    if node.op_type in ("ReduceProd", "ReduceSum"):
        return _reduced(asked)
    if node.op_type in _ELEMENTWISE:
        return _each(asked, _ELEMENTWISE[node.op_type])
    return None


def _array(values: Sequence[Element]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _moved(asked: Asked, moved: tuple[int, ...]) -> np.ndarray | None:
    """Move numbers that stand for the elements, as the operator itself would."""
    node, pool = asked.node, list[Element]()
    feeds = {}
    for i, name in enumerate(node.input):
        if not name:
            continue
        if moved == EACH or i in moved:
            parts = asked.symbols.parts(name)
            if parts is None:
                return None
            feeds[name] = np.arange(len(pool), len(pool) + parts.size, dtype=np.int64).reshape(parts.shape)
            pool += list(parts.ravel())
        else:
            value = asked.symbols.static(name)
            if value is None:
                return None
            feeds[name] = value
    places = asked.symbols.first.compute(node, feeds)
    return None if places is None else _array(pool)[places[0].ravel()].reshape(places[0].shape)


def moved_places(node: onnx.NodeProto, index: int, count: int, symbols: Symbols) -> np.ndarray | None:
    """Which of the `count` elements of input `index`, a vector, get into the node's output; None if not known."""
    are = traits_of(node)
    if not are.moves or index not in are.carries:
        return None
    feeds = {name: symbols.static(name) for i, name in enumerate(node.input) if name and i != index}
    if any(value is None for value in feeds.values()) or node.input[index] in feeds:
        return None
    static = {name: value for name, value in feeds.items() if value is not None}
    places = symbols.first.compute(node, {**static, node.input[index]: np.arange(count)})
    return None if places is None else places[0].ravel()


def _reduced(asked: Asked) -> np.ndarray | None:
    """A sum or product over all elements."""
    parts, result = asked.parts(0), asked.symbols.first.known[asked.node.output[0]]
    if parts is None or result.size != 1:
        return None
    algebra = asked.algebra
    total = algebra.product(parts) if asked.node.op_type == "ReduceProd" else algebra.add(*parts)
    return np.full(result.shape, total, object)


def _each(asked: Asked, rule: Callable[..., Element | None]) -> np.ndarray | None:
    operands = [asked.symbols.parts(name) for name in asked.node.input if name]
    present = [operand for operand in operands if operand is not None]
    if len(present) < len(operands):
        return None
    broadcast = np.broadcast_arrays(*present)
    result = asked.symbols.first.known[asked.node.output[0]]
    if broadcast[0].shape != result.shape:
        return None
    found = np.empty(result.shape, object)
    for place in np.ndindex(result.shape):
        values = [operand[place] for operand in broadcast]
        dynamic = any(isinstance(value, Size) for value in values)
        found[place] = rule(asked, *values) if dynamic else result[place].item()
    return found


def _is_float(asked: Asked) -> bool:
    return asked.symbols.first.known[asked.node.output[0]].dtype.kind == "f"


def _divided(asked: Asked, a: Element, b: Element) -> Element:
    if not _is_float(asked):
        return asked.algebra.divide(a, b)
    even = asked.algebra.exact(a, b) if _whole(a, b) else None
    return (
        asked.algebra.apply("/", a, b, natural=_natural(asked, a, b), whole=False) if even is None else even
    )


def _multiplied(asked: Asked, a: Element, b: Element) -> Element:
    if not _whole(a, b):
        return asked.algebra.apply("*", a, b, natural=_natural(asked, a, b), whole=False)
    return asked.algebra.multiply(a, b)


def _natural(asked: Asked, *operands: Element) -> bool:
    return all(asked.algebra.natural(operand) for operand in operands)


def _rest(asked: Asked, a: Element, b: Element) -> Element:
    if not isinstance(b, Size) and asked.algebra.exact(a, b) is not None:
        return 0
    return asked.algebra.apply("Mod", a, b, natural=_natural(asked, a, b))


def _extreme(larger: bool) -> Callable[..., Element | None]:
    def rule(asked: Asked, *operands: Element) -> Element | None:
        best = operands[0]
        if not _whole(*operands):
            return None
        for other in operands[1:]:
            order = asked.algebra.sign(asked.algebra.subtract(best, other))
            if order is None:
                natural = _natural(asked, best, other) or (
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
        if not _whole(a, b):
            return None
        order = asked.algebra.sign(asked.algebra.subtract(a, b))
        if order is None and isinstance(a, Size) and not isinstance(b, Size):
            order = 1 if b < 0 and asked.algebra.natural(a) else None
        if order is None and isinstance(b, Size) and not isinstance(a, Size):
            order = -1 if a < 0 and asked.algebra.natural(b) else None
        return None if order is None else holds(order)

    return rule


def _where(asked: Asked, condition: Element, a: Element, b: Element) -> Element | None:
    if isinstance(condition, Size):
        return a if a == b else None
    return a if condition else b


def _and(asked: Asked, a: Element, b: Element) -> Element | None:
    return False if a is False or b is False else None


def _or(asked: Asked, a: Element, b: Element) -> Element | None:
    return True if a is True or b is True else None


def _rounded(asked: Asked, a: Element) -> Element:
    if asked.algebra.whole(a):
        return a
    return asked.algebra.apply(asked.node.op_type, a, natural=_natural(asked, a))


def _cast(asked: Asked, a: Element, *_: Element) -> Element | None:
    """Between numbers; a fraction is cut off towards zero."""
    kind = asked.symbols.first.known[asked.node.output[0]].dtype.kind
    if kind == "f" or (kind in "iu" and asked.algebra.whole(a)):
        return a
    return asked.algebra.apply("Trunc", a, natural=_natural(asked, a)) if kind in "iu" else None


def _magnitude(asked: Asked, a: Element) -> Element | None:
    return a if asked.algebra.natural(a) else None


_ELEMENTWISE: dict[str, Callable[..., Element | None]] = {
    "Add": lambda asked, a, b: asked.algebra.add(a, b) if _whole(a, b) else None,
    "Sub": lambda asked, a, b: asked.algebra.subtract(a, b) if _whole(a, b) else None,
    "Mul": _multiplied,
    "Div": _divided,
    "Mod": _rest,
    "Neg": lambda asked, a: asked.algebra.multiply(a, -1),  # only of sizes: numbers are not asked about
    "Abs": _magnitude,
    "Min": _extreme(False),
    "Max": _extreme(True),
    "Floor": _rounded,
    "Ceil": _rounded,
    "Round": _rounded,
    "Cast": _cast,
    "Equal": _compared(lambda order: order == 0),
    "Less": _compared(lambda order: order < 0),
    "LessOrEqual": _compared(lambda order: order <= 0),
    "Greater": _compared(lambda order: order > 0),
    "GreaterOrEqual": _compared(lambda order: order >= 0),
    "Where": _where,
    "And": _and,
    "Or": _or,
    "Not": lambda asked, a: None,
    "Sqrt": lambda asked, a: asked.algebra.apply("Sqrt", a, natural=True, whole=False),
}


def _whole(*operands: Element) -> bool:
    """Fractions are not added to sizes: a polynomial has whole coefficients."""
    return not any(isinstance(operand, float) for operand in operands)
