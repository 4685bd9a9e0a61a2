"""Operators that select or scatter along an axis, and those that tell sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from tgonnx.graph.algebra import Algebra, Element, Size
from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.asked import Asked, Claims
from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.relations import Alternative, Choice, Free, Labels, Relation, Tie, is_whole
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.tables import dims, gradient, resize, rule
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Operand, View, same

FAR = 2**31 - 1  # an end from here on means the end of the axis


@dataclass(frozen=True)
class _Bounds:
    """What a Slice takes of one axis: its place among the named axes, and the indices; None if not known."""

    place: int
    where: slice | None


def _bounds(view: View) -> dict[int, _Bounds] | None:
    """axis -> bounds, for each axis that is named; None if it is not known which are."""
    x = view.input(0)
    axes, steps = view.constant(3, "axes"), view.elements(4, "steps")
    starts, ends = view.elements(1, "starts"), view.elements(2, "ends")
    count = next((len(given) for given in (axes, starts, ends) if given is not None), None)
    if count is None or (axes is None and view.has(3)):
        return None
    axes = list(range(count)) if axes is None else axes
    starts, ends = starts or [None] * count, ends or [None] * count
    steps = steps or [None if view.has(4) else 1] * count
    found = {}
    for place, (axis, *bounds) in enumerate(zip(axes, starts, ends, steps, strict=True)):
        known = [int(bound) for bound in bounds if bound is not None]
        found[axis % x.rank] = _Bounds(place, slice(*known) if len(known) == len(bounds) else None)
    return found


traits("Slice", are=Traits(carries=(0,), moves=True, sizes=(1, 2, 3, 4), sizes_follow=True))


@dims("Slice")
def slice_dims(asked: Asked) -> Claims | None:
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


@rule("Slice")
def slice_rule(view: View) -> Iterator[Relation]:
    """An axis whose bounds are not known stays, even if it keeps its size: it may have been cut and shifted."""
    x, y, found = view.input(0), view.output(), _bounds(view)
    if found is None:
        return
    yield from same(x, y, skip=list(found))
    for axis, bounds in found.items():
        if bounds.where is not None:
            yield Tie(x[axis][bounds.where], y[axis])
            yield Free(x[axis])
            yield from _blocks(x[axis], bounds.where)


def _blocks(x: Labels, where: slice) -> Iterator[Relation]:
    """So that the stride stays right, blocks of `step` indices live or die together.

    They are counted from the start of the axis, wherever the slice begins: `::2` and `1::2` share their blocks.
    """
    step = abs(where.step)
    picks = np.arange(len(x) if step > 1 and not is_whole(x) else 0)[where]
    if len(picks) > 1:
        held = np.arange(picks.min() // step * step, min((picks.max() // step + 1) * step, len(x)))
        yield Tie(x[held // step * step], x[held])


@resize("Slice")
def resize_slice(view: View, cut: Cut) -> None:
    """Axes that are not cut keep the bounds they have: an end beyond every size, for instance."""
    starts, ends = {}, {}
    for axis, bounds in (_bounds(view) or {}).items():
        keep = cut.keep(view.input(0)[axis])
        if bounds.where is None or keep.all():
            continue
        picks = np.arange(len(keep))[bounds.where]
        kept = picks[keep[picks]]
        places = (np.cumsum(keep) - 1)[kept]
        first, beyond = (places[0], places[-1] + np.sign(bounds.where.step)) if kept.size else (0, 0)
        starts[bounds.place] = int(first)
        ends[bounds.place] = int(beyond) if beyond >= 0 else -(2**31)  # -1 would be the last index
    for index, name, new in ((1, "starts", starts), (2, "ends", ends)):
        if name in view.attributes:
            stored = enumerate(view.attributes[name])
            cut.set_attribute(name, [new.get(place, number) for place, number in stored])
        else:
            cut.set_elements(index, new)


@gradient("Slice")
def slice_(row: Row) -> Grads:
    """Scatter into zeros: the positions are found by slicing a range per axis."""
    result = row.dy
    x = row.x
    rank = row.rank(x)
    axes_constant = row.constant(3)
    if row.has(3) and axes_constant is None:
        raise row.unsupported("the axes are not constant")
    starts = row.input(1)
    if axes_constant is not None:
        axes = [int(a) % rank for a in axes_constant]
    else:
        count = (row.shape(starts) or (None,))[0]
        if not isinstance(count, int):
            raise row.unsupported("the number of sliced axes is unknown")
        axes = list(range(count))
    for position, axis in enumerate(axes):
        result = _unslice(row, result, position, axis)
    return [result]


def _unslice(row: Row, grad: Value, position: int, axis: int) -> Value:
    """Undo one sliced axis: gather from the gradient with a zero row appended."""
    x = row.x
    in_shape = row.shape(x)
    bounds = [row.constant(i) for i in (1, 2)]
    steps = row.constant(4)
    step = 1 if not row.has(4) else None if steps is None else int(steps[position])
    length = in_shape[axis] if in_shape else None
    if isinstance(length, int) and step is not None and all(b is not None for b in bounds):
        start, stop = (int(b[position]) for b in bounds if b is not None)
        indices = list(range(length))[slice(start, None if stop < -length else stop, step)]
        if indices == list(range(length)):
            return grad
        if step == 1:
            return zero_padded(row, grad, [axis], [indices[0]], [length - 1 - indices[-1]])
        place = np.full(length, len(indices), np.int64)
        place[indices] = np.arange(len(indices))
        table = row.emitter.constant(place)
    else:
        zero, one = row.emitter.scalar(0, 7), row.emitter.scalar(1, 7)
        total = x.shape(axis, axis + 1)
        positions = row.op("Range", zero, total.squeeze([0]), one)
        pick = [row.input(i).slice([position], [position + 1], [0]) for i in (1, 2)]
        pick = [p if p.elem_type == 7 else p.cast(7) for p in pick]
        stride = row.input(4).slice([position], [position + 1], [0]) if row.has(4) else row.emitter.ints([1])
        kept = row.op("Slice", positions, *pick, row.emitter.ints([0]), stride)
        count = kept.shape()
        blank = row.op("Expand", count, total)
        order = row.op("Range", zero, count.squeeze([0]), one)
        table = row.op("ScatterElements", blank, kept, order, axis=0)
    padded = zero_padded(row, grad, [axis], [0], [1])
    return row.op("Gather", padded, table, axis=axis)


def zero_padded(row: Row, grad: Value, axes: list[int], begin: list[int], end: list[int]) -> Value:
    """Zeros around some axes. All axes are listed: onnxruntime 1.19 mixes up those that Pad is told."""
    rank = row.rank(row.x)
    pads = [0] * (2 * rank)
    for axis, first, last in zip(axes, begin, end, strict=True):
        pads[axis], pads[rank + axis] = first, last
    return row.op("Pad", grad, row.emitter.ints(pads))


traits("Gather", are=Traits(weights=(0,), looks_up=((1, 0),), carries=(0,), moves=True))


@rule("Gather")
def gather(view: View) -> Iterator[Relation]:
    x, indices, y = view.input(0), view.input(1), view.output()
    axis, rank = view.attribute("axis", 0) % x.rank, indices.rank
    for i in range(x.rank):
        if i != axis:
            yield Tie(x[i], y[i if i < axis else i + rank - 1])
    if indices.known is not None and rank == 1:
        yield Tie(x[axis][indices.known], y[axis])
        yield Free(np.setdiff1d(x[axis], x[axis][indices.known]))
        yield Tie(indices[0], y[axis])
    elif indices.known is None:
        for i, labels in enumerate(indices.axes):
            yield Tie(labels, y[axis + i])
    elif rank == 0:
        yield Free(np.delete(x[axis], int(indices.known)))
    else:
        yield from _gathered_block(x[axis], indices, y.axes[axis : axis + rank])


def _gathered_block(x: Labels, indices: Operand, y: tuple[Labels, ...]) -> Iterator[Relation]:
    """A table of indices can be cut along one of its axes (as_strided, window partitions)."""
    assert indices.known is not None
    taken = x[indices.known]
    alternatives = []
    for axis, labels in enumerate(y):
        if len(labels) > 1:
            along = np.expand_dims(labels, [i for i in range(len(y)) if i != axis])
            rest = Free(np.setdiff1d(x, taken))
            ties = (Tie(taken, np.broadcast_to(along, taken.shape)), Tie(labels, indices[axis]), rest)
            alternatives.append(Alternative(f"index axis {axis}", labels, ties))
    if alternatives:
        yield Choice(tuple(alternatives))


@resize("Gather")
def resize_gather(view: View, cut: Cut) -> None:
    x, indices = view.input(0), view.input(1)
    axis = view.attribute("axis", 0) % x.rank
    if indices.known is None or not cut.touches([x[axis]]):
        return
    keep = cut.keep(x[axis])
    position = np.cumsum(keep) - 1
    chosen = indices.known % len(keep)
    for i in range(chosen.ndim):
        chosen = np.compress(cut.keep(view.output()[axis + i]), chosen, i)
    cut.set_input(1, position[chosen].astype(indices.known.dtype))


@gradient("Gather")
def gather_gradient(row: Row) -> Grads:
    """Add the slices of dy at their places in zeros."""
    x, axis = row.x, row.axis(0)
    shape = row.shape_of(x)
    rank = row.rank(x)
    count = row.op("Size", row.input(1)).reshape([1])
    parts = [
        p for p in (_part(row, shape, 0, axis), count, _part(row, shape, axis + 1, rank)) if p is not None
    ]
    target = row.emitter.concat(parts, 0)
    index = row.input(1).reshape([-1, *[1] * (rank - 1 - axis)]).expand(target)
    zeros = row.emitter.filled(shape, 0.0, x.elem_type)
    return [row.op("ScatterElements", zeros, index, row.dy.reshape(target), axis=axis, reduction="add")]


def _part(row: Row, shape: Value, start: int, end: int) -> Value | None:
    return shape.slice([start], [end], [0]) if end > start else None


traits("ScatterND", are=Traits(carries=(0, 2), moves=True))
traits("GatherND", are=Traits(carries=(0,), moves=True))


@rule("ScatterND", "GatherND")
def pick(view: View) -> Iterator[Relation]:
    """The axes behind the indexed ones go through."""
    x, indices, y = view.input(0), view.input(1), view.output()
    depth, lead = len(indices[indices.rank - 1]), indices.rank - 1
    if view.attribute("batch_dims", 0):
        return
    for axis in range(depth, x.rank):
        if view.op_type == "ScatterND":
            yield Tie(x[axis], y[axis])
            yield Tie(x[axis], view.input(2)[lead + axis - depth])
        else:
            yield Tie(x[axis], y[lead + axis - depth])


@gradient("ScatterND")
def scatter_nd(row: Row) -> Grads:
    """All reductions."""
    return _scattered(row, "ScatterND", "GatherND", {})


def _scattered(row: Row, scatter: str, gather_gradient: str, where: dict[str, int]) -> Grads:
    """`mul` needs updates that are not zero; of equal elements, `max` and `min` serve all."""
    x, index, updates = row.x, row.input(1), row.input(2)
    reduction = row.attribute("reduction", "none")
    dx, du = row.op("Identity", row.dy), row.op(gather_gradient, row.dy, index, **where)
    if reduction == "none":
        dx = row.op(scatter, row.dy, index, row.zeros_like(updates), **where)
    elif reduction == "mul":
        ones = row.emitter.filled(x.shape(), 1.0, x.elem_type)
        dx = row.dy * row.op(scatter, ones, index, updates, reduction="mul", **where)
        du = du * row.op(gather_gradient, row.y, index, **where) / updates
    elif reduction in ("max", "min"):
        dx = row.dy * x.equals(row.y).cast_like(x)
        du = du * updates.equals(row.op(gather_gradient, row.y, index, **where)).cast_like(x)
    return [dx, None, du]


@gradient("GatherND")
def gather_nd(row: Row) -> Grads:
    """Add the slices of dy at their places; batch_dims become leading coordinates."""
    index, dims = row.input(1), int(row.attribute("batch_dims", 0))
    if dims:
        shape = row.shape(index)
        batch = shape[:dims] if shape else ()
        sizes = [d for d in batch if isinstance(d, int)]
        if shape is None or len(sizes) < dims:
            raise row.unsupported("batch_dims is not 0 and the sizes of the batch are not fixed")
        places = np.stack(list(np.indices(sizes, np.int64)), -1)  # (*sizes, dims)
        places = places.reshape([*sizes, *[1] * (len(shape) - 1 - dims), dims])
        last = row.emitter.ints([dims])
        target = row.emitter.concat([index.shape(0, -1), last], 0)
        index = row.emitter.concat([row.emitter.constant(places).expand(target), index], -1)
    return [row.op("ScatterND", row.zeros_like(row.x), index, row.dy, reduction="add")]


traits("GatherElements", are=Traits(looks_up=((1, 0),), carries=(0,), moves=True))


@rule("GatherElements")
def gather_elements(view: View) -> Iterator[Relation]:
    """Indices count along one axis; along the others they may stop early, but never shift."""
    x, indices, y = view.input(0), view.input(1), view.output()
    yield from same(indices, y)
    for i, labels in enumerate(x.axes):
        if i != view.attribute("axis", 0) % x.rank:
            yield Tie(labels[: len(y[i])], y[i])
            yield Free(labels)


@gradient("GatherElements")
def gather_elements_gradient(row: Row) -> Grads:
    """Add every element of dy at its place."""
    axis, zeros = row.axis(0), row.zeros_like(row.x)
    return [row.op("ScatterElements", zeros, row.input(1), row.dy, axis=axis, reduction="add")]


traits("ScatterElements", are=Traits(carries=(0, 2), moves=True))


@rule("ScatterElements", "Scatter")
def scatter_elements(view: View) -> Iterator[Relation]:
    x, y = view.input(0), view.output()
    for i, labels in enumerate(x.axes):
        if i != view.attribute("axis", 0) % x.rank and len(view.input(1)[i]) == len(labels):
            for other in (view.input(1), view.input(2), y):
                yield Tie(labels, other[i])


@gradient("ScatterElements", "Scatter")
def scatter_elements_gradient(row: Row) -> Grads:
    """All reductions."""
    return _scattered(row, "ScatterElements", "GatherElements", {"axis": row.axis(0)})


@rule("Trilu")
def triangle(view: View) -> Iterator[Relation]:
    yield from same(view.input(0), view.output(), skip=[view.input(0).rank - 2, view.input(0).rank - 1])


@gradient("Trilu")
def triangle_gradient(row: Row) -> Grads:
    """The same triangle_gradient of the gradient."""
    return [row.op("Trilu", row.dy, row.input(1) if row.has(1) else None, upper=row.attribute("upper", 1))]


@rule("ReverseSequence")
def reverse_sequence(view: View) -> Iterator[Relation]:
    batch, time = view.attribute("batch_axis", 1), view.attribute("time_axis", 0)
    yield from same(view.input(0), view.output(), skip=[time])
    yield Tie(view.input(1)[0], view.input(0)[batch])


@gradient("ReverseSequence")
def reverse_sequence_gradient(row: Row) -> Grads:
    """Reversing twice changes nothing."""
    axes = {"batch_axis": row.attribute("batch_axis", 1), "time_axis": row.attribute("time_axis", 0)}
    return [row.op("ReverseSequence", row.dy, row.input(1), **axes)]


@rule("Compress")
def compress(view: View) -> Iterator[Relation]:
    """Without an axis, the data is flattened and every index counts."""
    x, axis = view.input(0), view.attribute("axis")
    if axis is not None:
        yield from same(x, view.output(), skip=[axis % x.rank])


@gradient("Compress")
def compress_gradient(row: Row) -> Grads:
    """The slices of dy at the places where the condition holds."""
    x, flat = row.x, row.attribute("axis") is None
    axis = 0 if flat else row.axis()
    places = row.op("NonZero", row.input(1)).reshape([-1, *([1] * (0 if flat else row.rank(x) - 1 - axis))])
    zeros = row.zeros_like(x).reshape([-1]) if flat else row.zeros_like(x)
    index = places.expand(row.dy.shape())
    grad = row.op("ScatterElements", zeros, index, row.dy, axis=axis)
    return [grad.reshape(x.shape()) if flat else grad]


@rule("TensorScatter")
def tensor_scatter(view: View) -> Iterator[Relation]:
    """A cache and what is written into it, along one axis."""
    cache, axis = view.input(0), view.attribute("axis", -2) % view.input(0).rank
    yield from same(cache, view.input(1), skip=[axis])
    yield from same(cache, view.output(), skip=[axis])
    if view.has(2):
        yield Tie(view.input(2)[0], cache[0])


@gradient("TensorScatter")
def tensor_scatter_gradient(row: Row) -> Grads:
    """The updates stand along the axis from each sequence's place on; the past has what they left."""
    rank = row.rank(row.x)
    axis, op = int(row.attribute("axis", -2)) % rank, row.op
    updates, length = row.input(1), row.x.shape(axis, axis + 1)
    one, zero = row.emitter.scalar(1, TensorProto.INT64), row.emitter.scalar(0, TensorProto.INT64)
    steps = op("Range", zero, updates.shape(axis, axis + 1).squeeze([0]), one)
    places = steps.reshape([1, -1])
    if row.has(2):
        places = places + row.value(row.node.input[2]).reshape([-1, 1])
    if row.attribute("mode", "linear") == "circular":
        places = op("Mod", places, length)
    index = places.unsqueeze([k for k in range(1, rank) if k != axis]).expand(updates.shape())
    past = op("ScatterElements", row.dy, index, row.zeros_like(updates), axis=axis)
    return [past, op("GatherElements", row.dy, index, axis=axis), None]


traits("OneHot", are=Traits(sizes=(1,), grows=True, set_up=True, rounds=True, stops=True))


@rule("OneHot")
def one_hot(view: View) -> Iterator[Relation]:
    """The new axis has one entry for each value that an index may have: it stays."""
    indices, y = view.input(0), view.output()
    place = view.attribute("axis", -1) % y.rank
    for axis, labels in enumerate(indices.axes):
        yield Tie(labels, y[axis if axis < place else axis + 1])


traits("Shape", are=Traits(reads_sizes="axes", stops=True))
traits("Size", are=Traits(reads_sizes="elements", stops=True))


@rule("Shape", "Size")
def shape(view: View) -> Iterator[Relation]:
    """Sizes that only tell other operators their sizes follow the cut by themselves."""
    yield from (Free(labels) for i, labels in enumerate(view.input(0).axes) if i not in view.sizes_read)
