"""How operators pass on sizes that depend on dynamic axes: what `tgonnx.symbolic` asks of each node.

`dims` is the standard's own inference wherever it carries symbols, and a rule here where it gives up: reshapes, slices,
windows, and whatever computes with sizes. `elements` follows single elements of shape arithmetic. An axis or element of
which nothing is known is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tgonnx.algebra import Algebra, Dims, Element, Size
from tgonnx.definitions import attribute_of

if TYPE_CHECKING:
    from tgonnx.symbolic import Symbols

Claims = Sequence[Element | None]
MAX_SEEN = 4096  # elements of the largest constant that inference is shown
FAR = 2**31 - 1  # an end from here on means the end of the axis


class _Asked:
    """One node, with the sizes and elements of its inputs."""

    def __init__(self, node: onnx.NodeProto, symbols: Symbols) -> None:
        self.node, self.symbols, self.algebra = node, symbols, symbols.algebra
        self.opset = symbols.first.opsets.get("", 1)

    def attribute(self, name: str, default: Any = None) -> Any:
        return attribute_of(self.node, name, default)

    def has(self, index: int) -> bool:
        return index < len(self.node.input) and bool(self.node.input[index])

    def dims(self, index: int = 0) -> Dims:
        """The sizes of an input; KeyError if its shape is not known."""
        return self.symbols.dims[self.node.input[index]]

    def parts(self, index: int, attribute: str = "") -> list[Element] | None:
        """The elements of an input of one axis, or of an attribute of older opsets."""
        value = self.attribute(attribute) if attribute else None
        if value is not None:
            return list(value)
        found = self.symbols.parts(self.node.input[index]) if self.has(index) else None
        return None if found is None else list(found.ravel())


# --- sizes ----------------------------------------------------------------------------------------------


def dims(node: onnx.NodeProto, symbols: Symbols) -> list[Claims | None] | None:
    """The sizes of each output, as far as they can be told."""
    asked = _Asked(node, symbols)
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    try:
        found = rule(asked) if rule is not None else None
    except KeyError:  # the shape of an input is not known
        found = None
    return _inferred(asked) if found is None else [found]


def _inferred(asked: _Asked) -> list[Claims | None]:
    """What the standard says when dynamic sizes are given to it as names."""
    node, symbols = asked.node, asked.symbols
    names: dict[Size, str] = {}
    types, data = {}, {}
    for name in filter(None, node.input):
        sizes = symbols.dims.get(name)
        shape = None
        if sizes is not None:
            shape = [names.setdefault(s, f"#{len(names)}") if isinstance(s, Size) else int(s) for s in sizes]
        if name in symbols.first.types:
            types[name] = helper.make_tensor_type_proto(symbols.first.types[name], shape)
        value = symbols.static(name)
        if value is not None and value.size <= MAX_SEEN:
            data[name] = numpy_helper.from_array(value, name)
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


def _reshape(asked: _Asked) -> Claims | None:
    target, algebra = asked.parts(1), asked.algebra
    if target is None:
        return None
    x = asked.dims()
    copies = not asked.attribute("allowzero", 0)
    sizes = [x[i] if size == 0 and copies and i < len(x) else size for i, size in enumerate(target)]
    if -1 not in sizes:
        return sizes
    rest = algebra.product(size for size in sizes if size != -1)
    total = algebra.product(x)
    free = None if rest == 0 else algebra.divide(total, rest)
    return [free if size == -1 else size for size in sizes]


def _flatten(asked: _Asked) -> Claims:
    x, axis = asked.dims(), asked.attribute("axis", 1)
    axis += len(x) if axis < 0 else 0
    return [asked.algebra.product(x[:axis]), asked.algebra.product(x[axis:])]


def _expand(asked: _Asked) -> Claims | None:
    target, x = asked.parts(1), list(asked.dims())
    if target is None:
        return None
    rank = max(len(target), len(x))
    target, x = [1] * (rank - len(target)) + target, [1] * (rank - len(x)) + x
    return [_wider(a, b) for a, b in zip(x, target, strict=True)]


def _wider(a: Element, b: Element) -> Element | None:
    """The size of two broadcast axes: a number other than 1 wins over anything."""
    for one, other in ((a, b), (b, a)):
        if one == 1 or one == other:
            return other
        if not isinstance(one, Size):
            return one
    return None


def _concat(asked: _Asked) -> Claims:
    parts = [asked.dims(i) for i in range(len(asked.node.input))]
    axis = asked.attribute("axis", 0) % len(parts[0])
    sizes: list[Element | None] = []
    for i, along in enumerate(zip(*parts, strict=True)):
        fixed = next((size for size in along if not isinstance(size, Size)), along[0])
        sizes.append(asked.algebra.add(*along) if i == axis else fixed)
    return sizes


def _slice(asked: _Asked) -> Claims | None:
    x = asked.dims()
    starts, ends = asked.parts(1, "starts"), asked.parts(2, "ends")
    axes, steps = asked.parts(3, "axes"), asked.parts(4)
    if (axes is None and asked.has(3)) or (steps is None and asked.has(4)):
        return None
    if starts is None or ends is None:  # which axes change is all that is known
        named = [int(axis) % len(x) for axis in axes or () if not isinstance(axis, Size)]
        if axes is None or len(named) < len(axes):
            return None
        return [None if i in named else size for i, size in enumerate(x)]
    sizes: list[Element | None] = list(x)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = axes[number] if axes else number, steps[number] if steps else 1
        if isinstance(axis, Size):
            return None
        sizes[int(axis) % len(x)] = _sliced(asked.algebra, x[int(axis) % len(x)], start, end, step)
    return sizes


def _sliced(algebra: Algebra, size: Element, start: Element, end: Element, step: Element) -> Element:
    bounds = (size, start, end, step)
    if not any(isinstance(bound, Size) for bound in bounds):
        return len(range(int(size))[slice(start, end, step)])  # type: ignore[arg-type, misc]
    if step == 1 and start == 0:
        whole = not isinstance(end, Size) and end >= FAR
        if whole or end == size or algebra.sign(algebra.subtract(end, size)) == 1:
            return size
    return algebra.apply("Slice", *bounds, natural=True)


def _pad(asked: _Asked) -> Claims | None:
    x, pads, axes = asked.dims(), asked.parts(1, "pads"), asked.parts(3)
    if pads is None or (axes is None and asked.has(3)):
        return None
    named = (
        list(range(len(x))) if axes is None else [int(a) % len(x) for a in axes if not isinstance(a, Size)]
    )
    if len(pads) != 2 * len(named):
        return None
    sizes: list[Element | None] = list(x)
    for number, axis in enumerate(named):
        sizes[axis] = asked.algebra.add(x[axis], pads[number], pads[number + len(named)])
    return sizes


def _tile(asked: _Asked) -> Claims | None:
    x, repeats = asked.dims(), asked.parts(1)
    if repeats is None or len(repeats) != len(x):
        return None
    return [asked.algebra.multiply(a, b) for a, b in zip(x, repeats, strict=True)]


def _range(asked: _Asked) -> Claims | None:
    bounds = [asked.parts(i) for i in range(3)]
    if any(bound is None for bound in bounds):
        return None
    (start,), (limit,), (delta,) = bounds  # type: ignore[misc]
    if start == 0 and delta == 1 and asked.algebra.whole(limit):
        return [limit]
    return [asked.algebra.apply("Range", start, limit, delta, natural=True)]


def _fill(asked: _Asked) -> Claims | None:
    return asked.parts(0)


def _resize(asked: _Asked) -> Claims | None:
    """Sizes, or scales where they are whole numbers."""
    x = asked.dims()
    plain = asked.node.op_type == "Upsample" or asked.opset < 11
    scales = asked.parts(1 if plain else 2, "scales")
    target = None if plain else asked.parts(3)
    axes = [int(axis) % len(x) for axis in asked.attribute("axes", range(len(x)))]
    if not scales and not target:
        return None
    sizes: list[Element | None] = list(x)
    for number, axis in enumerate(axes):
        if scales:
            scale, size = scales[number], x[axis]
            whole = not isinstance(scale, Size) and float(scale).is_integer()
            other = asked.algebra.apply("Resize", size, scale, natural=True)
            sizes[axis] = asked.algebra.multiply(size, int(scale)) if whole else other  # type: ignore[arg-type]
        elif target:
            ratio = asked.attribute("keep_aspect_ratio_policy", b"stretch") == b"stretch"
            sizes[axis] = target[number] if ratio else None
    return sizes


def _blocks(asked: _Asked) -> Claims:
    n, c, *space = asked.dims()
    block = asked.attribute("blocksize")
    if asked.node.op_type == "DepthToSpace":
        return [n, asked.algebra.divide(c, block**2), *(asked.algebra.multiply(s, block) for s in space)]
    return [n, asked.algebra.multiply(c, block**2), *(asked.algebra.divide(s, block) for s in space)]


def _convolution(asked: _Asked) -> Claims:
    x, w = asked.dims(0), asked.dims(1)
    return [x[0], w[0], *_windows(asked, x[2:], w[2:])]


def _pool(asked: _Asked) -> Claims | None:
    x = asked.dims()
    if len(asked.node.output) > 1:
        return None
    return [*x[:2], *_windows(asked, x[2:], asked.attribute("kernel_shape"))]


def _windows(asked: _Asked, space: Dims, kernel: Sequence[Element]) -> list[Element | None]:
    """(size + pads - reach) / stride rounded down, plus 1; or size / stride rounded up for SAME."""
    n, algebra = len(space), asked.algebra
    strides, dilations = asked.attribute("strides", [1] * n), asked.attribute("dilations", [1] * n)
    pads = asked.attribute("pads", [0] * 2 * n)
    mode = asked.attribute("auto_pad", b"NOTSET")
    if asked.attribute("ceil_mode", 0) or any(isinstance(k, Size) for k in kernel):
        return [None] * n
    found: list[Element | None] = []
    for i, size in enumerate(space):
        if mode in (b"SAME_UPPER", b"SAME_LOWER"):
            found.append(algebra.divide(algebra.add(size, strides[i] - 1), strides[i]))
            continue
        total = 0 if mode == b"VALID" else pads[i] + pads[i + n]
        reach = (int(kernel[i]) - 1) * dilations[i] + 1  # type: ignore[arg-type]
        steps = algebra.add(size, total - reach)
        found.append(algebra.add(algebra.divide(steps, strides[i]), 1))
    return found


def _transposed(asked: _Asked) -> Claims | None:
    """stride * (size - 1) + extra + reach - pads."""
    x, w = asked.dims(0), asked.dims(1)
    n, algebra = len(x) - 2, asked.algebra
    if asked.attribute("output_shape") or asked.attribute("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    strides, dilations = asked.attribute("strides", [1] * n), asked.attribute("dilations", [1] * n)
    pads, extra = asked.attribute("pads", [0] * 2 * n), asked.attribute("output_padding", [0] * n)
    sizes: list[Element | None] = [x[0], algebra.multiply(w[1], asked.attribute("group", 1))]
    for i, size in enumerate(x[2:]):
        if isinstance(w[i + 2], Size):
            return None
        reach = (int(w[i + 2]) - 1) * dilations[i] + 1  # type: ignore[arg-type]
        rest = extra[i] + reach - pads[i] - pads[i + n] - strides[i]
        sizes.append(algebra.add(algebra.multiply(size, strides[i]), rest))
    return sizes


_RULES: dict[str, Callable[[_Asked], Claims | None]] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Concat": _concat,
    "Slice": _slice,
    "Pad": _pad,
    "Tile": _tile,
    "Range": _range,
    "ConstantOfShape": _fill,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _blocks,
    "SpaceToDepth": _blocks,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
}


# --- elements -------------------------------------------------------------------------------------------

# operators that move elements without changing them, and which of their inputs are moved; -1: all
_MOVES = {
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Slice": (0,),
    "Reshape": (0,),
    "Squeeze": (0,),
    "Unsqueeze": (0,),
    "Transpose": (0,),
    "Flatten": (0,),
    "Expand": (0,),
    "Tile": (0,),
    "Identity": (0,),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Concat": (-1,),
}


def elements(node: onnx.NodeProto, symbols: Symbols) -> np.ndarray | None:
    """The elements of the node's one output, as an array of objects; None if they are not followed."""
    asked = _Asked(node, symbols)
    if node.op_type == "Shape":
        return _array(asked.dims()[asked.attribute("start", 0) : asked.attribute("end")])
    if node.op_type == "Size":
        return np.array(asked.algebra.product(asked.dims()), object)
    if node.op_type in _MOVES:
        return _moved(asked, _MOVES[node.op_type])
    if node.op_type in ("ReduceProd", "ReduceSum"):
        return _reduced(asked)
    if node.op_type in _ELEMENTWISE:
        return _each(asked, _ELEMENTWISE[node.op_type])
    return None


