"""How much each channel of an output varies, so that one in pixels is not learned in the place of one in 0..1.

An error counts in units of its channel's own variance. Where a channel hardly varies, that would make noise count: so
channels of 0..1 (probabilities) are taken to have a standard deviation of at least 0.01, others at least a hundredth of
the largest among those. No such bound is above the largest of its kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tgonnx.graph.types import Array

LEAST = 0.01  # standard deviation: of probabilities, and of others in units of the largest


@dataclass(frozen=True)
class Spread:
    """The variance of each channel, bounded from below; channels lie along `axis` of the output."""

    axis: int
    variance: tuple[float, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > self.axis and shape[self.axis] == len(self.variance)

    def broadcast(self, rank: int) -> Array:
        """The variance in a shape that fits outputs of this rank."""
        shape = [1] * rank
        shape[self.axis] = -1
        return np.array(self.variance).reshape(shape)


@dataclass
class _Sums:
    """Along one axis: how many values, their sum, that of squares, the smallest and the largest of each channel."""

    count: int
    total: Array
    squares: Array
    low: Array
    high: Array

    @property
    def variance(self) -> Array:
        return np.maximum(self.squares / self.count - np.square(self.total / self.count), 0)


def spread_of(outputs: Iterable[Array], sample_axis: int | None = 0) -> Spread | None:
    """From an output for some batches, of one shape but for the samples. None for an output without channels.

    Of the second and the last axis, channels are along that one whose variances differ more; they are centred first,
    each by the value of the first batch, as squares of large numbers hide small variances.
    """
    axes: tuple[int, ...] = ()
    sums: dict[int, _Sums] = {}
    for output in outputs:
        values = output.astype(np.float64)
        if not sums:
            axes = tuple(
                a for a in dict.fromkeys((1, values.ndim - 1)) if 0 <= a < values.ndim and a != sample_axis
            )
            centres = {axis: values.mean(_others(values, axis), keepdims=True) for axis in axes}
        for axis in axes:
            _add(sums, axis, values, centres[axis])
    if not sums:
        return None
    axis = max(axes, key=lambda a: _differ(sums[a].variance))
    return Spread(axis, tuple(float(value) for value in bounded(sums[axis])))


def _others(values: Array, axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(values.ndim) if a != axis)


def _add(sums: dict[int, _Sums], axis: int, values: Array, centre: Array) -> None:
    others = _others(values, axis)
    moved = values - centre
    found = _Sums(
        values.size // values.shape[axis], moved.sum(others), np.square(moved).sum(others), values.min(others),
        values.max(others),
    )  # fmt: skip
    if axis in sums:
        old = sums[axis]
        found = _Sums(
            old.count + found.count, old.total + found.total, old.squares + found.squares,
            np.minimum(old.low, found.low), np.maximum(old.high, found.high),
        )  # fmt: skip
    sums[axis] = found


def _differ(variance: Array) -> float:
    """How far variances are apart, in powers of e."""
    return float(np.log(variance + 1e-12 * variance.max(initial=0) + 1e-300).std())


def bounded(sums: _Sums) -> Array:
    """The variance of each channel, at least what its kind allows."""
    variance = sums.variance
    is_share = (sums.low >= 0) & (sums.high <= 1)
    largest = [variance[kind].max(initial=0.0) for kind in (is_share, ~is_share)]
    least = np.where(is_share, min(LEAST**2, largest[0]), LEAST**2 * largest[1])
    return np.asarray(np.maximum(variance, np.maximum(least, 1e-12)))
