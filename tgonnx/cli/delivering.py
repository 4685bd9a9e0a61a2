"""What training made, written and shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tgonnx.cli.terminal import Terminal, plain
from tgonnx.errors import TargetError, UsageError

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    from rich.console import RenderableType

    from tgonnx.analysis.model import Model
    from tgonnx.pipeline import PruneResult


@dataclass(frozen=True)
class Places:
    """Where a model and its figures go; none of the `inputs` may be overwritten."""

    out: Path
    report: Path | None
    overwrite: bool
    inputs: Sequence[Path]

    def check(self) -> None:
        """Raise UsageError, before anything is trained, if they cannot be written."""
        from tgonnx.io.save import check_destination, model_destination

        model_destination(self.out, self.overwrite, self.inputs)
        if self.report:
            check_destination(self.report, self.overwrite, [*self.inputs, self.out])


def deliver(terminal: Terminal, result: PruneResult, original: Model, places: Places, threads: int) -> None:
    """Write a result, and its figures if they are asked for; show them. Exits with what went wrong."""
    from tgonnx.io.save import save_anyway, save_text
    from tgonnx.report import tables as report
    from tgonnx.report.bars import kept_bars, kept_of
    from tgonnx.runtime.ort_format import save_model

    overwrite, inputs = places.overwrite, places.inputs
    out, misplaced = save_anyway(lambda path: save_model(result.model, path, overwrite, inputs), places.out)
    with terminal.working("timing"):
        before, after = report.facts(result, original.original, threads)
    figures = report.prune_json(str(out), result, before, after)
    if places.report:
        text = json.dumps(plain(figures), indent=2) + "\n"
        _, also = save_anyway(lambda path: save_text(text, path, overwrite, [*inputs, out]), places.report)
        misplaced = misplaced or also
    for note in result.notes:
        if note.code != "data":  # said before training
            terminal.note(f"note: {note}")
    table = report.comparison(before, after, result.check, result.metric_label)
    kept, counted = kept_of(result.mask), report.counted_text(result.counted_at)
    shown: list[RenderableType] = [table, *([counted] if counted else [])]
    if not result.mask.open.all():
        shown.append(kept_bars(kept, terminal.verbose > 0))
    terminal.result(figures | {"kept": kept}, *shown, f"wrote {out}")
    if misplaced:
        terminal.complain(misplaced)
        raise typer.Exit(UsageError.exit_code)
    if not result.target_met:
        kind = result.target.kind
        terminal.complain(
            f"target {result.target} not met: {result.achieved:.3f} of the {kind} is left in {out}"
        )
        raise typer.Exit(TargetError.exit_code)
