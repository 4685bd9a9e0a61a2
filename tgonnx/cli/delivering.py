"""What training made, written and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tgonnx.cli.terminal import Terminal
from tgonnx.errors import TargetError, UsageError

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    from rich.console import RenderableType

    from tgonnx.analysis.model import Model
    from tgonnx.pipeline import PruneResult
    from tgonnx.report.tables import Facts
    from tgonnx.runtime.operator_times import OperatorTime


LARGE = 1 << 29  # bytes of a model whose operators are not timed one by one


@dataclass(frozen=True)
class Places:
    """Where a model and its figures go; none of the `inputs` may be overwritten."""

    out: Path
    report: Path | None
    overwrite: bool
    inputs: Sequence[Path]

    def check(self) -> None:
        """Raise UsageError, before anything is trained, if they cannot be written."""
        from tgonnx.drawing.files import report_destination
        from tgonnx.io.save import model_destination

        model_destination(self.out, self.overwrite, self.inputs)
        if self.report:
            report_destination(self.report, self.overwrite, [*self.inputs, self.out])


def deliver(terminal: Terminal, result: PruneResult, original: Model, places: Places, threads: int) -> None:
    """Write a result, and its figures if they are asked for; show them. Exits with what went wrong."""
    from tgonnx.io.save import save_anyway
    from tgonnx.pipeline.slowness import by_node
    from tgonnx.report import tables as report
    from tgonnx.report.bars import kept_bars, kept_of
    from tgonnx.report.pages import renew, save_figures, story_with
    from tgonnx.report.zeros import zeros_json, zeros_text
    from tgonnx.runtime.ort_format import save_model

    overwrite, inputs = places.overwrite, places.inputs
    out, misplaced = save_anyway(lambda path: save_model(result.model, path, overwrite, inputs), places.out)
    with terminal.working("timing"):
        before, after = report.facts(result, original.original, threads)
        operators = _operators(result, original, threads)
    figures = report.prune_json(str(out), result, before, after)
    figures["slower"] = lag = "" if operators is None else _lag(result, before, after, operators)
    story = story_with(str(out), result, before, after)
    story["times"] = {} if operators is None else by_node(original.original, operators)
    if places.report:
        _, also = save_anyway(
            lambda path: save_figures(figures, [story], path, overwrite, [*inputs, out]), places.report
        )
        misplaced = misplaced or also
    try:
        renew(result, story)
    except UsageError as error:
        misplaced = misplaced or str(error)
    for note in result.notes:
        if note.code != "data":  # said before training
            terminal.note(f"note: {note}")
    if lag and not terminal.json:  # it is among the figures
        terminal.note(f"note: {lag}")
    table = report.comparison(before, after, result.check, result.metric_label, result.timed)
    kept, counted = kept_of(result.mask), report.counted_text(result.counted_at)
    shown: list[RenderableType] = [table, *([counted] if counted else [])]
    if result.mask.weights:
        shown.append(zeros_text(result))
    if result.mask.branches:
        shown.append(f"removed {', '.join(result.mask.branches)}")
    chosen = result.details.get("chosen", [])
    shown += [f"kept {', '.join(one['kept'])} at {one['node']}" for one in chosen]
    if not result.mask.open.all():
        shown.append(kept_bars(kept, terminal.verbose > 0))
    removed: dict[str, Any] = {"removed_branches": list(result.mask.branches)} if result.mask.branches else {}
    removed |= {"chosen": chosen} if chosen else {}
    removed |= {"nonzeros": zeros_json(result)} if result.mask.weights else {}
    terminal.result(figures | {"kept": kept} | removed, *shown, f"wrote {out}")
    if misplaced:
        terminal.complain(misplaced)
        raise typer.Exit(UsageError.exit_code)
    if not result.target_met:
        kind = result.target.kind
        terminal.complain(
            f"target {result.target} not met: {result.achieved:.3f} of the {kind} is left in {out}"
        )
        raise typer.Exit(TargetError.exit_code)


def _operators(
    result: PruneResult, original: Model, threads: int
) -> tuple[list[OperatorTime], list[OperatorTime]] | None:
    """What each operator takes before and after; None where onnxruntime does not run the models by itself, and for
    models so large that copies are dear."""
    from tgonnx.errors import ModelError, UnsupportedError
    from tgonnx.pipeline.slowness import operators_of
    from tgonnx.runtime.one_sample import timing_feeds

    if original.original.ByteSize() > LARGE:
        return None
    try:
        feeds = timing_feeds(original.original, result.counted_at, 1, threads)
        return operators_of(original.original, result.model, feeds, threads)
    except (ModelError, UnsupportedError):  # the table has no times then, either
        return None


def _lag(
    result: PruneResult, before: Facts, after: Facts, operators: tuple[list[OperatorTime], list[OperatorTime]]
) -> str:
    """Where the time stays if much more of it is left than of the FLOPs; empty otherwise."""
    from tgonnx.pipeline.slowness import lagging

    if result.timed is not None or not before.latency or not after.latency or not before.cost.flops:
        return ""
    return lagging(operators, (after.latency / before.latency, after.cost.flops / before.cost.flops))
