"""What comes of a run, in figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from tgonnx.analysis.cost import Cost
from tgonnx.analysis.target import Target
from tgonnx.io.notes import Note
from tgonnx.io.summary import Shown, Summary, amount, byte_count
from tgonnx.pipeline.measuring import Yardstick, far_notes, measured_notes, rising_note
from tgonnx.pipeline.plan import Plan
from tgonnx.runtime.equivalence import Check
from tgonnx.runtime.ort_format import save_model
from tgonnx.selection.budget import CLOSE
from tgonnx.selection.mask import Mask
from tgonnx.training.progress import Journal, Progress


@dataclass(frozen=True)
class Figures:
    """One model in figures. `metric` was measured on the test part; None if there is none. `others` are the figures of
    further outputs, by what they are called.
    """

    cost: Cost
    file_bytes: int
    metric: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class PruneResult(Shown):
    """What `prune` returns.

    `achieved` is what is left of the target's kind of cost, a ratio. `target_met`: it is at most the target.
    `samples` counts those of each part of the data: train, validation, test.
    `counted_at` are the shapes of inputs of open size that FLOPs are counted at.
    `notes` say what a reader of the figures should know: text, each with a `code`. `history` has one record per epoch.
    """

    model: onnx.ModelProto
    mask: Mask
    before: Figures
    after: Figures
    metric_name: str | None
    history: tuple[Progress, ...]
    check: Check
    target: Target
    achieved: float
    notes: tuple[Note, ...] = ()
    counted_at: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)

    @property
    def metric_label(self) -> str:
        """What the figure is called, with the part of the data that it was measured on."""
        return f"{self.metric_name} (test)" if self.metric_name else "metric"

    @property
    def target_met(self) -> bool:
        return self.achieved <= self.target.value + 1e-9

    def summary(self) -> Summary:
        """Before and after, and whether the target was met."""
        costs = [
            ("FLOPs", self.before.cost.flops, self.after.cost.flops, amount),
            ("parameters", self.before.cost.params, self.after.cost.params, amount),
            ("channels", self.before.cost.channels, self.after.cost.channels, amount),
            ("file", self.before.file_bytes, self.after.file_bytes, byte_count),
        ]
        rows = [(name, say(a), say(b), f"{b / a:.1%}" if a else "") for name, a, b, say in costs]
        if self.before.metric is not None and self.after.metric is not None:
            a, b = self.before.metric, self.after.metric
            measured = [(self.metric_label, a, b)]
            measured += [(name, a, self.after.others[name]) for name, a in self.before.others.items()]
            rows += [(name, f"{a:.4g}", f"{b:.4g}", f"{b - a:+.4g}") for name, a, b in measured]
        met = "met" if self.target_met else f"not met: {self.achieved:.3f}"
        facts = [
            ("target", f"{self.target}, {met}"),
            ("verified", f"{self.check.verdict}, {self.check.max_rel:.1e} relative"),
        ]
        facts += [("note", note) for note in self.notes[:3]]
        return Summary("PruneResult", facts, ("", "before", "after", "left"), rows)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the pruned model, completely or not at all; for onnxruntime's format if `path` ends in .ort.

        Raises UsageError; UnsupportedError and VerificationError for what cannot be converted.
        """
        save_model(self.model, path, overwrite)


def result_of(
    plan: Plan,
    mask: Mask,
    pruned: onnx.ModelProto,
    check: Check,
    journal: Journal,
    measure: Yardstick | None,
    notes: tuple[Note, ...],
) -> PruneResult:
    cost = plan.coupling.cost_model
    if cost.uncounted:
        notes += (Note("uncounted", f"not counted in the FLOPs: {', '.join(cost.uncounted)}"),)
    achieved = plan.left(mask)
    original = plan.model.original
    if achieved > plan.target.value + 1e-9:
        text = f"target {plan.target} not met: at least {achieved:.3f} of the {plan.target.kind} must stay"
        notes += (Note("target-not-met", text),)
    elif achieved < CLOSE * plan.target.value:
        text = f"{achieved:.3f} of the {plan.target.kind} is left: no larger choice of whole units was found"
        notes += (Note("below-target", text),)
    figures: list[tuple[float | None, Mapping[str, float]]] = [(None, {}), (None, {})]
    name, samples = None, {}
    if measure is not None:
        name, samples = measure.name, measure.parts.counts
        standing = None if measure.judge is None else measure.judge(pruned)
        if measure.judge is not None and measure.original is not None and standing is not None:
            others = [measure.judge.others(model) for model in (original, pruned)]
            figures = [(measure.original.metric, others[0]), (standing.metric, others[1])]
        notes += far_notes(measure, standing, figures[1][1])
        notes += measured_notes(measure, pruned, standing) + rising_note(measure, journal.records)
    before = Figures(cost.cost(), original.ByteSize(), *figures[0])
    after = Figures(cost.cost(mask.open), pruned.ByteSize(), *figures[1])
    return PruneResult(
        pruned, mask, before, after, name, tuple(journal.records), check, plan.target, achieved, notes,
        plan.model.counted_at, samples,
    )  # fmt: skip
