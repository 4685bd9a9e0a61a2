"""Learning rates over a run.

Weights and gates are learned at a constant rate in the search, as fine-tuning brings it down afterwards; there the
schedule is one of a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tgonnx.strategies import find

START = 0.01  # of the steps: as if so many were done already, so that the first rate is not zero


@dataclass(frozen=True)
class Schedule:
    """A schedule by name: one entry of the table `SCHEDULES`.

    `share` gives the share of the highest rate, from the share (0..1) that is done of what follows the warm-up.
    """

    name: str
    share: Callable[[float], float]

    def rate(self, done: float, warmup: float = 0.05) -> float:
        """The rate's share of its highest value, where `done` (0..1) of all steps are: first a linear rise."""
        if done < warmup:
            return (done + START) / (warmup + START)
        return self.share((done - warmup) / (1 - warmup))


def searching(done: float, warmup: float = 0.05) -> float:
    """The same for the weights in the search."""
    return min(1.0, (done + START) / max(warmup, START))


def _cosine(done: float) -> float:
    """Half a cosine from one to zero (Loshchilov and Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * done))


def _step(done: float) -> float:
    """A tenth after half of the steps, a hundredth after three quarters (He et al. 2016, on CIFAR)."""
    return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01


CONSTANT, COSINE, STEP = (
    Schedule("constant", lambda done: 1.0),
    Schedule("cosine", _cosine),
    Schedule("step", _step),
)
SCHEDULES: dict[str, Schedule] = {each.name: each for each in (CONSTANT, COSINE, STEP)}


def named(name: str) -> Schedule:
    """The schedule of that name. Raises UsageError that lists the known ones."""
    return find(SCHEDULES, name, "schedule")
