"""RoiAlign: regions of images, each sampled into a grid of bins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import TensorProto

from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.relations import Relation, Tie
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.tables import gradient, rule
from tgonnx.ops.aspects.view import View


@rule("RoiAlign")
def roi_align(view: View) -> Iterator[Relation]:
    yield Tie(view.input(0)[1], view.output()[1])


@gradient("RoiAlign")
def roi_align_gradient(row: Row) -> Grads:
    """Averages of bilinear samples: for every region a matrix of lines and one of columns.

    X (N, C, H, W), rois (R, 4) as x1, y1, x2, y2, images (R); y (R, C, P, Q) = lines (R, P, H) X columns (R, Q, W).
    """
    if row.attribute("mode", "avg") != "avg":
        raise row.unsupported("its mode is max, which runtimes do not compute as the standard says")
    lines = _bins(row, row.x.shape(2, 3), (1, 3), int(row.attribute("output_height", 1)))
    columns = _bins(row, row.x.shape(3, 4), (0, 2), int(row.attribute("output_width", 1)))
    images, dx, drois = row.input(2), None, None
    if row.need(0):
        every = _count(row, row.x.shape(0, 1)).cast(TensorProto.INT64)
        mine = every.unsqueeze([1]).equals(images.unsqueeze([0])).cast_like(row.x)
        spread = _einsum(row, "rcpq,rqw->rpcw", row.dy, columns.weights)
        dx = _einsum(row, "nhrp,rpcw->nchw", _einsum(row, "nr,rph->nhrp", mine, lines.weights), spread)
    if row.need(1):
        seen = row.op("Gather", row.x, images, axis=0)
        across = _einsum(row, "rchw,rqw->rchq", seen, columns.weights)
        down = _einsum(row, "rchw,rph->rcpw", seen, lines.weights)
        y1, y2 = lines.back(_einsum(row, "rcpq,rchq->rph", row.dy, across))
        x1, x2 = columns.back(_einsum(row, "rcpq,rcpw->rqw", row.dy, down))
        drois = row.emitter.concat([x1, y1, x2, y2], 1)
    return [dx, drois, None]


@dataclass(frozen=True)
class _Bins:
    """One axis of every region, of K samples a bin at start + along (end - start), in pixels."""

    weights: Value  # (R, P, H): what each line of the image contributes to each bin
    slopes: Value  # (R, P, K, H): its derivative by the sample's place
    along: Value  # (R, P, K)
    grows: Value  # (R, 1): 0 where the region has its least size, whatever its end
    scale: float  # pixels in a unit of rois

    def back(self, arriving: Value) -> tuple[Value, Value]:
        """From the gradient of the weights to those of start and end, (R, 1) each."""
        moved = (arriving.unsqueeze([2]) * self.slopes).sum([3], False)
        end = (moved * self.along).sum([1, 2], False).unsqueeze([1]) * self.grows
        start = moved.sum([1, 2], False).unsqueeze([1]) - end
        return start * self.scale, end * self.scale


def _bins(row: Row, size: Value, columns: tuple[int, int], bins: int) -> _Bins:
    half = row.attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    scale = float(row.attribute("spatial_scale", 1.0))
    rois, asked = row.input(1), int(row.attribute("sampling_ratio", 0))
    start, end = (rois.slice([c], [c + 1], [1]) * scale - (0.5 if half else 0.0) for c in columns)
    span = end - start
    grows = span * 0.0 + 1.0 if half else (span > 1.0).cast_like(span)
    span = span if half else row.op("Max", span, row.like(1.0))
    samples = row.op("Ceil", span / float(bins)) if not asked else span * 0.0 + float(asked)  # (R, 1)
    samples = samples.unsqueeze([1])
    most = row.op("Max", samples.reduce("Max", None, False), row.like(1.0)).cast(TensorProto.INT64)
    k, at_least_one = _count(row, most), row.op("Max", samples, row.like(1.0))
    bin_ = _count(row, row.emitter.ints([bins])).unsqueeze([1])
    along = (bin_ + (k + 0.5) / at_least_one) / float(bins)  # (R, P, K)
    at = start.unsqueeze([1]) + span.unsqueeze([1]) * along
    length = size.cast_like(row.x)
    inside = row.op("And", at >= -1.0, at <= length)
    share = row.op("And", inside, k < samples).cast_like(row.x) / at_least_one
    clipped = row.op("Min", row.op("Max", at, row.like(0.0)), length - 1.0)
    moves = share * clipped.equals(at).cast_like(row.x)
    apart = clipped.unsqueeze([3]) - _count(row, size)  # (R, P, K, H)
    hat = row.op("Relu", 1.0 - row.op("Abs", apart))
    slopes = -row.op("Sign", apart) * (hat > 0.0).cast_like(hat) * moves.unsqueeze([3])
    return _Bins((hat * share.unsqueeze([3])).sum([2], False), slopes, along, grows, scale)


def _count(row: Row, length: Value) -> Value:
    """0, 1, ... length - 1 in the type of the data."""
    limits = (
        row.emitter.scalar(0, TensorProto.INT64),
        length.reshape([]),
        row.emitter.scalar(1, TensorProto.INT64),
    )
    return row.op("Range", *limits).cast_like(row.x)


def _einsum(row: Row, equation: str, a: Value, b: Value) -> Value:
    return row.op("Einsum", a, b, equation=equation)