def _array(values: Sequence[Element]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _moved(asked: _Asked, moved: tuple[int, ...]) -> np.ndarray | None:
    """Move numbers that stand for the elements, as the operator itself would."""
    node, pool = asked.node, list[Element]()
    feeds = {}
    for i, name in enumerate(node.input):
        if not name:
            continue
        if moved == (-1,) or i in moved:
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


def _reduced(asked: _Asked) -> np.ndarray | None:
    """A sum or product over all elements."""
    parts, result = asked.parts(0), asked.symbols.first.known[asked.node.output[0]]
    if parts is None or result.size != 1:
        return None
    algebra = asked.algebra
    total = algebra.product(parts) if asked.node.op_type == "ReduceProd" else algebra.add(*parts)
    return np.full(result.shape, total, object)


def _each(asked: _Asked, rule: Callable[..., Element | None]) -> np.ndarray | None:
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


def _is_float(asked: _Asked) -> bool:
    return asked.symbols.first.known[asked.node.output[0]].dtype.kind == "f"


def _divided(asked: _Asked, a: Element, b: Element) -> Element:
    if not _is_float(asked):
        return asked.algebra.divide(a, b)
    even = asked.algebra.exact(a, b) if _whole(a, b) else None
    return (
        asked.algebra.apply("/", a, b, natural=_natural(asked, a, b), whole=False) if even is None else even
    )


def _multiplied(asked: _Asked, a: Element, b: Element) -> Element:
    if not _whole(a, b):
        return asked.algebra.apply("*", a, b, natural=_natural(asked, a, b), whole=False)
    return asked.algebra.multiply(a, b)


def _natural(asked: _Asked, *operands: Element) -> bool:
    return all(asked.algebra.natural(operand) for operand in operands)


def _rest(asked: _Asked, a: Element, b: Element) -> Element:
    if not isinstance(b, Size) and asked.algebra.exact(a, b) is not None:
        return 0
    return asked.algebra.apply("Mod", a, b, natural=_natural(asked, a, b))


def _extreme(larger: bool) -> Callable[..., Element | None]:
    def rule(asked: _Asked, *operands: Element) -> Element | None:
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

    def rule(asked: _Asked, a: Element, b: Element) -> Element | None:
        if not _whole(a, b):
            return None
        order = asked.algebra.sign(asked.algebra.subtract(a, b))
        if order is None and isinstance(a, Size) and not isinstance(b, Size):
            order = 1 if b < 0 and asked.algebra.natural(a) else None
        if order is None and isinstance(b, Size) and not isinstance(a, Size):
            order = -1 if a < 0 and asked.algebra.natural(b) else None
        return None if order is None else holds(order)

    return rule


def _where(asked: _Asked, condition: Element, a: Element, b: Element) -> Element | None:
    if isinstance(condition, Size):
        return a if a == b else None
    return a if condition else b


def _and(asked: _Asked, a: Element, b: Element) -> Element | None:
    return False if a is False or b is False else None


def _or(asked: _Asked, a: Element, b: Element) -> Element | None:
    return True if a is True or b is True else None


def _rounded(asked: _Asked, a: Element) -> Element:
    if asked.algebra.whole(a):
        return a
    return asked.algebra.apply(asked.node.op_type, a, natural=_natural(asked, a))


def _cast(asked: _Asked, a: Element, *_: Element) -> Element | None:
    """Between numbers; a fraction is cut off towards zero."""
    kind = asked.symbols.first.known[asked.node.output[0]].dtype.kind
    if kind == "f" or (kind in "iu" and asked.algebra.whole(a)):
        return a
    return asked.algebra.apply("Trunc", a, natural=_natural(asked, a)) if kind in "iu" else None


def _magnitude(asked: _Asked, a: Element) -> Element | None:
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
