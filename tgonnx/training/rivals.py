"""How alternatives are tried while their gates learn: gates of which a fixed number is open.

A closed alternative learns nothing, so what is open must change. In each step the logits are off by

* noise, which dies away until gates are to rest. Before `WARM` of the search there is nothing but noise, so that the
  weights of all alternatives have learned something when the first are judged;
* a price times what each costs, the lowest at which the choice of this step costs no more than it may. So no step
  trains a network that is too dear, and what is judged against one another are choices that could be taken.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling
from tgonnx.passes.gate_choices import open_ones
from tgonnx.selection.choice_fit import at_price, costs_of
from tgonnx.training.recipe import Settings

Logits = npt.NDArray[np.float32]
WARM = 0.25  # of the search: until then alternatives are drawn
STEPS = 40  # of the search for a price
DEAREST = 1e6


class Rivals:
    """The alternatives of a coupling; `near` is the size of the noise at the beginning."""

    def __init__(self, coupling: Coupling, kind: str, near: float, recipe: Settings) -> None:
        self.coupling, self.near, self.seed = coupling, near, recipe.seed
        self.free = recipe.lambda_ is not None  # the price is in the objective
        self.costs = costs_of(coupling, kind)
        self.rest = 1 - float(self.costs.sum())  # of the cost is in no alternative

    def shift(self, logits: Logits, index: int, done: float, share: float) -> Logits:
        """What logits are off by in a step, where the choice may cost `share`; from `done` = 1 on there is no noise."""
        size = self.near * max(0.0, 1 - done)
        noise = (size * np.random.default_rng((self.seed, index)).standard_normal(len(logits))).astype(
            np.float32
        )
        return noise - self._priced(logits + noise, share)

    def opened(self, logits: Logits, share: float) -> npt.NDArray[np.bool_]:
        """What is open if the choice may cost `share`."""
        return open_ones(self.coupling, logits - self._priced(logits, share))

    def _priced(self, logits: Logits, share: float) -> Logits:
        """What is taken off logits so that what they open costs at most that, or as little as can be."""
        worth = logits.astype(np.float64)

        def left(price: float) -> float:
            return self.rest + float(self.costs[at_price(self.coupling, worth, self.costs, price)].sum())

        if self.free or left(0.0) <= share:
            return np.zeros_like(logits)
        low, high = 0.0, DEAREST
        for _ in range(STEPS):
            middle = (low * high) ** 0.5 if low else high / 1e3
            low, high = (low, middle) if left(middle) <= share else (middle, high)
        return (high * self.costs).astype(np.float32)
