"""How far two outputs are apart, judged against rounding that was measured.

An element's channel is what shares an index with it on any axis; its scale is the largest magnitude of the channel,
the smallest one if it is in several. So class scores are judged as scores even where boxes in pixels stand beside them
in the same output. A difference is accepted up to `rtol` of that scale, or up to `ROUNDING` times the noise: how far
the reference comes from itself when the runtime works in another order, or weights and inputs are off by their last
bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NOT_FINITE = "infinite or NaN values differ"
ROUNDING = 6.0  # times the measured noise is rounding still
ILL = 1000.0  # a function that makes more of an epsilon than this is ill-conditioned: its noise has rare large values
TAIL = 5.0  # times as much is rounding there
POSITIONS = 1024  # an axis with more indices than this holds positions, not channels
BLIND = 0.1  # of a channel's scale: where noise is larger, nothing can be told
RARE = 1 / 64  # of what changes when everything is off by half a step of 8 bits: a few single steps
GROUP = 8  # elements of a channel whose mean says something
SMALL = (
    0.01  # mean difference of an output that rounds to steps, of its scale, that steps may explain at most
)


@dataclass(frozen=True)
class Noise:
    """How far one output of the reference comes from itself, element by element.

    `fine`: the most, over other orders of work and over weights and inputs off by their last bits. `coarse`: with
    weights and inputs off by half a step of 8 bits, where something on the way to the output rounds to steps; then
    last bits change a few values, by whole steps. `step`: the least by which the element moves at all, where last
    bits do not move it; 0 elsewhere.
    """

    fine: Array
    coarse: Array | None = None
    step: Array | None = None


@dataclass(frozen=True)
class Difference:
    """The largest |a - b|, the largest in terms of what it was judged by, and what is wrong, if anything.

    `blind`: rounding alone moves most of the output by a tenth of its size or more, so that being equal says little.
    """

    absolute: float = 0.0
    relative: float = 0.0
    reason: str = ""
    blind: bool = False


EQUAL = Difference()


def different(reason: str) -> Difference:
    """What cannot be told in numbers."""
    return Difference(float("inf"), float("inf"), reason)


def measure(a: Array, b: Array, rtol: float, noise: Iterable[Noise] = ()) -> Difference:
    """Judge `b` against the reference `a`. Of `noise`, better known from one to the next, only as much as is needed."""
    if a.shape != b.shape:
        return different(f"shape {a.shape} against {b.shape}")
    if a.dtype != b.dtype:
        return different(f"type {a.dtype} against {b.dtype}")
    if not a.size:
        return EQUAL
    if a.dtype.kind in "biu":
        return _integers(a, b, noise)
    if a.dtype.kind not in "fV" or a.dtype.names:
        return EQUAL if np.array_equal(a, b) else different("values differ")
    return _floats(a.astype(np.float64), b.astype(np.float64), rtol, noise, epsilon(a.dtype))


def epsilon(dtype: np.dtype[Any]) -> float:
    """The step from 1 to the next number of a floating type; types that numpy does not have are taken for bfloat16."""
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 2.0**-7


def channel_extent(values: Array, first: int = 0) -> Array:
    """For each element the largest of its channel, of the smallest channel that it is in; `values` are not negative.

    Axes before `first` hold no channels.
    """
    if values.ndim < 2:
        return values if first == 0 else np.full(values.shape, values.max(initial=0))
    extent = np.full(values.shape, np.inf)
    for axis in range(first, values.ndim):
        if values.shape[axis] <= POSITIONS or axis in (1, values.ndim - 1):
            others = tuple(other for other in range(values.ndim) if other != axis)
            extent = np.minimum(extent, values.max(axis=others, keepdims=True))
    return extent if np.isfinite(extent).all() else np.minimum(extent, values.max())


def _floats(x: Array, y: Array, rtol: float, noise: Iterable[Noise], eps: float) -> Difference:
    finite = np.isfinite(x)
    if not np.array_equal(finite, np.isfinite(y)) or not np.array_equal(
        x[~finite], y[~finite], equal_nan=True
    ):
        return different(NOT_FINITE)
    x, y = np.where(finite, x, 0), np.where(finite, y, 0)
    gap, magnitude = np.abs(x - y), np.abs(x)
    absolute = float(gap.max())
    if not absolute:
        return EQUAL
    scale = channel_extent(magnitude)
    allowed = scale
    if (gap <= rtol * scale).all():
        return Difference(absolute, _ratio(gap, scale))
    for known in noise if rtol > 0 else ():
        if known.coarse is not None:
            if _few_steps(gap, known.fine, known.coarse, magnitude):
                return Difference(absolute, _ratio(np.where(gap > rtol * scale, 0, gap), scale))
            continue
        moved = _moved(known, scale, eps)
        allowed = np.maximum(scale, moved / rtol)
        if (gap <= rtol * allowed).all():
            return Difference(absolute, _ratio(gap, allowed), blind=_is_blind(moved, scale))
    where = _where(gap > rtol * allowed)
    return Difference(absolute, _ratio(gap, allowed), f"differs by more than {rtol:.1e} relative{where}")


def _moved(known: Noise, scale: Array, eps: float) -> Array:
    """How far rounding may move an element, from the noise that was measured."""
    noise = channel_extent(known.fine, first=1)  # one sample more or less is luck
    moved = np.where(noise > ILL * eps * scale, TAIL, 1.0) * ROUNDING * noise
    return moved if known.step is None else np.maximum(moved, ROUNDING * channel_extent(known.step, first=1))


def _is_blind(moved: Array, scale: Array) -> bool:
    """Whether rounding alone moves most of an output by a good part of its size."""
    present = scale > 0
    return bool(present.any() and np.median(moved[present] / scale[present]) > BLIND)


def _ratio(gap: Array, scale: Array) -> float:
    """The largest gap / scale, 0 / 0 being 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nanmax(np.where(gap > 0, gap / scale, 0.0)))


