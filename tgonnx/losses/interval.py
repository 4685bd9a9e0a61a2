"""What a metric may be, given how few samples it was measured on."""

from __future__ import annotations

import math

import numpy as np
import onnx

from tgonnx.losses.metric import Metric

Z = 1.959964  # of the normal distribution: 95% lie within
LEAST = 4  # samples of which the scatter says something


def interval(metric: Metric, model: onnx.ModelProto, threads: int = 0) -> tuple[float, float] | None:
    """The 95% interval of a metric; None for fewer than four samples, and for losses that are graphs.

    Wilson's for shares of right answers, one a sample; else that of the jackknife, which leaves out each sample in
    turn.
    """
    batches, figure = list(metric.batches(model, threads=threads)), metric.fit.figure
    count = sum(seen.count for seen in batches)
    if count < LEAST or metric.fit.graph is not None:
        return None
    kept = [figure.each(seen) for seen in batches]
    value = figure.value(kept)
    if figure.is_share and all(seen.output.ndim == 2 for seen in batches):
        return wilson(value, count)
    left_out = []
    for number, seen in enumerate(batches):
        rest = [*kept[:number], *kept[number + 1 :]]
        for index in range(seen.count):
            own = [figure.each(seen.without(index))] if seen.count > 1 else []
            left_out.append(figure.value([*rest, *own]))
    spread = np.array(left_out)
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
