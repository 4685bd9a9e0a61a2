"""GridSample: interpolation at places that are computed themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from onnx import TensorProto

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.ops.registry import gradient

_CUBIC = -0.75  # the coefficient of the cubic kernel that the standard fixes


@dataclass
class _Tap:
    """One neighbour along one axis: its index (float), weight, the weight's slope; each (N, places)."""

    index: Value
    weight: Value
    slope: Value


@gradient("GridSample")
def grid_sample(row: Row) -> list[Value | None]:
    """X (N, C, D1..Dr), grid (N, O1..Or, r) with the last axis of X first; all modes and paddings.

    dX adds dY at the neighbours of each place, dGrid is the slope of the weights.
    """
    x, rank = row.x, row.rank(row.x) - 2
    sizes = [x.shape(2 + k, 3 + k).cast_like(x) for k in range(rank)]
    axes = [_Axis(row, k, rank, sizes[k]) for k in range(rank)]
    flat = x.reshape([0, 0, -1])
    dy = row.dy.reshape([0, 0, -1])
    dx = row.zeros_like(flat)
    slopes: list[Value | None] = [None] * rank
    for taps in product(*(axis.taps() for axis in axes)):
        place, inside = None, None
        for axis, tap in zip(axes, taps, strict=True):
            index, within = axis.bounded(tap.index)
            place = index if place is None else place * axis.size + index
            if within is not None:
                inside = within if inside is None else inside * within
        assert place is not None
        index = place.cast(TensorProto.INT64).unsqueeze([1]).expand(dy.shape())
        if row.need(0):
            weight = _times([*(t.weight for t in taps), inside])
            dx = row.op("ScatterElements", dx, index, dy * weight.unsqueeze([1]), axis=2, reduction="add")
        if row.need(1) and row.attr("mode", "linear") != "nearest":
            seen = (dy * row.op("GatherElements", flat, index, axis=2)).sum([1], False)
            for k in range(rank):
                others = [t.weight for j, t in enumerate(taps) if j != k]
                part = _times([seen, taps[k].slope, *others, inside])
                known = slopes[k]
                slopes[k] = part if known is None else known + part
    grid = None
    if row.need(1):
        found = [s if s is not None else axes[k].at * 0.0 for k, s in enumerate(slopes)]
        parts = [(s * axes[k].stretch).unsqueeze([2]) for k, s in enumerate(found)]
        grid = row.emitter.concat(parts[::-1], 2).reshape(row.input(1).shape())
    return [dx.reshape(x.shape()) if row.need(0) else None, grid]


def _times(factors: list[Value | None]) -> Value:
    found = [f for f in factors if f is not None]
    result = found[0]
    for factor in found[1:]:
        result = result * factor
    return result


class _Axis:
    """Places along one axis: `at` in pixels (N, places), `stretch` = d at / d grid."""

    def __init__(self, row: Row, k: int, rank: int, size: Value) -> None:
        self.row, self.size = row, size
        self.mode = {"bilinear": "linear", "bicubic": "cubic"}.get(
            row.attr("mode", "linear"), row.attr("mode", "linear")
        )
        self.padding = row.attr("padding_mode", "zeros")
        aligned = bool(row.attr("align_corners", 0))
        half = row.like(0.0) if aligned else row.like(0.5)
        self.low, self.high = (row.like(0.0) - half, size - 1.0 + half)
        grid = row.input(1)
        which = rank - 1 - k
        normal = grid.slice([which], [which + 1], [-1])
        normal = normal.reshape(row.emitter.concat([grid.shape(0, 1), row.emitter.ints([-1])], 0))
        stretch = (size - 1.0) / 2.0 if aligned else size / 2.0
        self.at = (normal + 1.0) * stretch - half
        self.stretch = stretch
        if self.mode != "cubic" and self.padding == "border":
            inside = ((self.at > 0.0).cast_like(size)) * ((self.at < size - 1.0).cast_like(size))
            self.at, self.stretch = self._clip(self.at), stretch * inside
        elif self.mode != "cubic" and self.padding == "reflection":
            self.at, sign = self._reflect(self.at)
            self.stretch = stretch * sign

    def _clip(self, at: Value) -> Value:
        return self.row.op("Min", self.row.op("Max", at, self.row.like(0.0)), self.size - 1.0)

    def _reflect(self, at: Value) -> tuple[Value, Value]:
        """A triangle wave between the bounds, and its slope."""
        span = self.high - self.low
        turn = (at - self.low) / (span * 2.0)
        phase = turn - self.row.op("Floor", turn)  # 0..1, of which the second half goes back
        back = (phase > 0.5).cast_like(phase)
        folded = (phase + back * (1.0 - 2.0 * phase)) * (span * 2.0) + self.low
        return folded, 1.0 - 2.0 * back

    def bounded(self, index: Value) -> tuple[Value, Value | None]:
        """The index of a pixel that is there, and whether the one that was asked for is (None: always)."""
        if self.mode == "cubic" and self.padding == "reflection":
            index = self.row.op("Round", self._reflect(index)[0])
        clipped = self._clip(index)
        if self.padding != "zeros":
            return clipped, None
        return clipped, clipped.equals(index).cast_like(clipped)

    def taps(self) -> Iterator[_Tap]:
        at, row = self.at, self.row
        if self.mode == "nearest":
            yield _Tap(row.op("Round", at), at * 0.0 + 1.0, at * 0.0)
            return
        floor = row.op("Floor", at)
        f = at - floor
        if self.mode == "linear":
            yield _Tap(floor, 1.0 - f, f * 0.0 - 1.0)
            yield _Tap(floor + 1.0, f, f * 0.0 + 1.0)
            return
        a = _CUBIC
        for k in (-1.0, 0.0, 1.0, 2.0):
            d = f - k if k <= 0 else k - f  # the distance, at least 0
            if abs(k - 0.5) < 1:
                weight = ((a + 2) * d - (a + 3)) * d * d + 1.0
                slope = (3 * (a + 2) * d - 2 * (a + 3)) * d
            else:
                weight = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
                slope = (3 * a * d - 10 * a) * d + 8 * a
            yield _Tap(floor + k, weight, slope if k <= 0 else -slope)
