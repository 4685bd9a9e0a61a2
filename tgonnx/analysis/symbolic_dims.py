"""How operators pass on sizes of axes: the standard's own inference wherever it carries symbols, and a rule where not.

It gives up at reshapes, slices, windows, and whatever computes with sizes. A size of which nothing is known is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from tgonnx.analysis.algebra import Algebra, Dims, Element, Size
from tgonnx.analysis.one_node import Typed
from tgonnx.analysis.symbolic_node import Asked

if TYPE_CHECKING:
    from tgonnx.analysis.symbolic import Symbols

Claims = Sequence[Element | None]
MAX_SEEN = 4096  # elements of the largest constant that inference is shown
FAR = 2**31 - 1  # an end from here on means the end of the axis


def dims_of(node: onnx.NodeProto, symbols: Symbols) -> list[Claims | None] | None:
    """The sizes of each output, as far as they can be told."""
    asked = Asked(node, symbols)
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    try:
        found = rule(asked) if rule is not None else None
    except KeyError:  # the shape of an input is not known
        found = None
    return _inferred(asked) if found is None else [found]


def _inferred(asked: Asked) -> list[Claims | None]:
    """What the standard says when dynamic sizes are given to it as names."""
    node, symbols = asked.node, asked.symbols
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


def _reshape(asked: Asked) -> Claims | None:
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


def _flatten(asked: Asked) -> Claims:
    x, axis = asked.dims(), asked.attribute("axis", 1)
    axis += len(x) if axis < 0 else 0
    return [asked.algebra.product(x[:axis]), asked.algebra.product(x[axis:])]


def _expand(asked: Asked) -> Claims | None:
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


def _concat(asked: Asked) -> Claims:
    parts = [asked.dims(i) for i in range(len(asked.node.input))]
    axis = asked.attribute("axis", 0) % len(parts[0])
    sizes: list[Element | None] = []
    for i, along in enumerate(zip(*parts, strict=True)):
        fixed = next((size for size in along if not isinstance(size, Size)), along[0])
        sizes.append(asked.algebra.add(*along) if i == axis else fixed)
    return sizes


def _slice(asked: Asked) -> Claims | None:
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


def _pad(asked: Asked) -> Claims | None:
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


def _tile(asked: Asked) -> Claims | None:
    x, repeats = asked.dims(), asked.parts(1)
    if repeats is None or len(repeats) != len(x):
        return None
    return [asked.algebra.multiply(a, b) for a, b in zip(x, repeats, strict=True)]


def _range(asked: Asked) -> Claims | None:
    bounds = [asked.parts(i) for i in range(3)]
    if any(bound is None for bound in bounds):
        return None
    (start,), (limit,), (delta,) = bounds  # type: ignore[misc]
    if start == 0 and delta == 1 and asked.algebra.whole(limit):
        return [limit]
    return [asked.algebra.apply("Range", start, limit, delta, natural=True)]


def _fill(asked: Asked) -> Claims | None:
    return asked.parts(0)


def _resize(asked: Asked) -> Claims | None:
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


def _blocks(asked: Asked) -> Claims:
    n, c, *space = asked.dims()
    block = asked.attribute("blocksize")
    if asked.node.op_type == "DepthToSpace":
        return [n, asked.algebra.divide(c, block**2), *(asked.algebra.multiply(s, block) for s in space)]
    return [n, asked.algebra.multiply(c, block**2), *(asked.algebra.divide(s, block) for s in space)]


def _convolution(asked: Asked) -> Claims:
    x, w = asked.dims(0), asked.dims(1)
    return [x[0], w[0], *_windows(asked, x[2:], w[2:])]


def _pool(asked: Asked) -> Claims | None:
    x = asked.dims()
    if len(asked.node.output) > 1:
        return None
    return [*x[:2], *_windows(asked, x[2:], asked.attribute("kernel_shape"))]


def _windows(asked: Asked, space: Dims, kernel: Sequence[Element]) -> list[Element | None]:
    """(size + pads - reach) / stride rounded down, plus 1; or size / stride rounded up for SAME."""
    n, algebra = len(space), asked.algebra
    strides, dilations = asked.attribute("strides", [1] * n), asked.attribute("dilations", [1] * n)
    pads = asked.attribute("pads", [0] * 2 * n)
    mode = asked.attribute("auto_pad", b"NOTSET")
    inferred = asked.symbols.first.shapes.get(asked.node.output[0], ())[2:]
    if any(isinstance(k, Size) for k in kernel) or len(inferred) != n:
        return [None] * n
    found: list[Element | None] = []
    for i, size in enumerate(space):
        if not isinstance(size, Size):  # it depends on nothing else
            found.append(inferred[i])
            continue
        if asked.attribute("ceil_mode", 0):
            found.append(None)
            continue
        if mode in (b"SAME_UPPER", b"SAME_LOWER"):
            found.append(algebra.divide(algebra.add(size, strides[i] - 1), strides[i]))
            continue
        total = 0 if mode == b"VALID" else pads[i] + pads[i + n]
        reach = (int(kernel[i]) - 1) * dilations[i] + 1  # type: ignore[arg-type]
        steps = algebra.add(size, total - reach)
        found.append(algebra.add(algebra.divide(steps, strides[i]), 1))
    return found


def _transposed(asked: Asked) -> Claims | None:
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


_RULES: dict[str, Callable[[Asked], Claims | None]] = {
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
