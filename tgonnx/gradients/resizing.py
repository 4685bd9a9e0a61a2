"""Resize: along each axis a matrix, found by resizing an identity."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.ops.registry import gradient

_SHARED = (
    "mode",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "nearest_mode",
    "antialias",
)


@gradient("Resize")
def resize(row: Row) -> list[Value | None]:
    """dX = dY times the resizing matrix of every resized axis."""
    crops = row.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if row.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise row.unsupported("keep_aspect_ratio_policy is not stretch")
    rank, scales = row.rank(row.x), row.constant(2)
    by_scale = scales is not None and scales.size > 0
    axes = [a % rank for a in row.attr("axes", range(rank))]
    given, result = row.shape(row.x), row.shape(row.y)
    grad = row.dy
    for position, axis in enumerate(axes):
        if not crops and given and result and given[axis] is not None and given[axis] == result[axis]:
            continue
        source = 2 if by_scale or not row.has(3) else 3
        matrix = _matrix(row, axis, position, source, _crop(row, position, len(axes)) if crops else None)
        perm = [*(i for i in range(rank) if i != axis), axis]
        moved = row.op("MatMul", grad.transpose(perm), matrix)
        grad = moved.transpose([int(i) for i in np.argsort(perm)])
    return [grad if grad is not row.dy else row.op("Identity", grad)]


def _crop(row: Row, position: int, count: int) -> Value:
    """The region of one axis, for a matrix: all of its rows, its columns from start to end."""
    roi = row.input(1).cast(TensorProto.FLOAT)
    start, end = (roi.slice([k], [k + 1], [0]) for k in (position, position + count))
    zeros, ones = (row.emitter.constant(np.full(3, v, np.float32)) for v in (0, 1))
    return row.emitter.concat([zeros, start, ones, end], 0)


def _matrix(row: Row, axis: int, position: int, source: int, crop: Value | None) -> Value:
    """(out, in): column j is what the j-th unit vector becomes."""
    length = row.x.shape(axis, axis + 1)
    square = row.emitter.concat([length, length], 0)
    eye = row.op("EyeLike", row.emitter.filled(square, 0.0, row.x.elem_type)).unsqueeze([0, 1])
    asked = row.input(source).slice([position], [position + 1], [0])
    attributes = {k: v for k, v in row.attributes.items() if k in _SHARED}
    if source == 2:
        ones = row.emitter.constant(np.ones(3, np.float32))
        resized = row.op("Resize", eye, crop, row.emitter.concat([ones, asked], 0), **attributes)
    else:
        keep = row.emitter.concat([row.emitter.ints([1, 1]), length, asked], 0)
        resized = row.op("Resize", eye, crop, None, keep, **attributes)
    return resized.squeeze([0, 1]).transpose([1, 0])
