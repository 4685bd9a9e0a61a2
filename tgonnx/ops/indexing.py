"""Operators that join, take apart, select, pad or repeat along an axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tgonnx.labels import Alternative, Choice, Free, Labels, Relation, Tie
from tgonnx.ops.cut import Cut
from tgonnx.ops.registry import resize, rule
from tgonnx.ops.view import Operand, View, same


@rule("Concat")
def concat(view: View) -> Iterator[Relation]:
    y = view.output()
    axis, start = view.attribute("axis", 1) % y.rank, 0
    for i in range(len(view.inputs)):
        x = view.input(i)
        yield from same(x, y, skip=[axis])
        yield Tie(x[axis], y[axis][start : start + len(x[axis])])
        start += len(x[axis])


@rule("Split")
def split(view: View) -> Iterator[Relation]:
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
    if view.opset < 13:
        cut.set_attribute("split", sizes)
    else:
        cut.set_attribute("num_outputs", None)
        cut.set_input(1, np.array(sizes, np.int64))


def slices(view: View) -> dict[int, slice] | None:
    """axis -> slice with bounds inside the axis; None if a bound is not known."""
    x = view.input(0)
    starts, ends = view.constant(1, "starts"), view.constant(2, "ends")
    if starts is None or ends is None:
        return None
    axes, steps = view.constant(3, "axes"), view.constant(4, "steps")
    if (axes is None and view.has(3)) or (steps is None and view.has(4)):
        return None
    axes = list(range(len(starts))) if axes is None else [axis % x.rank for axis in axes]
    steps = steps or [1] * len(starts)
    found = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        start, end, step = slice(start, end, step).indices(len(x[axis]))
        found[axis] = slice(start, None if end < 0 else end, step)
    return found


@rule("Slice")
def slice_rule(view: View) -> Iterator[Relation]:
    x, y, found = view.input(0), view.output(), slices(view)
    if (
        found is None
    ):  # axes that keep their size may still have been cut and shifted: only named axes are sure
        axes = view.constant(3, "axes")
        if axes is not None:
            yield from same(x, y, skip=[axis % x.rank for axis in axes])
        return
    yield from same(x, y, skip=list(found))
    for axis, where in found.items():
        yield from _taken(x[axis], y[axis], where)


def _taken(x: Labels, y: Labels, where: slice) -> Iterator[Relation]:
    yield Tie(x[where], y)
    yield Free(x)
    step = abs(where.step)
    if step > 1:  # what lies between two picks goes with them, so that the stride stays right
        picks = np.arange(len(x))[where]
        low = picks.min()
        reach = x[low : low + step * len(picks)]
        full = len(reach) // step * step
        yield Tie(np.repeat(reach[:full:step], step), reach[:full])


@resize("Slice")
def resize_slice(view: View, cut: Cut) -> None:
    found, x = slices(view), view.input(0)
    if found is None or not cut.touches([x[axis] for axis in found]):
        return
    starts, ends = [], []
    for axis, where in found.items():
        keep = cut.keep(x[axis])
        picks = np.arange(len(keep))[where]
        before = np.concatenate([[0], np.cumsum(keep)])
        if where.step > 0:
            starts.append(int(before[where.start]))
            ends.append(int(before[len(keep) if where.stop is None else where.stop]))
        else:
            kept = picks[keep[picks]]
            starts.append(int(before[kept[0]]) if kept.size else 0)
            last = int(before[kept[-1]]) - 1 if kept.size else 0
            ends.append(last if last >= 0 else -(2**31))
    if "starts" in view.attributes:
        cut.set_attribute("starts", starts)
        cut.set_attribute("ends", ends)
        cut.set_attribute("axes", list(found))
    else:
        stored = view.known(1)
        kind = np.dtype(np.int64) if stored is None else stored.dtype
        cut.set_input(1, np.array(starts, kind))
        cut.set_input(2, np.array(ends, kind))


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


@rule("GatherElements")
def gather_elements(view: View) -> Iterator[Relation]:
    """Indices count along one axis; along the others they may stop early, but never shift."""
    x, indices, y = view.input(0), view.input(1), view.output()
    yield from same(indices, y)
    for i, labels in enumerate(x.axes):
        if i != view.attribute("axis", 0) % x.rank:
            yield Tie(labels[: len(y[i])], y[i])
            yield Free(labels)


@rule("ScatterElements")
def scatter_elements(view: View) -> Iterator[Relation]:
    x, y = view.input(0), view.output()
    for i, labels in enumerate(x.axes):
        if i != view.attribute("axis", 0) % x.rank and len(view.input(1)[i]) == len(labels):
            for other in (view.input(1), view.input(2), y):
                yield Tie(labels, other[i])


@rule("Trilu")
def triangle(view: View) -> Iterator[Relation]:
    yield from same(view.input(0), view.output(), skip=[view.input(0).rank - 2, view.input(0).rank - 1])


@rule("ReverseSequence")
def reverse_sequence(view: View) -> Iterator[Relation]:
    batch, time = view.attribute("batch_axis", 1), view.attribute("time_axis", 0)
    yield from same(view.input(0), view.output(), skip=[time])
    yield Tie(view.input(1)[0], view.input(0)[batch])


@rule("Pad")
def pad(view: View) -> Iterator[Relation]:
    x, y = view.input(0), view.output()
    widths = pad_widths(view)
    if widths is None:
        return
    constant = view.attribute("mode", "constant") == "constant"
    for axis, (before, after) in enumerate(widths):
        inside, outside = x[axis], y[axis]
        if not before and not after:
            yield Tie(inside, outside)
        elif constant:
            inside = inside[max(-before, 0) : len(inside) - max(-after, 0)]
            yield Tie(inside, outside[max(before, 0) : max(before, 0) + len(inside)])
            yield Free(outside)
            yield Free(x[axis])


def pad_widths(view: View) -> list[tuple[int, int]] | None:
    """(before, after) for each axis, or None if not known."""
    pads, rank = view.constant(1, "pads"), view.input(0).rank
    if pads is None:
        return None
    named = view.constant(3, "axes")
    axes = list(range(rank)) if named is None else [axis % rank for axis in named]
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    return widths


@resize("Pad")
def resize_pad(view: View, cut: Cut) -> None:
    widths, x, y = pad_widths(view), view.input(0), view.output()
    if widths is None or not cut.touches([*x.axes, *y.axes]):
        return
    new = [_cut_width(cut, x[axis], y[axis], *widths[axis]) for axis in range(x.rank)]
    pads = [before for before, _ in new] + [after for _, after in new]
    if view.has(3):
        named = [axis % x.rank for axis in view.constant(3, "axes") or []]
        pads = [new[axis][0] for axis in named] + [new[axis][1] for axis in named]
    if "pads" in view.attributes:
        cut.set_attribute("pads", pads)
    else:
        cut.set_input(1, np.array(pads, np.int64))


def _cut_width(cut: Cut, x: Labels, y: Labels, before: int, after: int) -> tuple[int, int]:
    lead = cut.size(y[:before]) if before >= 0 else -cut.size(x[:-before])
    tail = cut.size(y[len(y) - after :]) if after > 0 else -cut.size(x[len(x) + after :]) if after else 0
    return lead, tail


@rule("Expand", "Tile")
def repeat(view: View) -> Iterator[Relation]:
    """An axis of size 1 that is repeated makes labels of its own; a longer one repeats its labels."""
    x, y = view.input(0), view.output()
    offset = y.rank - x.rank
    for axis, labels in enumerate(y.axes):
        source = x[axis - offset] if axis >= offset else None
        if source is None or (len(source) == 1 and len(labels) > 1):
            yield Free(labels)
        else:
            yield Tie(np.tile(source, len(labels) // len(source)), labels)


@resize("Expand")
def resize_expand(view: View, cut: Cut) -> None:
    target = cut.now(1)
    if target is None:
        return
    sizes, new = cut.sizes(view.output()), target.copy()
    offset = view.output().rank - len(target)
    for axis, size in enumerate(target):
        if size != 1:
            new[axis] = sizes[axis + offset]
    if not np.array_equal(new, target):
        cut.set_input(1, new)


@resize("Tile")
def resize_tile(view: View, cut: Cut) -> None:
    repeats, x, y = cut.now(1), view.input(0), view.output()
    if repeats is None:
        return
    new = [n if len(x[axis]) > 1 or n == 1 else cut.size(y[axis]) for axis, n in enumerate(repeats.tolist())]
    if new != repeats.tolist():
        cut.set_input(1, np.array(new, np.int64))


@rule("ConstantOfShape")
def fill(view: View) -> Iterator[Relation]:
    """A constant fill may have any size."""
    yield from (Free(labels) for labels in view.output().axes)


@resize("ConstantOfShape")
def resize_constant_of_shape(view: View, cut: Cut) -> None:
    sizes, wanted = cut.now(0), np.array(cut.sizes(view.output()), np.int64)
    if sizes is not None and cut.touches(view.output().axes) and not np.array_equal(sizes, wanted):
        cut.set_input(0, wanted)


@rule("Shape", "Size")
def shape(view: View) -> Iterator[Relation]:
    """Sizes that only tell other operators their sizes follow the cut by themselves."""
    x = view.inputs[0]
    if isinstance(x, Operand) and x.name in view.shape_only:
        yield from (Free(labels) for labels in x.axes)
