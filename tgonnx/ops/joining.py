"""Operators that join, take apart, pad or repeat along an axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tgonnx.graph.algebra import Element, Size
from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.asked import Asked, Claims
from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.relations import Free, Labels, Relation, Tie
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.tables import dims, gradient, resize, rule
from tgonnx.ops.aspects.traits import EACH, Traits, traits
from tgonnx.ops.aspects.view import Operand, View, same
from tgonnx.ops.indexing import zero_padded

traits("Concat", are=Traits(carries=EACH, moves=True, common=True, joins_along=True))


@rule("Concat")
def concat(view: View) -> Iterator[Relation]:
    operands = [view.input(i) for i in range(len(view.inputs))]
    yield from joined(operands, view.output(), view.attribute("axis", 1))


def joined(operands: Sequence[Operand], y: Operand, axis: int) -> Iterator[Relation]:
    """One after the other along an axis."""
    axis, start = axis % y.rank, 0
    for x in operands:
        yield from same(x, y, skip=[axis])
        yield Tie(x[axis], y[axis][start : start + len(x[axis])])
        start += len(x[axis])


@gradient("Concat")
def concat_gradient(row: Row) -> Grads:
    """Split again."""
    axis, operands = row.axis(0), [row.input(i) for i in range(len(row.node.input))]
    if len(operands) == 1:
        return [row.op("Identity", row.dy)]
    shapes = [row.shape(v) for v in operands]
    lengths = [None if s is None else s[axis] for s in shapes]
    if all(isinstance(n, int) for n in lengths):
        sizes = row.emitter.ints([n for n in lengths if isinstance(n, int)])
    else:
        sizes = row.emitter.concat([v.shape(axis, axis + 1) for v in operands], 0)
    return list(row.emitter.ops("Split", row.dy, sizes, count=len(operands), axis=axis))


@dims("Concat")
def concat_dims(asked: Asked) -> Claims:
    parts = [asked.dims(i) for i in range(len(asked.node.input))]
    axis = asked.attribute("axis", 0) % len(parts[0])
    sizes: list[Element | None] = []
    for i, along in enumerate(zip(*parts, strict=True)):
        fixed = next((size for size in along if not isinstance(size, Size)), along[0])
        sizes.append(asked.algebra.add(*along) if i == axis else fixed)
    return sizes


traits("Split", are=Traits(carries=(0,), sizes=(1,), sizes_follow=True))


@rule("Split")
def split(view: View) -> Iterator[Relation]:
    view.needs_sizes(1)
    x = view.input(0)
    axis, start = view.attribute("axis", 0) % x.rank, 0
    for i, part in enumerate(view.outputs):
        if part is None:
            part = view.output(i)
        yield from same(x, part, skip=[axis])
        yield Tie(part[axis], x[axis][start : start + len(part[axis])])
        start += len(part[axis])


@resize("Split")
def resize_split(view: View, cut: Cut) -> None:
    axis = view.attribute("axis", 0) % view.input(0).rank
    if not cut.touches([view.input(0)[axis]]):
        return
    sizes = [cut.size(view.output(i)[axis]) for i in range(len(view.outputs))]
    if view.has(1):
        cut.set_elements(1, dict(enumerate(sizes)))
    elif "split" in view.attributes:
        cut.set_attribute("split", sizes)
    elif len(set(sizes)) == 1:
        return  # equal parts stay equal
    elif view.opset < 13:
        cut.set_attribute("split", sizes)
    else:
        cut.set_attribute("num_outputs", None)
        cut.set_input(1, np.array(sizes, np.int64))


@gradient("Split")
def split_gradient(row: Row) -> Grads:
    """Concatenate; unused outputs contribute zeros."""
    parts = []
    for index in range(len(row.node.output)):
        grad = row.gradient(index)
        parts.append(row.zeros_like(row.output(index)) if grad is None else grad)
    return [row.op("Concat", *parts, axis=row.axis(0))]


traits("Pad", are=Traits(carries=(0,), sizes=(1, 3), sizes_follow=True, grows=True, set_up=True))


@rule("Pad")
def pad(view: View) -> Iterator[Relation]:
    x, y = view.input(0), view.output()
    constant = view.attribute("mode", "constant") == "constant"
    for axis, (before, after) in enumerate(pad_widths(view)):
        inside, outside = x[axis], y[axis]
        if before is None or after is None:
            continue
        if not before and not after:
            yield Tie(inside, outside)
        elif constant:
            inside = inside[max(-before, 0) : len(inside) - max(-after, 0)]
            yield Tie(inside, outside[max(before, 0) : max(before, 0) + len(inside)])
            yield Free(outside)
            yield Free(x[axis])


Width = tuple[int | None, int | None]


def _padded_axes(view: View) -> list[int] | None:
    """The axes that `pads` speaks of, in its order; None if not known."""
    rank, named = view.input(0).rank, view.constant(3, "axes")
    if named is None:
        return None if view.has(3) else list(range(rank))
    return [axis % rank for axis in named]


def pad_widths(view: View) -> list[Width]:
    """(before, after) for each axis, None where not known."""
    axes, rank = _padded_axes(view), view.input(0).rank
    name = "paddings" if view.opset < 2 else "pads"
    pads = view.elements(1, name)
    if axes is None:
        return [(None, None)] * rank
    widths: list[Width] = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        before, after = (None, None) if pads is None else (pads[i], pads[i + len(axes)])
        widths[axis] = (None if before is None else int(before), None if after is None else int(after))
    return widths


@dims("Pad")
def pad_dims(asked: Asked) -> Claims | None:
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


@resize("Pad")
def resize_pad(view: View, cut: Cut) -> None:
    """Only axes that are cut: how much others are padded may depend on dynamic sizes."""
    x, y, axes, new = view.input(0), view.output(), _padded_axes(view) or [], {}
    for i, axis in enumerate(axes):
        before, after = pad_widths(view)[axis]
        if before is not None and after is not None and cut.touches([x[axis], y[axis]]):
            new[i], new[i + len(axes)] = _cut_width(cut, x[axis], y[axis], before, after)
    for name in ("pads", "paddings"):
        if name in view.attributes:
            stored = enumerate(view.attributes[name])
            cut.set_attribute(name, [new.get(place, number) for place, number in stored])
    cut.set_elements(1, new)


def _cut_width(cut: Cut, x: Labels, y: Labels, before: int, after: int) -> tuple[int, int]:
    lead = cut.size(y[:before]) if before >= 0 else -cut.size(x[:-before])
    tail = cut.size(y[len(y) - after :]) if after > 0 else -cut.size(x[len(x) + after :]) if after else 0
    return lead, tail


@gradient("Pad")
def pad_gradient(row: Row) -> Grads:
    """Crop; what reflect, edge and wrap copied is added back where it came from."""
    mode, x = row.attribute("mode", "constant"), row.x
    rank = row.rank(x)
    axes_constant = row.constant(3)
    if row.has(3) and axes_constant is None:
        raise row.unsupported("the axes are not constant")
    axes = list(range(rank)) if axes_constant is None else [int(a) % rank for a in axes_constant]
    n, pads = len(axes), row.constant(1)
    if mode == "constant":
        value = row.dy.sum(None, False) if row.need(2) else None
        if pads is not None:
            crop = [-int(p) for p in pads]
            dx = zero_padded(row, row.dy, axes, crop[:n], crop[n:])
        else:
            begin = row.input(1).slice([0], [n], [0])
            lengths = row.shape_of(x)
            if n < rank:
                lengths = row.op("Gather", lengths, row.emitter.ints(axes))
            dx = row.dy.slice(begin, begin + lengths, axes)
        return [dx, None, value - dx.sum(None, False) if value is not None else None]
    grad = row.dy
    shape = row.shape(x)
    for i, axis in enumerate(axes):
        if pads is not None and not pads[i] and not pads[i + n]:
            continue
        length = shape[axis] if shape else None
        if pads is not None and isinstance(length, int):
            source = np.arange(length)
            lo, hi = max(int(pads[i]), 0), max(int(pads[i + n]), 0)
            source = np.pad(source, (lo, hi), mode=mode)
            source = source[max(-int(pads[i]), 0) : len(source) - max(-int(pads[i + n]), 0)]
            table = row.emitter.constant(source.astype(np.int64))
            extent = row.emitter.ints([length])
        else:
            zero, one = row.emitter.scalar(0, 7), row.emitter.scalar(1, 7)
            extent = x.shape(axis, axis + 1)
            positions = row.op("Range", zero, extent.squeeze([0]), one)
            both = [row.input(1).slice([j], [j + 1], [0]) for j in (i, i + n)]
            table = row.op("Pad", positions, row.emitter.concat(both, 0), mode=mode)
        grad = add_at(row, grad, table, axis, extent, rank)
    return [grad]


def add_at(row: Row, grad: Value, table: Value, axis: int, extent: Value, rank: int) -> Value:
    """Sum slices of `grad` along `axis` into `extent` places given by the one-dimensional `table`."""
    onehot = row.op("OneHot", table, extent, row.emitter.constant(np.array([0, 1], _np_type(grad))), axis=0)
    if axis == rank - 1:
        return row.op("MatMul", grad, row.op("Transpose", onehot, perm=[1, 0]))
    perm = [*(i for i in range(rank) if i != axis), axis]
    moved = row.op("MatMul", grad.transpose(perm), row.op("Transpose", onehot, perm=[1, 0]))
    return moved.transpose([int(i) for i in np.argsort(perm)])


def _np_type(value: Value) -> np.dtype[np.generic]:
    from onnx import helper

    return helper.tensor_dtype_to_np_dtype(value.elem_type)


traits("CenterCropPad", are=Traits(sizes=(1,), grows=True))


@rule("CenterCropPad")
def center_crop_pad(view: View) -> Iterator[Relation]:
    """The axes that change are not cut: their centre would move."""
    view.needs_sizes(1)
    for x, y in zip(view.input(0).axes, view.output().axes, strict=True):
        if len(x) == len(y):
            yield Tie(x, y)


@resize("CenterCropPad")
def resize_center_crop_pad(view: View, cut: Cut) -> None:
    y = view.output()
    axes = [axis % y.rank for axis in view.attribute("axes", range(y.rank))]
    cut.set_elements(1, sizes_after(cut, [y[axis] for axis in axes]))


def sizes_after(cut: Cut, axes: Sequence[Labels]) -> dict[int, int]:
    """The new sizes of those axes that are cut; stored sizes of others stay what they are."""
    return {place: cut.size(labels) for place, labels in enumerate(axes) if cut.touches([labels])}


traits("Expand", "Tile", are=Traits(carries=(0,), moves=True, sizes=(1,), sizes_follow=True, grows=True))
traits("Expand", are=Traits(proportional=True))


@rule("Expand", "Tile")
def repeat(view: View) -> Iterator[Relation]:
    """An axis of size 1 that is repeated makes labels of its own; a longer one repeats its labels."""
    view.needs_sizes(1)
    x, y = view.input(0), view.output()
    offset = y.rank - x.rank
    for axis, labels in enumerate(y.axes):
        source = x[axis - offset] if axis >= offset else None
        if source is None or (len(source) == 1 and len(labels) > 1):
            yield Free(labels)
        else:
            yield Tie(np.tile(source, len(labels) // len(source)), labels)


@dims("Expand")
def expand_dims(asked: Asked) -> Claims | None:
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


@dims("Tile")
def tile_dims(asked: Asked) -> Claims | None:
    x, repeats = asked.dims(), asked.parts(1)
    if repeats is None or len(repeats) != len(x):
        return None
    return [asked.algebra.multiply(a, b) for a, b in zip(x, repeats, strict=True)]


@resize("Expand")
def resize_expand(view: View, cut: Cut) -> None:
    target, y = cut.now(1), view.output()
    if target is not None:
        sizes = sizes_after(cut, y.axes[y.rank - len(target) :])
        cut.set_elements(1, {place: size for place, size in sizes.items() if target[place] != 1})


@gradient("Expand")
def expand(row: Row) -> Grads:
    """Sum over the broadcast axes."""
    return [row.unbroadcast(row.op("Identity", row.dy), row.x)]


@resize("Tile")
def resize_tile(view: View, cut: Cut) -> None:
    """Only a repeated axis of size 1 is repeated less often; a longer one has the same repeats of what is left."""
    x, y = view.input(0), view.output()
    if view.opset > 5:
        sizes = sizes_after(cut, y.axes)
        cut.set_elements(1, {place: size for place, size in sizes.items() if len(x[place]) == 1})


@gradient("Tile")
def tile(row: Row) -> Grads:
    """Split each axis into (repeats, length) and sum over the repeats."""
    rank = row.rank(row.x)
    pairs = row.emitter.concat([row.input(1).unsqueeze([1]), row.shape_of(row.x).unsqueeze([1])], 1)
    return [row.dy.reshape(pairs.reshape([-1])).sum(list(range(0, 2 * rank, 2)), keepdims=False)]


traits("ConstantOfShape", are=Traits(sizes=(0,), sizes_follow=True, grows=True, stops=True))


@dims("ConstantOfShape")
def filled_dims(asked: Asked) -> Claims | None:
    return asked.parts(0)


@rule("ConstantOfShape")
def fill(view: View) -> Iterator[Relation]:
    """A constant fill may have any size."""
    view.needs_sizes(0)
    yield from (Free(labels) for labels in view.output().axes)


@resize("ConstantOfShape")
def resize_constant_of_shape(view: View, cut: Cut) -> None:
    cut.set_elements(0, sizes_after(cut, view.output().axes))
