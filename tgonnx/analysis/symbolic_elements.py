"""How operators pass on single elements of shape arithmetic. An element of which nothing is known is None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from tgonnx.graph.algebra import Element, Size
from tgonnx.ops.aspects.asked import Asked
from tgonnx.ops.aspects.tables import elements
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
        return _moved(asked, symbols, are.carries)
    rule = elements.get(node.op_type, node.domain)
    if rule is None:
        return None
    return _reduced(asked, rule) if are.reduces else _each(asked, rule)


def _array(values: Sequence[Element]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _moved(asked: Asked, symbols: Symbols, moved: tuple[int, ...]) -> np.ndarray | None:
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
            value = symbols.static(name)
            if value is None:
                return None
            feeds[name] = value
    places = symbols.first.compute(node, feeds)
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


def _reduced(asked: Asked, rule: Callable[..., Element | None]) -> np.ndarray | None:
    """One number of all elements."""
    parts, result = asked.parts(0), asked.result
    if parts is None or result.size != 1:
        return None
    return np.full(result.shape, rule(asked, *parts), object)


def _each(asked: Asked, rule: Callable[..., Element | None]) -> np.ndarray | None:
    operands = [asked.symbols.parts(name) for name in asked.node.input if name]
    present = [operand for operand in operands if operand is not None]
    if len(present) < len(operands):
        return None
    broadcast = np.broadcast_arrays(*present)
    result = asked.result
    if broadcast[0].shape != result.shape:
        return None
    found = np.empty(result.shape, object)
    for place in np.ndindex(result.shape):
        values = [operand[place] for operand in broadcast]
        dynamic = any(isinstance(value, Size) for value in values)
        found[place] = rule(asked, *values) if dynamic else result[place].item()
    return found
