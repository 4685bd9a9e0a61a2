"""Random inputs for a model at the sizes at which it runs, found by running it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgonnx.errors import ModelError
from tgonnx.io.named_sizes import named_sizes
from tgonnx.runtime.feeds import STYLES, WIDEST, Drawer
from tgonnx.runtime.integer_ranges import settings_to_try
from tgonnx.runtime.runner import Runner, describe_shapes
from tgonnx.runtime.sessions import Feeds
from tgonnx.runtime.trial_sizes import Size, Trials, shapes_at

_SEARCH = 60.0  # seconds to look for a size at which the model runs


class TrialInputs:
    """Random inputs for the sizes at which a model runs."""

    def __init__(
        self, runner: Runner, start: Size, known: tuple[Size, ...], seed: int, seconds: float
    ) -> None:
        self._runner = runner
        self._rng = np.random.default_rng(seed)
        self._drawer = Drawer(runner.model)
        self._fitted = False
        self._named = {v.name: settings_to_try(runner.model, v) for v in self._drawer.deciding()}
        self.drawn = 0
        self._end = time.monotonic() + max(_SEARCH, seconds)
        self.feeds: dict[Size, Feeds] = {}
        self.trials = Trials(self._drawer.inputs, self._try, start, known, named_sizes(runner.model))

    def _try(self, size: Size) -> None:
        if time.monotonic() > self._end:
            raise ModelError("the model cannot run on random inputs: no size was found in time")
        feeds = self._runnable(size)
        if not self._fitted:
            self._fitted = True
            feeds = self._widened(feeds, size)
        self.feeds[size] = feeds

    def _widened(self, feeds: Feeds, size: Size) -> Feeds:
        """Inputs with integers as large as the model takes them, where its graph says nothing of them."""
        for name in self._drawer.open_integers():
            high = WIDEST
            while high > 1 and not self._runner.takes({**feeds, name: np.full_like(feeds[name], high)}):
                high //= 2
            low, high = high, min(2 * high, WIDEST + 1)
            while high - low > 1:
                middle = (low + high) // 2
                taken = self._runner.takes({**feeds, name: np.full_like(feeds[name], middle)})
                low, high = (middle, high) if taken else (low, middle)
            self._drawer.widen(name, max(low, 1))
        return self._runnable(size)

    def _runnable(self, size: Size) -> Feeds:
        """Random inputs in the next style, on which the model runs. Raises `ModelError`."""
        drawn = self._drawer.draw(size, self._rng, STYLES[self.drawn % len(STYLES)])
        failure: ModelError | None = None
        for turn in range(max(map(len, self._named.values()), default=1)):
            feeds = {
                **drawn,
                **{name: _turn(values, self.drawn + turn) for name, values in self._named.items()},
            }
            try:
                self._runner.run(self._runner.optimised, feeds)
            except ModelError as error:
                failure = failure or error
                continue
            self.drawn += 1
            return feeds
        raise failure or ModelError("the model cannot run on random inputs")

    def describe(self, size: Size) -> str:
        """The shapes of the inputs at a size."""
        return describe_shapes(shapes_at(self._drawer.inputs, size))

    def samples(self, size: Size, count: int) -> Iterator[Feeds]:
        """The inputs that were tried, and more if they are wanted, each in another style."""
        yield self.feeds.pop(size)
        yield from self.more(size, count - 1)

    def more(self, size: Size, count: int) -> Iterator[Feeds]:
        """Other inputs of a size."""
        for _ in range(count):
            try:
                yield self._runnable(size)
            except ModelError:  # in another style
                self.drawn += 1


def _turn(values: list[NDArray[Any]], number: int) -> NDArray[Any]:
    return values[number % len(values)]
