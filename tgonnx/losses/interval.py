"""What a metric may be, given how few samples it was measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from tgonnx.losses.loss import Seen
from tgonnx.losses.metric import Metric, Tally

Z = 1.959964  # of the normal distribution: 95% lie within
LEAST = 4  # samples of which the scatter says something


def interval(metric: Metric, model: onnx.ModelProto, threads: int = 0) -> tuple[float, float] | None:
    """The 95% interval of a metric; None for fewer than four samples.

    Wilson's for right answers, one a sample; else that of the jackknife, which leaves out each sample in turn.
    """
    batches = list(metric.batches(model, threads=threads))
    count = sum(samples for _, samples in batches)
    if count < LEAST:
        return None
    if metric.fit.definition.answers == "label" and all(seen.wanted.ndim == 1 for seen, _ in batches):
        return wilson(mean_of(batches), count)
    left_out = [_without(batches, number, index) for number, index in _places(batches)]
    value, spread = mean_of(batches), np.array(left_out)
    error = math.sqrt((count - 1) / count * float(np.square(spread - spread.mean()).sum()))
    reach = student(count - 1) * error
    return value - reach, value + reach


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of `count` trials (Wilson 1927)."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    reach = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def student(freedom: int) -> float:
    """The 97.5% quantile of Student's t for three degrees of freedom or more (Cornish-Fisher; to 1%)."""
    return (
        Z
        + (Z**3 + Z) / (4 * freedom)
        + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
        + (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * freedom**3)
    )


def mean_of(batches: Sequence[tuple[Seen, int]]) -> float:
    """The metric over batches."""
    tally = Tally()
    for seen, count in batches:
        tally.add(seen, count)
    return tally.mean


def _places(batches: Sequence[tuple[Seen, int]]) -> list[tuple[int, int]]:
    return [(number, index) for number, (_, count) in enumerate(batches) for index in range(count)]


def _without(batches: Sequence[tuple[Seen, int]], number: int, index: int) -> float:
    """The metric without one sample."""
    seen, count = batches[number]
    rest = [*batches[:number], *batches[number + 1 :]]
    return mean_of(rest if count == 1 else [*rest, (seen.without(index), count - 1)])
