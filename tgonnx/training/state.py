"""What a phase of training holds between two steps, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tgonnx.graph.types import Array
from tgonnx.training.progress import Phase, Progress

TRAINER, OWN = "trainer/", "own/"  # what the names of arrays start with in a checkpoint


@dataclass(frozen=True)
class State:
    """All that a phase needs to go on as if it had never stopped; nothing in it is changed in place.

    `step` steps are done; with the seed it says which batches come next. `loss` is that of recent steps, `first` that
    of the first one. `trainer` gives parameters, moments and
    statistics by their names in the step graph, `values` the trained initializers. `numbers` and `arrays` are the
    phase's own: the search's multiplier and the share of time that each gate was open.
    """

    phase: Phase
    engine: str
    step: int
    loss: float
    first: float
    seconds: float
    trainer: Callable[[], Mapping[str, Array]]
    numbers: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    values: Callable[[], Mapping[str, Array]] = dict

    def tensors(self) -> dict[str, Array]:
        """Its arrays under one name each."""
        ours = {TRAINER + name: array for name, array in self.trainer().items()}
        return ours | {OWN + name: array for name, array in self.arrays.items()}

    def facts(self) -> dict[str, Any]:
        """The rest of it, for JSON."""
        names = ("phase", "engine", "step", "loss", "first", "seconds")
        return {name: getattr(self, name) for name in names} | {"numbers": dict(self.numbers)}


@dataclass(frozen=True)
class Found:
    """The outcome of a search: `scores` [units] rank the units, `values` are the trained initializers."""

    scores: npt.NDArray[np.float64]
    values: Mapping[str, Array]
    cost: float  # the ratio at which the gates themselves stand
    stake: float = 0.0  # what the task's loss has to lose

    def tensors(self) -> dict[str, Array]:
        """Its arrays under one name each."""
        return {"scores": self.scores} | {TRAINER + name: array for name, array in self.values.items()}

    @classmethod
    def restored(cls, facts: Mapping[str, Any], tensors: Mapping[str, Array]) -> Found:
        """What `tensors`, and cost and stake in `facts`, were made from. Raises KeyError if they were not."""
        values = {n.removeprefix(TRAINER): a for n, a in tensors.items() if n.startswith(TRAINER)}
        return cls(tensors["scores"], values, facts["cost"], facts["stake"])


def restored(facts: Mapping[str, Any], tensors: Mapping[str, Array]) -> State:
    """The state that `facts` and `tensors` were made from. Raises KeyError, TypeError if they were not."""
    trainer, own = (
        {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}
        for start in (TRAINER, OWN)
    )
    return State(**facts, trainer=lambda: trainer, arrays=own)


def records_to_json(records: list[Progress]) -> list[dict[str, Any]]:
    """What was told at the ends of epochs, for JSON."""
    return [asdict(record) for record in records]


def records_from_json(entries: list[dict[str, Any]]) -> list[Progress]:
    """What `records_to_json` was given. Raises TypeError for anything else."""
    return [Progress(**entry) for entry in entries]
