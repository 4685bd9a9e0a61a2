"""Timing cut models beside the original: what decides whether a target of latency is met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter

import onnx

from tgonnx.analysis.model import Model
from tgonnx.analysis.target import Target
from tgonnx.errors import TargetError
from tgonnx.runtime.latency import Latency, latency
from tgonnx.runtime.one_sample import timing_feeds
from tgonnx.runtime.sessions import Feeds
from tgonnx.selection.mask import Mask

ROUNDS, SECONDS = 200, 1.5  # of one comparison
TRIES = 5  # masks that are timed to find the one that takes as long as is asked for
NEAR = 0.02  # a share within that of the target is as near as can be measured
TOLERANCE = 0.05  # a share above the target by that much of it still meets it: so exact are clocks


@dataclass(frozen=True)
class Clock:
    """The original with inputs to time it on; `threads` 0 leaves their number to the runtime."""

    original: onnx.ModelProto
    feeds: Feeds = field(repr=False)
    threads: int = 0
    batch: int = 1

    @classmethod
    def of(cls, model: Model, threads: int = 0, batch: int = 1) -> Clock:
        """For the sizes that costs of the model are counted at. Raises ModelError, UnsupportedError."""
        feeds = timing_feeds(model.original, model.shapes, batch, threads)
        return cls(model.original, feeds, threads, batch)

    def beside(self, model: onnx.ModelProto, seconds: float = SECONDS) -> tuple[Latency, Latency]:
        """The original and another model, in turns."""
        before, after = latency(
            [self.original, model], [self.feeds, self.feeds], ROUNDS, self.threads, seconds
        )
        return before, after

    def share(self, model: onnx.ModelProto) -> float:
        """What is left of the original's time."""
        return self.beside(model)[1].share


def by_the_clock(
    wanted: Target,
    commit: Callable[[Target], Mask],
    predicted: Callable[[Mask], float],
    share: Callable[[Mask], float],
) -> Mask:
    """The mask that leaves the share of time that is wanted, as `share` measures it, in a few tries.

    `commit` makes a mask for a share of the time as it is `predicted`. The largest measured one that is at most what is
    wanted wins, or else the smallest. Raises TargetError if nothing can be cut so far, as it is predicted.
    """
    goal, aim, tried = wanted.value, wanted.value, list[tuple[float, Mask]]()
    foreseen = 1.0
    for _ in range(TRIES):
        try:
            mask = commit(wanted.of_share(aim))
        except TargetError:
            if not tried:
                raise
            aim = (aim + foreseen) / 2  # what is least lies between
            continue
        foreseen, measured = predicted(mask), share(mask)
        tried.append((measured, mask))
        if goal * (1 - NEAR) <= measured <= goal:
            break
        aim = min(1.0, foreseen * goal * (1 - NEAR / 2) / max(measured, 1e-9))
    within = [pair for pair in tried if pair[0] <= goal]
    return max(within, key=itemgetter(0))[1] if within else min(tried, key=itemgetter(0))[1]
