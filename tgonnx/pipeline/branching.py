"""Branches and channels chosen together, without training.

Each branch is closed alone in the gated model, which says how far the outputs move; without samples, what it adds is
held against the sum. The least error for what is saved goes first. Where channels may go, too, several numbers of
branches are tried, channels being cut for the rest of the target, and the choice that moves the outputs least is taken,
after what reads of what went was refitted, if it will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.stand_ins import stand_ins
from tgonnx.analysis.target import Target
from tgonnx.data.calibration import Calibration
from tgonnx.data.sources import Data, open_dataset
from tgonnx.errors import TargetError, UnsupportedError
from tgonnx.passes.compensate import compensate
from tgonnx.passes.gate_branches import BRANCH_GATES, gate_branches
from tgonnx.passes.insert_gates import GATES, insert_gates
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.pipeline.closing import Outputs
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.bounds import Bounds, Ranking
from tgonnx.selection.branch_order import (
    BATCHES,
    Errors,
    closable,
    in_order,
    most_saved,
    relative_norms,
    saved_by,
    within_bounds,
)
from tgonnx.selection.budget import all_met, fit
from tgonnx.selection.choice_fit import fit_choices, least_of
from tgonnx.selection.criteria import ranks
from tgonnx.selection.mask import Mask
from tgonnx.selection.scoring import Evidence, Inputs, Scores
from tgonnx.selection.weight_choice import fit_weights, weight_scores
from tgonnx.training.evidence import evidence_from

SPLITS = 6  # numbers of branches that are tried beside channels, none and as many as do alone among them
Open = NDArray[np.bool_]


@dataclass(frozen=True)
class Branching:
    """How branches are judged: on `inputs`, by the outputs if these are `real`, else by what each branch adds.

    With `refit`, numbers of branches are compared after weights were refitted; `crossed`: every second batch is of
    another kind, as for `compensate`.
    """

    inputs: Inputs
    real: bool = True
    threads: int = 0
    refit: bool = False
    crossed: bool = False

    def choose(self, coupling: Coupling, scores: Scores | None, target: Target, bounds: Bounds) -> Mask:
        """The mask that meets a target, with units of low `scores` closed where these may go.

        Raises TargetError if it cannot be met, ModelError if the model does not run on the inputs.
        """
        target = target.as_share(coupling.cost_model)
        if coupling.meetings:
            return fit_choices(coupling, self._worth(coupling), target, bounds)
        names = closable(coupling, bounds)
        if self.real:
            errors = Trials(coupling, self.inputs, self.threads).of_each()
        else:
            errors = relative_norms(coupling, self.inputs, self.threads)
        order = in_order(coupling, errors, target.kind, names)
        order, alone = within_bounds(coupling, order, target, bounds)
        if scores is None or not bounds.cuts_units:
            if alone is None:
                least = 1 - saved_by(coupling, order, target.kind)
                raise TargetError(f"{target}: at least {least:.3f} of the {target.kind} is in no branch")
            return Mask.all_open(coupling.closing(alone))
        masks = list(_masks(coupling, scores, target, bounds, (order, alone)))
        if not masks:
            raise TargetError(f"{target}: neither channels nor branches can be cut so far")
        if len(masks) == 1:
            return masks[0]
        if self.refit:
            return min(masks, key=lambda mask: self._error_after_refit(coupling, mask))
        return min(masks, key=Trials(coupling, self.inputs, self.threads).error)

    def _worth(self, coupling: Coupling) -> Errors:
        """How well each alternative does for all of its meeting, [alternatives]."""
        if self.real or coupling.foreign:
            return -Trials(coupling, self.inputs, self.threads).of_each_alone()
        return relative_norms(coupling, self.inputs, self.threads)

    def _error_after_refit(self, coupling: Coupling, mask: Mask) -> float:
        """How far the outputs move, on batches that were not refitted on if there are others."""
        proto, count = coupling.model.proto, len(self.inputs)
        learnt = [self.inputs[i] for i in range(min(BATCHES, count))]
        judged = [self.inputs[i] for i in range(BATCHES, min(2 * BATCHES, count))] or learnt
        cut = remove_channels(proto, coupling, mask)
        cut = compensate(proto, cut, coupling, mask, learnt, self.threads, self.crossed)[0]
        whole, left = (Outputs(open_session(model, self.threads), judged, {}) for model in (proto, cut))
        error = whole.error(left)
        return error if np.isfinite(error) else float("inf")


def chooser(
    coupling: Coupling,
    bounds: Bounds,
    how: Ranking,
    seed: int,
    evidence: Evidence | None,
    branching: Branching,
) -> Callable[[Target], Mask]:
    """What makes the mask of a target by a criterion, all being scored once; branches that may go are judged, too.

    Raises UsageError, ModelError; what it returns raises TargetError, ModelError.
    """
    if coupling.meetings and how.criterion == "random":
        drawn = np.random.default_rng(seed).random(len(coupling.branches))
        return lambda target: fit_choices(coupling, drawn, target, bounds)
    if bounds.cuts_weights:
        scores = weight_scores(coupling, how.criterion, seed)
        return lambda target: fit_weights(coupling, scores, target, bounds)
    places = ranks(coupling, how, seed, evidence) if bounds.cuts_units and coupling.units else None
    if bounds.cuts_branches or places is None:
        return lambda target: branching.choose(coupling, places, target, bounds)
    return lambda target: fit(coupling, places, target, bounds)


def _masks(
    coupling: Coupling,
    scores: Scores,
    target: Target,
    bounds: Bounds,
    found: tuple[list[str], tuple[str, ...] | None],
) -> Iterator[Mask]:
    """Masks that meet the target with several numbers of branches, from none to those that do `alone`."""
    order, alone = found
    most = len(order) if alone is None else len(alone)
    for count in sorted({round(part) for part in np.linspace(0, most, SPLITS)}):
        if alone is not None and count == most:
            yield Mask.all_open(coupling.closing(alone))
            continue
        try:
            yield fit(coupling.closing(order[:count]), scores, target, bounds)
        except TargetError:
            continue


class Trials:
    """A model whose units and branches can be closed at will, on a few batches."""

    def __init__(self, coupling: Coupling, inputs: Inputs, threads: int = 0) -> None:
        self.coupling = coupling
        gated = gate_branches(insert_gates(coupling.model.proto, coupling, None), coupling)
        self._session = open_session(gated, threads)
        self._batches = [inputs[i] for i in range(min(BATCHES, len(inputs)))]
        self._names = [branch.name for branch in coupling.branches]
        self._whole = self._outputs(np.ones(coupling.units, bool), coupling.foreign)

    def _outputs(self, opened: Open, closed: tuple[str, ...]) -> Outputs:
        gates = {GATES: opened.astype(np.float32)}
        if self._names:
            gates[BRANCH_GATES] = np.array([name not in closed for name in self._names], np.float32)
        return Outputs(self._session, self._batches, gates)

    def error(self, mask: Mask) -> float:
        """How far the outputs move, as a share of their spread; infinite where they are no numbers."""
        error = self._whole.error(self._outputs(mask.open, mask.branches))
        return error if np.isfinite(error) else float("inf")

    def of_each(self) -> Errors:
        """The error if each branch is closed alone, [branches]."""
        return np.array([self._error_without([name]) for name in self._names])

    def of_each_alone(self) -> Errors:
        """The error if of its meeting each alternative alone is open, all else being the original's, [alternatives]."""
        foreign, errors = {*self.coupling.foreign}, []
        for meeting in self.coupling.meetings:
            for kept in meeting.alternatives:
                others = {other.name for other in meeting.alternatives if other is not kept}
                errors.append(self._error_without(sorted((foreign | others) - {kept.name})))
        return np.array(errors)

    def _error_without(self, names: list[str]) -> float:
        return self.error(Mask.all_open(self.coupling.closing(names)))


def select_blocks(
    coupling: Coupling, target: Target, bounds: Bounds, how: Ranking, seed: int, data: Data | None
) -> Mask:
    """`chooser` with what there is: samples, or else stand-ins. Raises DataError, too."""
    if bounds.cuts_weights:
        branching, evidence = Branching(()), None
    elif data is None:
        branching, evidence = Branching(stand_ins(coupling.model)[0], real=False), None
    else:
        evidence = evidence_from(coupling, data, seed)
        branching = Branching(Calibration(open_dataset(data, coupling.model.original).train, seed=seed))
    choose = chooser(coupling, bounds, how, seed, evidence, branching)
    return all_met(coupling, choose(target), target.as_share(coupling.cost_model), choose)


def least_left(coupling: Coupling, bounds: Bounds, kind: str) -> float:
    """The share of a kind of cost that stays without all branches that may go. Raises UnsupportedError without any."""
    if coupling.meetings:
        return least_of(coupling, kind)
    if not coupling.branches:
        raise UnsupportedError(f"{coupling.model.source}: there is no residual branch that could go")
    return 1 - saved_by(coupling, most_saved(coupling, bounds, kind), kind)