def _few_steps(gap: Array, fine: Array, coarse: Array, magnitude: Array) -> bool:
    """Whether single steps of rounding explain the differences: each no larger than steps are, and few of them.

    Few: in the mean of a channel no more than a few times what last bits change, or a small part of what half steps do.
    """
    if gap.max() > 2 * coarse.max():
        return False
    groups = [tuple(other for other in range(gap.ndim) if other != axis) for axis in range(gap.ndim)]
    large = [others for axis, others in enumerate(groups) if gap.size // gap.shape[axis] >= GROUP]
    for others in (None, *large):
        steps = np.maximum(4 * fine.mean(axis=others), 2 * RARE * coarse.mean(axis=others))
        explained = np.minimum(steps, SMALL * magnitude.max(axis=others))
        if (gap.mean(axis=others) > explained).any():
            return False
    return True


def _where(over: Array) -> str:
    """Which channels are concerned, where not all are."""
    if over.ndim < 2:
        return ""
    axis = 1 if over.shape[1] <= POSITIONS else over.ndim - 1
    wrong = over.any(axis=tuple(other for other in range(over.ndim) if other != axis))
    return "" if wrong.all() else f", in {wrong.sum()} of {wrong.size} channels (axis {axis})"


def _integers(a: Array, b: Array, noise: Iterable[Noise]) -> Difference:
    wrong = a != b
    if not wrong.any():
        return EQUAL
    absolute = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
    share = float(wrong.mean())
    for known in noise:
        allowed = min(4 * float((known.fine > 0).mean()), SMALL)
        if known.coarse is not None:
            allowed = max(allowed, RARE * float((known.coarse > 0).mean()))
        if share <= allowed:
            return Difference(absolute, 0.0)
    return Difference(absolute, share, f"{share:.2%} of the integers differ, by up to {absolute:g}")
