"""Pruning without any data: units are chosen by their weights, and made up for on inputs that are made up."""

from __future__ import annotations

from dataclasses import replace

import onnx

from tgonnx.analysis.stand_ins import StandIns, stand_ins
from tgonnx.errors import ModelError, OptionError, UnsupportedError
from tgonnx.io.notes import Note
from tgonnx.options import CRITERION
from tgonnx.passes.compensate import compensate
from tgonnx.pipeline.branching import Branching, chooser
from tgonnx.pipeline.embedding import doubts, verified
from tgonnx.pipeline.plan import Plan
from tgonnx.pipeline.result import PruneResult, result_of
from tgonnx.proof import Prover
from tgonnx.selection.bounds import Bounds, Ranking
from tgonnx.selection.mask import Mask
from tgonnx.selection.scoring import criterion_of
from tgonnx.training.progress import Journal
from tgonnx.training.recipe import GATES, Recipe, Run

UNMEASURED = "no data was given: {how}, and accuracy was not measured"


def without_data(plan: Plan, recipe: Recipe, run: Run, prover: Prover) -> PruneResult:
    """Choose, cut, refit on stand-ins, verify. Raises OptionError for what cannot be had without data."""
    name = CRITERION if recipe.criterion == "auto" else recipe.criterion
    if name == GATES or criterion_of(name).score is None:
        raise OptionError("criterion", f"{name!r} needs data")
    mask = plan.given or _chosen(plan, name, run, recipe.compensate)
    cut = plan.family.cut(plan.model.proto, plan.coupling, mask)
    how = "the choice was given" if plan.given else _told(plan.bounds)
    if recipe.compensate and not mask.weights:
        cut, more = _refitted(plan, mask, cut, run)
        how += more
    pruned, check, doubt = verified(plan, mask, plan.model.proto, cut, prover)
    notes = (*doubts(doubt), Note("no-data", UNMEASURED.format(how=how)))
    return result_of(plan, mask, pruned, check, Journal(), None, notes)


def _told(bounds: Bounds) -> str:
    """How was chosen what goes."""
    if bounds.cuts_weights:
        return "weights were chosen by their size"
    if bounds.chooses:
        return "alternatives were chosen by what they do on random inputs"
    units, branches = (
        "units were chosen by the size of their weights",
        "branches by what they add on random inputs",
    )
    if not bounds.cuts_branches:
        return units
    return f"{units}, {branches}" if bounds.cuts_units else branches.replace(" by", " were chosen by")


def _chosen(plan: Plan, criterion: str, run: Run, refitted: bool) -> Mask:
    """By the weights, and branches by what they add on stand-ins."""
    branching = Branching((), real=False, threads=run.threads)
    if plan.bounds.cuts_branches:
        inputs, known = stand_ins(plan.model)
        refit = refitted and (known or inputs.has_floats)
        branching = replace(branching, inputs=inputs, refit=refit, crossed=not known)
    how = Ranking(criterion=criterion)
    return plan.met(chooser(plan.coupling, plan.bounds, how, run.seed, None, branching))


def _refitted(plan: Plan, mask: Mask, cut: onnx.ModelProto, run: Run) -> tuple[onnx.ModelProto, str]:
    """The cut model refitted on random inputs, and what to say of them; as it is where nothing runs the model."""
    try:
        inputs, known = stand_ins(plan.model)
        if not known and not inputs.has_floats:
            # a weight refitted on ids that nobody uses does worse than before
            return cut, ", not made up for, because nothing in the model tells which numbers its inputs are"
        new, refits = compensate(plan.reference, cut, plan.coupling, mask, inputs, run.threads, not known)
    except (ModelError, UnsupportedError) as error:
        return cut, f", not made up for, because the model does not run here on random inputs ({error})"
    if not any(refit.after < refit.before for refit in refits):
        return cut, ""
    return new, f", made up for on random inputs {_described(inputs, known)}"


def _described(inputs: StandIns, known: bool) -> str:
    if known:
        return f"(of the range that BatchNormalization's averages fit best: {inputs.kinds[0][0]})"
    return "(of two ranges in turn, as nothing in the model tells which is right)"
