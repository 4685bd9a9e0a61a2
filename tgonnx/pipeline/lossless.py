"""What can go without any loss: units that do nothing, whatever the input."""

from __future__ import annotations

from dataclasses import replace

from tgonnx.analysis.target import Target
from tgonnx.io.notes import Note
from tgonnx.pipeline.embedding import doubts, verified
from tgonnx.pipeline.plan import Plan
from tgonnx.pipeline.result import PruneResult, result_of
from tgonnx.proof import Prover
from tgonnx.selection.criteria import without_dead
from tgonnx.training.progress import Journal


def without_loss(plan: Plan, prover: Prover) -> PruneResult:
    """Remove the units that do nothing, whatever the target says. Raises UnsupportedError if there are none."""
    mask = without_dead(plan.coupling, plan.bounds)
    proto, names = plan.model.proto, ("the original", "the pruned model")
    left = Target(flops=plan.coupling.cost_model.ratio(mask.open, "flops"))
    pruned, check, doubt = verified(plan, mask, proto, plan.family.cut(proto, plan.coupling, mask), prover)
    same = prover.pair(plan.model.original, pruned, names)
    notes = (*doubts(doubt), *doubts(prover.settle(same, pruned)))
    closed = int((~mask.open).sum())
    more = Note(
        "lossless", f"{closed:,} of {len(mask.open):,} units did nothing and went; nothing was trained"
    )
    return result_of(
        replace(plan, target=left, goal=left), mask, pruned, check, Journal(), None, (*notes, more)
    )
