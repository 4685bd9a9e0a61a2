"""Operators that move or repeat elements without looking at them."""

from __future__ import annotations

import numpy as np

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.ops.registry import gradient

Grads = list[Value | None]


@gradient("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(row: Row) -> Grads:
    """Back to the shape of the input."""
    return [row.dy.reshape(row.shape_of(row.x))]


@gradient("Transpose")
def transpose(row: Row) -> Grads:
    """The inverse permutation."""
    perm = row.attr("perm")
    order = list(perm) if perm is not None else list(range(row.rank(row.x)))[::-1]
    return [row.op("Transpose", row.dy, perm=[int(i) for i in np.argsort(order)])]


@gradient("Concat")
def concat(row: Row) -> Grads:
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


@gradient("Split")
def split(row: Row) -> Grads:
    """Concatenate; unused outputs contribute zeros."""
    parts = []
    for index in range(len(row.node.output)):
        grad = row.gradient(index)
        parts.append(row.zeros_like(row.output(index)) if grad is None else grad)
    return [row.op("Concat", *parts, axis=row.axis(0))]


@gradient("Expand")
def expand(row: Row) -> Grads:
    """Sum over the broadcast axes."""
    return [row.unbroadcast(row.op("Identity", row.dy), row.x)]


@gradient("Tile")
def tile(row: Row) -> Grads:
    """Split each axis into (repeats, length) and sum over the repeats."""
    rank = row.rank(row.x)
    pairs = row.emitter.concat([row.input(1).unsqueeze([1]), row.shape_of(row.x).unsqueeze([1])], 1)
    return [row.dy.reshape(pairs.reshape([-1])).sum(list(range(0, 2 * rank, 2)), keepdims=False)]


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
            return _padded(row, grad, [axis], [indices[0]], [length - 1 - indices[-1]])
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
    padded = _padded(row, grad, [axis], [0], [1])
    return row.op("Gather", padded, table, axis=axis)


def _padded(row: Row, grad: Value, axes: list[int], begin: list[int], end: list[int]) -> Value:
    """Zeros around some axes. All axes are listed: onnxruntime 1.19 mixes up those that Pad is told."""
    rank = row.rank(row.x)
    pads = [0] * (2 * rank)
    for axis, first, last in zip(axes, begin, end, strict=True):
        pads[axis], pads[rank + axis] = first, last
    return row.op("Pad", grad, row.emitter.ints(pads))


@gradient("Pad")
def pad(row: Row) -> Grads:
    """Crop; what reflect, edge and wrap copied is added back where it came from."""
    mode, x = row.attr("mode", "constant"), row.x
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
            dx = _padded(row, row.dy, axes, crop[:n], crop[n:])
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
    onehot.elem_type = grad.elem_type
    if axis == rank - 1:
        return row.op("MatMul", grad, row.op("Transpose", onehot, perm=[1, 0]))
    perm = [*(i for i in range(rank) if i != axis), axis]
    moved = row.op("MatMul", grad.transpose(perm), row.op("Transpose", onehot, perm=[1, 0]))
    return moved.transpose([int(i) for i in np.argsort(perm)])


def _np_type(value: Value) -> np.dtype[np.generic]:
    from onnx import helper

    return helper.tensor_dtype_to_np_dtype(value.elem_type)


@gradient("DepthToSpace")
def depth_to_space(row: Row) -> Grads:
    """The inverse rearrangement."""
    b = int(row.attr("blocksize"))
    if row.attr("mode", "DCR") == "DCR":
        return [row.op("SpaceToDepth", row.dy, blocksize=b)]
    shape = row.shape(row.x)
    if shape is None or not isinstance(shape[1], int):
        raise row.unsupported("the number of channels is unknown")
    c = shape[1] // (b * b)
    h = row.x.shape(2, 3)
    w = row.x.shape(3, 4)
    parts = row.emitter.concat(
        [row.emitter.ints([0, c]), h, row.emitter.ints([b]), w, row.emitter.ints([b])], 0
    )
    return [row.dy.reshape(parts).transpose([0, 1, 3, 5, 2, 4]).reshape(row.shape_of(row.x))]


@gradient("SpaceToDepth")
def space_to_depth(row: Row) -> Grads:
    """The inverse rearrangement."""
    return [row.op("DepthToSpace", row.dy, blocksize=int(row.attr("blocksize")), mode="DCR")]


@gradient("Trilu")
def triangle(row: Row) -> Grads:
    """The same triangle of the gradient."""
    return [row.op("Trilu", row.dy, row.input(1) if row.has(1) else None, upper=row.attr("upper", 1))]


@gradient("Col2Im")
def column_to_image(row: Row) -> list[Value | None]:
    """Every column element takes the gradient of the pixel that it was added to."""
    image, block = row.constant(1), row.constant(2)
    if image is None or block is None:
        raise row.unsupported("image_shape or block_shape is not constant")
    rank = len(image)
    pads, strides = row.attr("pads", [0] * 2 * rank), row.attr("strides", [1] * rank)
    dilations = row.attr("dilations", [1] * rank)
    padded = [int(n) + pads[k] + pads[rank + k] for k, n in enumerate(image)]
    index = np.zeros((1, 1), np.int64)  # (block elements, places) into the padded image
    for k in range(rank):
        taps = np.arange(int(block[k])) * dilations[k]
        starts = np.arange(0, padded[k] - (int(block[k]) - 1) * dilations[k], strides[k])
        along = taps[:, None] + starts[None, :]
        index = index[:, None, :, None] * padded[k] + along[None, :, None, :]
        index = index.reshape(index.shape[0] * index.shape[1], -1)
    grad = row.op("Pad", row.dy, row.emitter.ints([0, 0, *pads[:rank], 0, 0, *pads[rank:]]))
    columns = row.op("Gather", grad.reshape([0, 0, -1]), row.emitter.constant(index), axis=2)
    return [columns.reshape(row.x.shape())]
