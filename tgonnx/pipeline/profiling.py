"""Measuring what each operator of a model takes, as a function of how many channels are kept.

The model itself and a dozen cut copies of it are timed, operator by operator: all groups cut alike, groups cut at
random to multiples of four, and to odd counts, which show whether those are slow. `tgonnx.analysis.time_fit` does the
rest.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.time_fit import Measured, fitted
from tgonnx.analysis.times import Profile
from tgonnx.errors import UnsupportedError, UsageError
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.pipeline.clock import Clock
from tgonnx.runtime.operator_times import operator_times
from tgonnx.selection.mask import Mask

EVEN = (0.75, 0.5, 0.25)  # shares that all groups keep alike
AT_RANDOM, ODD = 8, 2  # copies of groups cut at random
_STEP, _COARSE = 4, 16  # counts that are tried: multiples of these
_SECONDS = 0.3  # of one copy

Count = Callable[[int], int]  # of a group's size: how many units stay


def profiled(coupling: Coupling, clock: Clock, seed: int = 0) -> Profile:
    """The profile of a model on this machine, at the sizes, batch and threads of the clock.

    Raises UnsupportedError if onnxruntime does not take the model, ModelError if it does not run.
    """
    profile = fitted(coupling, [_timed(coupling, mask, clock) for mask in candidates(coupling, seed)])
    about: dict[str, str | int] = {
        "processor": platform.processor() or platform.machine(),
        "runtime": clock.beside(clock.original, 0.0)[0].ran_by,
        "threads": clock.threads,
        "batch": clock.batch,
        "sizes": ", ".join(
            f"{name} {'x'.join(map(str, array.shape))}" for name, array in clock.feeds.items()
        ),
    }
    return replace(profile, about=about)


def candidates(coupling: Coupling, seed: int = 0) -> Iterator[Mask]:
    """What is timed: the whole model first. Raises UnsupportedError if nothing can be cut."""
    if not coupling.units:
        raise UnsupportedError(
            f"{coupling.model.source}: nothing can be pruned, so there is nothing to choose by time"
        )
    rng = np.random.default_rng(seed)
    counts: list[Count] = [lambda size: size]
    counts += [_share(share) for share in EVEN]
    counts += [
        lambda size: size if size < 2 * _STEP else _STEP * int(rng.integers(1, size // _STEP + 1))
    ] * AT_RANDOM
    counts += [lambda size: max(1, size - 1 - _STEP * int(rng.integers(0, max(1, size // 8))))] * ODD
    seen = set[bytes]()
    for count in counts:
        mask = np.ones(coupling.units, bool)
        for group in coupling.groups:
            mask[group.units[min(max(count(group.size), 1), group.size) :]] = False
        if mask.tobytes() in seen:
            continue
        seen.add(mask.tobytes())
        try:
            yield Mask.of(coupling, mask)
        except UsageError:  # it would leave an axis empty
            continue


def _share(share: float) -> Count:
    def count(size: int) -> int:
        step = _COARSE if size >= 2 * _COARSE else _STEP if size >= 2 * _STEP else 1
        return max(step, round(share * size / step) * step)

    return count


def _timed(coupling: Coupling, mask: Mask, clock: Clock) -> Measured:
    cut = remove_channels(coupling.model.proto, coupling, mask)
    operators: dict[str, float] = defaultdict(float)
    for each in operator_times(cut, clock.feeds, clock.threads, _SECONDS):
        operators[each.output] += each.microseconds
    before, after = clock.beside(cut, _SECONDS)
    whole = before.cpu if clock.threads == 1 else before.p50
    counts = coupling.cost_model.open_counts(mask.open)
    return Measured(counts, 1000 * whole * (after.share if len(operators) else 1.0), operators)
