"""What each group costs: how far the outputs move when a part of its units is closed and nothing makes up for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgonnx.analysis.coupling import Coupling
from tgonnx.passes.insert_gates import GATES, insert_gates
from tgonnx.runtime.sessions import Session, open_session
from tgonnx.selection.obs import order_of_removal
from tgonnx.selection.scoring import Inputs

BATCHES = 8  # of inputs that are looked at


@dataclass(frozen=True)
class Sensitivity:
    """A group, how many of its units were closed, the error of the outputs as a share of their spread, and what is
    saved: the share of all FLOPs."""

    group: str
    units: int
    closed: int
    error: float
    saved: float


def sensitivities(
    coupling: Coupling, inputs: Inputs, share: float = 0.5, threads: int = 0
) -> list[Sensitivity]:
    """Each group alone, its units of lowest score closed, the most sensitive first.

    Raises ModelError if the model does not run on the inputs.
    """
    scores = order_of_removal(coupling, inputs, threads)
    session = open_session(insert_gates(coupling.model.proto, coupling, None), threads)
    batches = [inputs[i] for i in range(min(BATCHES, len(inputs)))]
    whole = Outputs(session, batches, {GATES: np.ones(coupling.units, np.float32)})
    found = []
    for group in coupling.groups:
        count = min(round(share * group.size), group.size - 1)
        opened = np.ones(coupling.units, bool)
        opened[group.units[np.argsort(scores[group.units], kind="stable")[:count]]] = False
        closed = {GATES: opened.astype(np.float32)}
        error = whole.error(Outputs(session, batches, closed)) if count else 0.0
        saved = 1 - coupling.cost_model.ratio(opened, "flops")
        found.append(Sensitivity(group.name, group.size, count, error, saved))
    return sorted(found, key=lambda one: -one.error)


class Outputs:
    """What a gated model puts out for some batches, in floats; `gates` are its inputs of gate values."""

    def __init__(self, session: Session, batches: Inputs, gates: Mapping[str, NDArray[np.float32]]) -> None:
        runs = [session.run({**feeds, **gates}) for feeds in batches]
        self.values = {
            name: [run[name].astype(np.float64) for run in runs]
            for name, value in runs[0].items()
            if value.dtype.kind == "f"
        }

    def error(self, other: Outputs) -> float:
        """The mean over outputs of the squared distance, as a share of the spread over samples."""
        shares = []
        for name, mine in self.values.items():
            distance = sum(
                float(np.square(a - b).sum()) for a, b in zip(mine, other.values[name], strict=True)
            )
            centre = np.mean([value.mean() for value in mine])
            spread = sum(float(np.square(value - centre).sum()) for value in mine)
            shares.append(distance / max(spread, 1e-30))
        return float(np.mean(shares)) if shares else 0.0
