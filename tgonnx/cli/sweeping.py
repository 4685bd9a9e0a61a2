"""`prune --sweep`: several models from one search, each in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tgonnx.cli.options import Results
from tgonnx.cli.terminal import Terminal
from tgonnx.errors import OptionError, TargetError, UsageError
from tgonnx.options import TARGET

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    import onnx

    from tgonnx.analysis.target import Target
    from tgonnx.pipeline import PruneResult


def targets_of(text: str, target: str) -> list[Target]:
    """The targets of `flops=0.7,0.5,0.3`. Raises OptionError."""
    from tgonnx.analysis.target import Target

    if target != TARGET:
        raise OptionError("sweep", "has targets of its own: leave --target out")
    kind, equals, values = text.partition("=")
    if not equals:
        raise OptionError(
            "sweep", f"{text!r} is not a kind and shares of it; write for example flops=0.7,0.5,0.3"
        )
    return [Target.parse(f"{kind}={value}") for value in values.split(",")]


def sweep(
    terminal: Terminal,
    make: Callable[[list[Target]], Sequence[PruneResult]],
    targets: list[Target],
    results: Results,
    model: Path,
    protected: list[Path],
    original: onnx.ModelProto,
) -> None:
    """Make the models and write MODEL.flops70.onnx and so on, with a table of all."""
    from tgonnx.drawing.files import report_destination
    from tgonnx.io.endings import ONNX, ORT, is_ort
    from tgonnx.io.save import model_destination, save_anyway
    from tgonnx.pipeline.sweeping import name_of
    from tgonnx.report import tables as report
    from tgonnx.report.pages import save_figures, story_with

    base = results.out or model
    ending = ORT if is_ort(base) else ONNX
    outs = [base.with_name(f"{base.stem}.{name_of(target)}{ending}") for target in targets]
    for out in outs:
        model_destination(out, results.overwrite, protected)
    if results.report_path:
        report_destination(results.report_path, results.overwrite, [*protected, *outs])
    found = make(targets)
    placed, troubles = [], []
    for result, wanted in zip(found, outs, strict=True):
        out, trouble = save_anyway(_writing(result.model, results.overwrite, protected), wanted)
        placed.append(str(out))
        troubles += [trouble] if trouble else []
    rows, stories = [], []
    with terminal.working("timing"):
        for out_name, result in zip(placed, found, strict=True):
            facts = report.facts(result, original)
            rows.append(report.prune_json(out_name, result, *facts))
            stories.append(story_with(out_name, result, *facts))
    if results.report_path:
        save_figures({"sweep": rows}, stories, results.report_path, results.overwrite, [*protected, *outs])
    for note in dict.fromkeys(note for result in found for note in result.notes):
        terminal.note(f"note: {note}")
    terminal.result({"sweep": rows}, report.sweep_table(placed, found))
    for trouble in troubles:
        terminal.complain(trouble)
    if troubles:
        raise typer.Exit(UsageError.exit_code)
    missed = [str(result.target) for result in found if not result.target_met]
    if missed:
        terminal.complain(f"target {', '.join(missed)} not met; the best was written")
        raise typer.Exit(TargetError.exit_code)


def _writing(model: onnx.ModelProto, overwrite: bool, protected: list[Path]) -> Callable[[Path], None]:
    from tgonnx.runtime.ort_format import save_model

    return lambda path: save_model(model, path, overwrite, protected)
