"""What comes of a run, in figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from tgonnx.analysis.cost import Cost
from tgonnx.analysis.target import LATENCY, Target
from tgonnx.drawing.charts import kept_chart
from tgonnx.drawing.files import save_report
from tgonnx.drawing.svg import Drawing
from tgonnx.io.notes import Note
from tgonnx.io.packed import compressed_bytes
from tgonnx.io.plain import plain
from tgonnx.io.summary import Shown, Summary, amount, byte_count
from tgonnx.pipeline.clock import TOLERANCE
from tgonnx.pipeline.measuring import Yardstick, far_notes, measured_notes, rising_note
from tgonnx.pipeline.plan import Plan
from tgonnx.pipeline.story import Scores, details_of, story_of
from tgonnx.runtime.equivalence import Check
from tgonnx.runtime.latency import Latency
from tgonnx.runtime.ort_format import save_model
from tgonnx.selection.budget import CLOSE
from tgonnx.selection.mask import Mask
from tgonnx.training.progress import Journal, Progress

NOT_SPARSE = (
    "no weight is stored sparsely: that makes a file smaller from about two thirds of zeros, and needs IR version 6 "
    "(this model has {})"
)


@dataclass(frozen=True)
class Figures:
    """One model in figures. `metric` was measured on the test part; None if there is none. `others` are the figures of
    further outputs, by what they are called. `compressed_bytes` is the size of the file after deflate, where weights
    became zero.
    """

    cost: Cost
    file_bytes: int
    metric: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    compressed_bytes: int | None = None


@dataclass(frozen=True)
class Timed:
    """The original and the result timed in turns, on so many threads (0: all), and the share that was predicted."""

    before: Latency
    after: Latency
    predicted: float
    threads: int


def _by_the_clock(target: Target, timed: Timed) -> Target:
    """A target that was stated in seconds as a share of what the original took this time."""
    stated = Target.parse(target.stated)
    return target if stated.value <= 1 else target.of_share(stated.value / (1000 * timed.before.p50))


def slack(target: Target) -> float:
    """The share of a target by which it may be missed and still is met."""
    return TOLERANCE if target.kind == LATENCY else 0.0


@dataclass(frozen=True, repr=False)
class PruneResult(Shown):
    """What `prune` returns.

    `achieved` is what is left of the target's kind of cost, a ratio; of latency as it was measured (`timed`), if that
    was here. `target_met`: it is at most the target, of latency to within what clocks can tell.
    `samples` counts those of each part of the data: train, validation, test.
    `counted_at` are the shapes of inputs of open size that FLOPs are counted at.
    `also` has what is left of other kinds of cost that were asked for, all of them met.
    `notes` say what a reader of the figures should know: text, each with a `code`. `history` has one record per epoch.
    `details` are what a report tells of layers, groups and pinned axes, as plain data; `run_dir` is the folder of the
    run, if one was kept.
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
    timed: Timed | None = None
    also: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    run_dir: Path | None = None

    @property
    def metric_label(self) -> str:
        """What the figure is called, with the part of the data that it was measured on."""
        return f"{self.metric_name} (test)" if self.metric_name else "metric"

    @property
    def target_met(self) -> bool:
        return self.achieved <= self.target.value * (1 + slack(self.target)) + 1e-9

    def summary(self) -> Summary:
        """Before and after, and whether the target was met."""
        costs = [
            ("FLOPs", self.before.cost.flops, self.after.cost.flops, amount),
            ("parameters", self.before.cost.params, self.after.cost.params, amount),
            ("channels", self.before.cost.channels, self.after.cost.channels, amount),
            ("file", self.before.file_bytes, self.after.file_bytes, byte_count),
        ]
        if self.before.compressed_bytes is not None and self.after.compressed_bytes is not None:
            packed = (self.before.compressed_bytes, self.after.compressed_bytes)
            costs.append(("compressed", *packed, byte_count))
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
        if self.mask.branches:
            facts.append(("removed", f"{len(self.mask.branches)} branches and alternatives"))
        facts += [("also", f"{kind}: {left:.3f} is left") for kind, left in self.also.items()]
        facts += [("note", note) for note in self.notes[:3]]
        return Summary("PruneResult", facts, ("", "before", "after", "left"), rows)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the pruned model, completely or not at all; for onnxruntime's format if `path` ends in .ort.

        Raises UsageError; UnsupportedError and VerificationError for what cannot be converted.
        """
        save_model(self.model, path, overwrite)

    def story(self) -> dict[str, Any]:
        """All that a report is made from, as plain data for JSON."""
        told: dict[str, Any] = plain(story_of(self))
        return told

    def plot(self) -> Drawing:
        """The channels that are kept of each layer, as a picture: shown in a notebook, written with `.save(path)`."""
        return kept_chart(self.story()["layers"])

    def report(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        times: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """Write all figures and pictures as .html, or the data of them as .json, completely or not at all.

        `times` are the milliseconds of nodes before and after, if somebody measured them. Raises UsageError.
        """
        save_report(self.story() | {"times": plain(dict(times or {}))}, path, overwrite)

    def _repr_html_(self) -> str:
        picture = self.plot().standalone() if self.details.get("layers") else ""
        return super()._repr_html_() + picture


def result_of(
    plan: Plan,
    mask: Mask,
    pruned: onnx.ModelProto,
    check: Check,
    journal: Journal,
    measure: Yardstick | None,
    notes: tuple[Note, ...],
    scores: Scores | None = None,
) -> PruneResult:
    """The result of a plan; `scores` [units] are what the search ranked the units by."""
    cost = plan.coupling.cost_model
    if cost.uncounted:
        notes += (Note("uncounted", f"not counted in the FLOPs: {', '.join(cost.uncounted)}"),)
    target, achieved, timed = plan.target, plan.left(mask), None
    if plan.clock is not None:
        timed = Timed(*plan.clock.beside(pruned), achieved, plan.clock.threads)
        target, achieved = _by_the_clock(target, timed), timed.after.share
    original = plan.model.original
    if plan.sparse and not pruned.graph.sparse_initializer:
        notes += (Note("not-sparse", NOT_SPARSE.format(original.ir_version)),)
    if achieved > target.value * (1 + slack(target)) + 1e-9:
        text = f"target {target} not met: at least {achieved:.3f} of the {target.kind} must stay"
        notes += (Note("target-not-met", text),)
    elif not plan.coupling.meetings and achieved < (CLOSE - slack(target)) * target.value and not target.also:
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
    packed = [compressed_bytes(model) if mask.weights else None for model in (original, pruned)]
    whole = plan.coupling.original.cost_model.cost()
    before = Figures(whole, original.ByteSize(), *figures[0], packed[0])
    counted = mask.counted(plan.coupling).cost_model
    after = Figures(counted.cost(mask.open), pruned.ByteSize(), *figures[1], packed[1])
    also = {each.kind: counted.ratio(mask.open, each.kind) for each in target.also}
    return PruneResult(
        pruned, mask, before, after, name, tuple(journal.records), check, target, achieved, notes,
        plan.model.counted_at, samples, timed, also, details_of(plan.coupling, mask, scores),
    )  # fmt: skip
