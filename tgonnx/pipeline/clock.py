"""Timing cut models beside the original: what decides whether a target of latency is met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter

import onnx

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.model import Model
from tgonnx.analysis.target import LATENCY
from tgonnx.runtime.latency import Latency, latency
from tgonnx.runtime.one_sample import timing_feeds
from tgonnx.runtime.sessions import Feeds
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.budget import shop_of
from tgonnx.selection.mask import Mask
from tgonnx.selection.scoring import Scores

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
    coupling: Coupling, scores: Scores, wanted: float, bounds: Bounds, share: Callable[[Mask], float]
) -> Mask:
    """The mask that leaves the share of time that is wanted, as `share` measures it, in a few tries.

    The largest measured one that is at most what is wanted wins, or else the smallest.
    """
    shop, aim, tried = shop_of(coupling, scores, LATENCY, bounds), wanted, list[tuple[float, Mask]]()
    for _ in range(TRIES):
        opened, predicted = shop.mask(aim)
        mask = Mask.of(coupling, opened)
        measured = share(mask)
        tried.append((measured, mask))
        if wanted * (1 - NEAR) <= measured <= wanted or (predicted > aim and measured > wanted):
            break
        aim = min(1.0, predicted * wanted * (1 - NEAR / 2) / max(measured, 1e-9))
    within = [pair for pair in tried if pair[0] <= wanted]
    return max(within, key=itemgetter(0))[1] if within else min(tried, key=itemgetter(0))[1]
