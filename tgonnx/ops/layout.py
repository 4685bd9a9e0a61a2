"""Operators that regroup or reorder axes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tgonnx.labels import Relation, Tie
from tgonnx.ops.cut import Cut
from tgonnx.ops.registry import resize, rule
from tgonnx.ops.view import View, regroup


@rule("Identity", "Optional", "OptionalGetElement")
def identity(view: View) -> Iterator[Relation]:
    yield from map(Tie, view.input(0).axes, view.output().axes)


@rule("Transpose")
def transpose(view: View) -> Iterator[Relation]:
    x, y = view.input(0), view.output()
    order = view.attribute("perm") or range(x.rank)[::-1]
    for axis, source in enumerate(order):
        yield Tie(x[source], y[axis])


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(view: View) -> Iterator[Relation]:
    yield from regroup(view.input(0).axes, view.output().axes)


@resize("Reshape")
def resize_reshape(view: View, cut: Cut) -> None:
    target, y = cut.now(1), view.output()
    if target is None:
        return
    new = target.copy()
    for axis, labels in enumerate(y.axes):
        if not cut.keep(labels).all() and target[axis] > 0:
            new[axis] = cut.size(labels)
    allow_zero = view.attribute("allowzero", 0)
    x = view.input(0)
    for axis in np.flatnonzero(target == 0).tolist() if not allow_zero else []:
        if cut.size(x[axis]) != cut.size(y[axis]):  # no copy any more: the axis is a part of another one
            new[axis] = cut.size(y[axis])
    if not np.array_equal(new, target):
        cut.set_input(1, new)


@rule("DepthToSpace")
def depth_to_space(view: View) -> Iterator[Relation]:
    x, y, block = view.input(0), view.output(), view.attribute("blocksize")
    yield Tie(x[0], y[0])
    if view.attribute("mode", "DCR") == "DCR":
        blocks = x[1].reshape(block * block, -1).T
    else:
        blocks = x[1].reshape(-1, block * block)
    yield Tie(blocks, np.broadcast_to(y[1][:, None], blocks.shape))


@rule("SpaceToDepth")
def space_to_depth(view: View) -> Iterator[Relation]:
    x, y, block = view.input(0), view.output(), view.attribute("blocksize")
    yield Tie(x[0], y[0])
    if view.attribute("mode", "DCR") == "DCR":
        blocks = y[1].reshape(block * block, -1).T
    else:
        blocks = y[1].reshape(-1, block * block)
    yield Tie(blocks, np.broadcast_to(x[1][:, None], blocks.shape))


@rule("Col2Im")
def col2im(view: View) -> Iterator[Relation]:
    x, y = view.input(0), view.output()
    yield Tie(x[0], y[0])
    columns = x[1].reshape(len(y[1]), -1)
    yield Tie(columns, np.broadcast_to(y[1][:, None], columns.shape))
