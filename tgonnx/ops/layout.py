"""Operators that regroup or reorder axes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tgonnx.ops.aspects.asked import Asked, Claims
from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.relations import Relation, Tie
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.tables import dims, gradient, resize, rule
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Unlabelled, View, regroup

traits(
    "Identity",
    are=Traits(
        carries=(0,),
        moves=True,
        rearranges=True,
        elementwise=True,
        proportional=True,
        common=True,
        native_gradient=True,
    ),
)


@rule("Identity", "Optional", "OptionalGetElement")
def identity(view: View) -> Iterator[Relation]:
    yield from map(Tie, view.input(0).axes, view.output().axes)


@gradient("Identity")
def identity_gradient(row: Row) -> Grads:
    """Copies."""
    return [row.op("Identity", row.dy)]


traits("Transpose", are=Traits(carries=(0,), moves=True, rearranges=True, permutes=True, common=True))


@rule("Transpose")
def transpose(view: View) -> Iterator[Relation]:
    x, y = view.input(0), view.output()
    order = view.attribute("perm") or range(x.rank)[::-1]
    for axis, source in enumerate(order):
        yield Tie(x[source], y[axis])


@gradient("Transpose")
def transpose_gradient(row: Row) -> Grads:
    """The inverse permutation."""
    perm = row.attribute("perm")
    order = list(perm) if perm is not None else list(range(row.rank(row.x)))[::-1]
    return [row.op("Transpose", row.dy, perm=[int(i) for i in np.argsort(order)])]


traits("Reshape", "Flatten", "Squeeze", "Unsqueeze", are=Traits(carries=(0,), moves=True, rearranges=True))
traits("Reshape", "Squeeze", "Unsqueeze", are=Traits(proportional=True))
traits("Reshape", are=Traits(sizes=(1,), sizes_follow=True, common=True, native_gradient=True))


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(view: View) -> Iterator[Relation]:
    if view.op_type == "Reshape":
        view.needs_sizes(1)
        target = view.elements(1, "shape")
        if target is not None and len(target) != view.output().rank:
            raise Unlabelled(
                "Reshape: the shape that is stated of its output has another rank than its target"
            )
    yield from regroup(view.input(0).axes, view.output().axes)


@dims("Reshape")
def reshape_dims(asked: Asked) -> Claims | None:
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


@dims("Flatten")
def flatten_dims(asked: Asked) -> Claims:
    x, axis = asked.dims(), asked.attribute("axis", 1)
    axis += len(x) if axis < 0 else 0
    return [asked.algebra.product(x[:axis]), asked.algebra.product(x[axis:])]


@resize("Reshape")
def resize_reshape(view: View, cut: Cut) -> None:
    """Sizes of axes that are cut; a 0 that is no copy any more, as the axis is a part of another one."""
    x, y = view.input(0), view.output()
    target = view.attributes.get("shape") if view.opset < 5 else cut.now(1)
    if target is None:
        return
    copies = not view.attribute("allowzero", 0)
    new = {}
    for axis, (labels, size) in enumerate(zip(y.axes, target, strict=True)):
        stated = size > 0 and not cut.keep(labels).all()
        if stated or (size == 0 and copies and cut.size(x[axis]) != cut.size(labels)):
            new[axis] = cut.size(labels)
    if view.opset < 5:
        cut.set_attribute("shape", [new.get(axis, size) for axis, size in enumerate(target)])
    else:
        cut.set_elements(1, new)


@resize("Squeeze")
def resize_squeeze(view: View, cut: Cut) -> None:
    """Without axes, one that is cut to a single channel would go, too."""
    x = view.input(0)
    named = "axes" in view.attributes or (len(view.inputs) > 1 and view.inputs[1] is not None)
    if named or not any(len(labels) > 1 and cut.size(labels) == 1 for labels in x.axes):
        return
    axes = [axis for axis, labels in enumerate(x.axes) if len(labels) == 1]
    if view.opset < 13:
        cut.set_attribute("axes", axes)
    else:
        cut.set_input(1, np.array(axes, np.int64))


@gradient("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape_gradient(row: Row) -> Grads:
    """Back to the shape of the input."""
    return [row.dy.reshape(row.shape_of(row.x))]


@rule("DepthToSpace")
def depth_to_space(view: View) -> Iterator[Relation]:
    x, y, block = view.input(0), view.output(), view.attribute("blocksize")
    yield Tie(x[0], y[0])
    if view.attribute("mode", "DCR") == "DCR":
        blocks = x[1].reshape(block * block, -1).T
    else:
        blocks = x[1].reshape(-1, block * block)
    yield Tie(blocks, np.broadcast_to(y[1][:, None], blocks.shape))


@dims("DepthToSpace", "SpaceToDepth")
def block_dims(asked: Asked) -> Claims:
    n, c, *space = asked.dims()
    block = asked.attribute("blocksize")
    if asked.node.op_type == "DepthToSpace":
        return [n, asked.algebra.divide(c, block**2), *(asked.algebra.multiply(s, block) for s in space)]
    return [n, asked.algebra.multiply(c, block**2), *(asked.algebra.divide(s, block) for s in space)]


@gradient("DepthToSpace")
def depth_to_space_gradient(row: Row) -> Grads:
    """The inverse rearrangement."""
    b = int(row.attribute("blocksize"))
    if row.attribute("mode", "DCR") == "DCR":
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


@rule("SpaceToDepth")
def space_to_depth(view: View) -> Iterator[Relation]:
    x, y, block = view.input(0), view.output(), view.attribute("blocksize")
    yield Tie(x[0], y[0])
    if view.attribute("mode", "DCR") == "DCR":
        blocks = y[1].reshape(block * block, -1).T
    else:
        blocks = y[1].reshape(-1, block * block)
    yield Tie(blocks, np.broadcast_to(x[1][:, None], blocks.shape))


@gradient("SpaceToDepth")
def space_to_depth_gradient(row: Row) -> Grads:
    """The inverse rearrangement."""
    return [row.op("DepthToSpace", row.dy, blocksize=int(row.attribute("blocksize")), mode="DCR")]


traits("Col2Im", are=Traits(sizes=(1, 2), grows=True))


@rule("Col2Im")
def col2im(view: View) -> Iterator[Relation]:
    x, y = view.input(0), view.output()
    yield Tie(x[0], y[0])
    columns = x[1].reshape(len(y[1]), -1)
    yield Tie(columns, np.broadcast_to(y[1][:, None], columns.shape))


@gradient("Col2Im")
def column_to_image(row: Row) -> Grads:
    """Every column element takes the gradient of the pixel that it was added to."""
    image, block = row.constant(1), row.constant(2)
    if image is None or block is None:
        raise row.unsupported("image_shape or block_shape is not constant")
    rank = len(image)
    pads, strides = row.attribute("pads", [0] * 2 * rank), row.attribute("strides", [1] * rank)
    dilations = row.attribute("dilations", [1] * rank)
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
