"""What a model costs, as a function of how many units of each group are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.kinds import Axes, Counts, Kind, Measure, named
from tgonnx.analysis.target import LATENCY
from tgonnx.analysis.target import Target as Target
from tgonnx.analysis.times import Profile, predicted

if TYPE_CHECKING:
    from tgonnx.analysis.coupling import Coupling

REPORTED: tuple[Kind, ...] = ("flops", "params", "channels")  # in every table of results


@dataclass(frozen=True)
class Cost:
    """FLOPs per sample (two per multiply-accumulate of Conv, Gemm, MatMul, ...), parameters, and channels."""

    flops: float
    params: int
    channels: int


class CostModel:
    """FLOPs, parameters and channels of a coupling, and other kinds of cost, for any mask.

    Units are counted by kind of unit (units in exactly the same axes; most groups are of one kind): `kind_of` is
    [units], `sizes` is [kinds]. `uncounted` names the nodes with weights that are
    missing from the FLOPs, as it is not known what they multiply.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        axes = Axes(coupling)
        self.kind_of, self.sizes = axes.kind_of, axes.sizes
        self._measures = {kind: named(kind).measure(axes) for kind in REPORTED}
        self._totals: dict[Kind, float] = {}
        self.profile: Profile | None = None  # by which latency is counted
        self.uncounted = self._measures["flops"].uncounted

    def measure(self, kind: Kind) -> Measure:
        """How a kind of cost is counted and written as nodes. Raises UsageError for one that nobody knows."""
        whole = self.coupling.whole
        if kind == LATENCY and kind not in self._measures and whole is not None and whole.cost_model.profile:
            self.use(whole.cost_model.profile)
        if kind not in self._measures:  # axes of its own: what is registered changes no figure of the others
            self._measures[kind] = named(kind).measure(Axes(self.coupling))
        return self._measures[kind]

    def block(self, kind: Kind) -> int:
        """How many channels are paid for at once; 0 where each counts, or a measure from outside does not say."""
        return int(getattr(self.measure(kind), "block", 0))

    def use(self, profile: Profile) -> None:
        """Count `latency` by this profile. Raises UsageError if it is another model's."""
        self._measures[LATENCY] = predicted(Axes(self.coupling), profile)
        self._totals.pop(LATENCY, None)
        self.profile = profile

    def open_counts(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Units kept of each kind."""
        return np.bincount(self.kind_of[mask], minlength=len(self.sizes))

    def count(self, kind: Kind, counts: Counts) -> float:
        """The cost with `counts` units kept of each kind of unit."""
        return self.measure(kind).count(counts)

    def total(self, kind: Kind) -> float:
        """The cost of all units."""
        if kind not in self._totals:
            original = self.coupling.original  # a share is one of all, with the branches that are closed
            mine = original is self.coupling
            self._totals[kind] = (
                self.count(kind, self.sizes) if mine else original.cost_model.count(kind, self.sizes)
            )
        return self._totals[kind]

    def ratio(self, mask: npt.NDArray[np.bool_], kind: Kind) -> float:
        """What is left of the original's cost."""
        return self.count(kind, self.open_counts(mask)) / max(self.total(kind), 1e-30)

    def cost(self, mask: npt.NDArray[np.bool_] | None = None) -> Cost:
        counts = self.sizes if mask is None else self.open_counts(mask)
        flops, params, channels = (self.count(kind, counts) for kind in REPORTED)
        return Cost(flops, round(params), round(channels))

    def by_owner(self, kind: Kind, counts: Counts | None = None) -> dict[str, float]:
        """The cost of each node (flops) or initializer (params)."""
        return self.measure(kind).by_owner(self.sizes if counts is None else counts)
