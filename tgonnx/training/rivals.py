"""How alternatives are tried while their gates learn: gates of which a fixed number is open.

A closed alternative learns nothing, so what is open must change. In each step the logits are off by

* noise as large as they are apart, which dies away until gates are to rest. Before `WARM` of the search there is
  nothing but noise, so that the weights of all alternatives have learned something when the first are judged;
* a price times what each costs, the lowest at which the choice of this step costs no more than it may. So no step
  trains a network that is too dear, and what is judged against one another are choices that could be taken.

In the end the choice is compared with its neighbours on a few batches, by the loss and with the weights that all share.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling
from tgonnx.passes.gate_choices import open_ones
from tgonnx.selection.choice_fit import all_left, at_price, costs_of, lowest_price
from tgonnx.training.recipe import Settings

Logits = npt.NDArray[np.floating]
Scores = npt.NDArray[np.float64]
Opened = npt.NDArray[np.bool_]
WARM = 0.5  # of the search: until then alternatives are drawn
STEPS = 40  # of the search for a price
DEAREST = 1e6


class Rivals:
    """The alternatives of a coupling; `near` is the size of the noise at the beginning."""

    def __init__(self, coupling: Coupling, kind: str, near: float, recipe: Settings) -> None:
        self.coupling, self.near, self.seed = coupling, near, recipe.seed
        self.free = recipe.lambda_ is not None  # the price is in the objective
        self.costs = costs_of(coupling, kind)
        self.rest = all_left(coupling, kind) - float(self.costs.sum())  # of the cost is in no alternative

    def shift(self, logits: Logits, index: int, done: float, share: float) -> Logits:
        """What logits are off by in a step, where the choice may cost `share`; from `done` = 1 on there is no noise."""
        drawn = np.random.default_rng((self.seed, index)).standard_normal(len(logits))
        noise = (max(0.0, 1 - done) * self._spread(logits) * drawn).astype(np.float32)
        return noise - self._priced(logits + noise, share)

    def _spread(self, logits: Logits) -> Logits:
        """How far apart the logits of each meeting are, at least `near`: noise of that size turns most choices."""
        found, start = np.zeros_like(logits), 0
        for meeting in self.coupling.meetings:
            here = slice(start, start + len(meeting.alternatives))
            found[here] = max(self.near, float(np.ptp(logits[here])))
            start = here.stop
        return found

    def opened(self, logits: Logits, share: float) -> Opened:
        """What is open if the choice may cost `share`."""
        return open_ones(self.coupling, logits - self._priced(logits, share))

    def refined(self, scores: Scores, share: float, loss: Callable[[Opened], float], most: int) -> Scores:
        """Scores that open the choice of least loss, among those that differ in one alternative from one tried before.

        Others give way where an alternative is too dear beside them. `most` choices are tried.
        """
        current = self.opened(scores, share)
        least, tried = loss(current), {current.tobytes()}
        better = True
        while better:
            better = False
            for place in np.flatnonzero(~current):
                candidate = self._with(int(place), scores + current, share)
                too_dear = self._left(candidate) > max(share, self._left(current)) + 1e-9
                if too_dear or candidate.tobytes() in tried or len(tried) >= most:
                    continue
                tried.add(candidate.tobytes())
                if (found := loss(candidate)) < least:
                    current, least, better = candidate, found, True
        settled: Scores = scores / (1 + np.abs(scores)) + 2.0 * current
        return settled

    def _with(self, place: int, worth: Scores, share: float) -> Opened:
        """The best choice that has an alternative."""
        forced = worth.copy()
        forced[place] = 2 * DEAREST
        return self.opened(forced, share)

    def _left(self, opened: Opened) -> float:
        return self.rest + float(self.costs[opened].sum())

    def _priced(self, logits: Logits, share: float) -> Logits:
        """What is taken off logits so that what they open costs at most that, or as little as can be."""
        worth = logits.astype(np.float64)

        def left(price: float) -> float:
            return self._left(at_price(self.coupling, worth, self.costs, price))

        if self.free or left(0.0) <= share:
            return np.zeros_like(logits)
        price = lowest_price(lambda price: left(price) <= share, DEAREST, STEPS)
        return (price * self.costs).astype(logits.dtype)
