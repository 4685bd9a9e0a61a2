"""Which alternatives stay: of each meeting as many as are wanted, those of most worth for what they cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.target import Target
from tgonnx.errors import TargetError
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.mask import Mask

Scores = npt.NDArray[np.float64]
Open = npt.NDArray[np.bool_]
STEPS = 60  # of the search for a price
DEAREST = 1e12  # a price at which the cheapest alternatives stay, whatever they are worth


def fit_choices(coupling: Coupling, scores: Scores, target: Target, bounds: Bounds) -> Mask:
    """The mask that keeps the alternatives of highest score, [alternatives], and meets the target.

    With a price on cost, each meeting keeps what is worth most after it is paid; the lowest price that meets the target
    is searched for. Then what was given up for too low a price comes back, the most worth first, where the target
    still allows it. Raises TargetError if the cheapest are too dear.
    """
    target = target.as_share(coupling.cost_model)

    def allowed(opened: Open) -> bool:
        return _left(coupling, opened, target.kind) <= target.value + 1e-9

    costs = costs_of(coupling, target.kind)
    best = at_price(coupling, scores, costs, 0.0)
    if allowed(best):
        return _mask(coupling, best)
    opened = at_price(coupling, scores, costs, DEAREST)
    if not allowed(opened):
        least = _left(coupling, opened, target.kind)
        raise TargetError(f"{target}: the cheapest alternatives leave {least:.3f} of the {target.kind}")
    price = lowest_price(lambda price: allowed(at_price(coupling, scores, costs, price)), DEAREST, STEPS)
    opened = at_price(coupling, scores, costs, price)
    return _mask(coupling, _improved(coupling, opened, scores, allowed))


def lowest_price(met: Callable[[float], bool], dearest: float, steps: int) -> float:
    """About the lowest price at which something is met; the dearest if it is at none below."""
    low, high = 0.0, dearest
    for _ in range(steps):
        middle = (low * high) ** 0.5 if low else high / 1e3
        low, high = (low, middle) if met(middle) else (middle, high)
    return high


def least_of(coupling: Coupling, kind: str) -> float:
    """The share of a kind of cost that the cheapest alternatives leave."""
    costs = costs_of(coupling, kind)
    return _left(coupling, at_price(coupling, np.zeros(len(costs)), costs, 1.0), kind)


def costs_of(coupling: Coupling, kind: str) -> Scores:
    """What goes with each alternative alone, as a share: about what it costs, [alternatives]."""
    count = len(coupling.branches)
    everything, alone = all_left(coupling, kind), (np.arange(count) != place for place in range(count))
    return np.array([everything - _left(coupling, opened, kind) for opened in alone])


def all_left(coupling: Coupling, kind: str) -> float:
    """What all alternatives together cost, as a share: more than 1 where the original has not all of them."""
    return _left(coupling, np.ones(len(coupling.branches), bool), kind)


def at_price(coupling: Coupling, scores: Scores, costs: Scores, price: float) -> Open:
    """The alternatives that stay if cost has a price; of equal worth, the first."""
    found, start = np.zeros(len(scores), bool), 0
    worth = scores - price * costs
    for meeting in coupling.meetings:
        here = slice(start, start + len(meeting.alternatives))
        found[start + np.argsort(-worth[here], kind="stable")[: meeting.keep]] = True
        start = here.stop
    return found


def _improved(coupling: Coupling, opened: Open, scores: Scores, allowed: Callable[[Open], bool]) -> Open:
    """Exchange alternatives for others of higher score, the largest gain first, where it is allowed."""
    meeting_of = np.repeat(
        np.arange(len(coupling.meetings)), [len(meeting.alternatives) for meeting in coupling.meetings]
    )
    while True:
        swaps = [
            (scores[new] - scores[old], old, new)
            for old in np.flatnonzero(opened)
            for new in np.flatnonzero(~opened & (meeting_of == meeting_of[old]))
            if scores[new] > scores[old]
        ]
        for _, old, new in sorted(swaps, reverse=True):
            tried = opened.copy()
            tried[old], tried[new] = False, True
            if allowed(tried):
                opened = tried
                break
        else:
            return opened


def _left(coupling: Coupling, opened: Open, kind: str) -> float:
    closing = _closing(coupling, opened)
    return closing.cost_model.ratio(closing.left_open, kind)


def _closing(coupling: Coupling, opened: Open) -> Coupling:
    parts = zip(coupling.branches, opened.tolist(), strict=True)
    return coupling.closing([part.name for part, is_open in parts if not is_open])


def _mask(coupling: Coupling, opened: Open) -> Mask:
    return Mask.all_open(_closing(coupling, opened))
