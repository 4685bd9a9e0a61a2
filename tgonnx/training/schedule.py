"""Learning rates over a run."""

from __future__ import annotations

import math


def rate(done: float, warm_up: float = 0.05) -> float:
    """The learning rate's share of its highest value: a linear rise, then half a cosine to zero."""
    if done < warm_up:
        return (done + 0.01) / (warm_up + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
