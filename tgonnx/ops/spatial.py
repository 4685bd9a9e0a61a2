"""Operators over space: they keep channels apart and pin the axes they mix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tgonnx.labels import Relation, Tie
from tgonnx.ops.cut import Cut
from tgonnx.ops.registry import resize, rule
from tgonnx.ops.view import View


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MaxRoiPool")
def pool(view: View) -> Iterator[Relation]:
    for y in view.outputs:
        if y is not None:
            yield Tie(view.input(0)[1], y[1])
            if view.op_type != "MaxRoiPool":
                yield Tie(view.input(0)[0], y[0])


@rule("GridSample", "AffineGrid")
def grid_sample(view: View) -> Iterator[Relation]:
    if view.op_type == "GridSample":
        yield Tie(view.input(0)[1], view.output()[1])
        yield Tie(view.input(0)[0], view.output()[0])


@rule("RoiAlign")
def roi_align(view: View) -> Iterator[Relation]:
    yield Tie(view.input(0)[1], view.output()[1])


@rule("Resize", "Upsample")
def resize_rule(view: View) -> Iterator[Relation]:
    """An axis that is scaled by 1 is not sampled, unless a region of interest is."""
    if view.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        return
    for axis in unscaled_axes(view):
        yield Tie(view.input(0)[axis], view.output()[axis])


def unscaled_axes(view: View) -> list[int]:
    """The axes whose scale is 1; an equal size alone may also come from a scale a little above 1."""
    x, y = view.input(0), view.output()
    named = [axis % x.rank for axis in view.attribute("axes") or range(x.rank)]
    through = [axis for axis in range(x.rank) if axis not in named]
    if view.has(3):
        stretched = view.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
        return through + [axis for axis in named if stretched and len(x[axis]) == len(y[axis])]
    scales = view.known(1 if view.op_type == "Upsample" or view.opset < 11 else 2)
    if scales is None:
        scales = view.attribute("scales", ())
    return through + [axis for axis, scale in zip(named, scales, strict=False) if scale == 1]


@resize("Resize")
def resize_resize(view: View, cut: Cut) -> None:
    sizes = cut.now(3)
    if sizes is not None and sizes.size:
        axes = view.attribute("axes") or range(view.input(0).rank)
        new = [cut.size(view.output()[axis]) for axis in axes]
        if new != sizes.tolist():
            cut.set_input(3, np.array(new, sizes.dtype))
