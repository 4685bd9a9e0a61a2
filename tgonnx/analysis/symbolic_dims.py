"""How operators pass on sizes of axes: the standard's own inference wherever it carries symbols, and a rule where not.

It gives up at reshapes, slices, windows, and whatever computes with sizes. A size of which nothing is known is None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from tgonnx.analysis.one_node import Typed
from tgonnx.graph.algebra import Element, Size
from tgonnx.ops.aspects.asked import Asked, Claims
from tgonnx.ops.aspects.tables import dims
from tgonnx.ops.aspects.traits import traits_of

if TYPE_CHECKING:
    from tgonnx.analysis.symbolic import Symbols

MAX_SEEN = 4096  # elements of the largest constant that inference is shown


def dims_of(node: onnx.NodeProto, symbols: Symbols) -> list[Claims | None] | None:
    """The sizes of each output, as far as they can be told."""
    asked = Asked(node, symbols)
    rule = dims.get(node.op_type, node.domain)
    try:
        found = rule(asked) if rule is not None else None
    except KeyError:  # the shape of an input is not known
        found = None
    if found is None:
        return _inferred(node, symbols)
    place = traits_of(node).sum_at
    return [found, *[None] * (place - 1), found] if 0 < place < len(node.output) else [found]


def _inferred(node: onnx.NodeProto, symbols: Symbols) -> list[Claims | None]:
    """What the standard says when dynamic sizes are given to it as names."""
    names: dict[Size, str] = {}
    types: dict[str, Typed] = {}
    data: dict[str, np.ndarray] = {}
    for name in filter(None, node.input):
        sizes = symbols.dims.get(name)
        shape: list[int | str] | None = None
        if sizes is not None:
            shape = [names.setdefault(s, f"#{len(names)}") if isinstance(s, Size) else int(s) for s in sizes]
        if name in symbols.first.types:
            types[name] = (symbols.first.types[name], shape)
        value = symbols.static(name)
        if value is not None and value.size <= MAX_SEEN:
            data[name] = value
    back: dict[str, Element] = {text: size for size, text in names.items()}
    found = symbols.first.infer(node, types, data)
    claims: list[Claims | None] = []
    for name in node.output:
        proto = found.get(name)
        if proto is None or not proto.tensor_type.HasField("shape"):
            claims.append(None)
            continue
        claims.append(
            [
                dim.dim_value if dim.HasField("dim_value") else back.get(dim.dim_param)
                for dim in proto.tensor_type.shape.dim
            ]
        )
    return claims
