"""The best epoch, which wins: not the last one."""

from __future__ import annotations

from collections.abc import Mapping

from tgonnx.graph.types import Array
from tgonnx.training.state import State

NAME, METRIC = "best/", "best"


class Best:
    """The trained values of the best epoch so far; of epochs that are equally good, of the last.

    `numbers` and `arrays` are what a state has to hold of it.
    """

    def __init__(self, higher_is_better: bool) -> None:
        self.sign = 1.0 if higher_is_better else -1.0
        self.metric: float | None = None
        self.values: Mapping[str, Array] = {}

    def consider(self, metric: float | None, values: Mapping[str, Array]) -> None:
        """Keep the values of an epoch if nothing was better. The same epoch may be considered twice."""
        if metric is not None and (self.metric is None or self.sign * (metric - self.metric) >= 0):
            self.metric, self.values = metric, values

    @property
    def numbers(self) -> dict[str, float]:
        return {} if self.metric is None else {METRIC: self.metric}

    @property
    def arrays(self) -> dict[str, Array]:
        return {NAME + name: value for name, value in self.values.items()}

    def restore(self, state: State) -> None:
        """What the state holds of it."""
        self.metric = state.numbers.get(METRIC)
        self.values = {
            name.removeprefix(NAME): value for name, value in state.arrays.items() if name.startswith(NAME)
        }
