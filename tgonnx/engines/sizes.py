"""Training on batches of several sizes: a step graph for each, and one state.

A step graph is bound to the shapes of its batches. Parameters, moments and statistics are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tgonnx.engines.trainer import Trainer
from tgonnx.errors import UnsupportedError
from tgonnx.graph.types import Array

Shapes = tuple[tuple[int, ...], ...]


class SizedTrainer(Trainer):
    """A trainer for batches of any sizes: `first`, which is for `feeds`, and what `make` builds for other sizes."""

    def __init__(
        self, first: Trainer, make: Callable[[Mapping[str, Array]], Trainer], feeds: Mapping[str, Array]
    ) -> None:
        self.__dict__.update(
            first.__dict__
        )  # the state is its own from now on; the trainers borrow it for a step
        self._names, self._make = tuple(feeds), make
        self._by_shapes = {self._shapes(feeds): first}

    def step(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        shapes = self._shapes(feeds)
        if shapes not in self._by_shapes:
            self._by_shapes[shapes] = self._made(feeds)
        trainer = self._by_shapes[shapes]
        _hand_over(self, trainer)
        found = trainer.step(feeds)
        _hand_over(trainer, self)
        return found

    def _made(self, feeds: Mapping[str, Array]) -> Trainer:
        made = self._make(feeds)
        if any(self._slots.get(name) != slot for name, slot in made._slots.items()):
            raise UnsupportedError("batches of other sizes train other weights; give samples of one size")
        return made

    def _shapes(self, feeds: Mapping[str, Array]) -> Shapes:
        return tuple(np.shape(feeds[name]) for name in self._names)


def _hand_over(source: Trainer, target: Trainer) -> None:
    target._state = target._state | {n: v for n, v in source._state.items() if n in target._state}
    target._kept = target._kept | source._kept  # values made from numpy borrow its memory
