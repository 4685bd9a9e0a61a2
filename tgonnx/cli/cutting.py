"""Commands that cut models: prune, mask, gate, apply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tgonnx.cli.announcing import Announcing
from tgonnx.cli.common import CUT, command, prunable
from tgonnx.cli.common import loaded as read_model
from tgonnx.cli.fields import Only
from tgonnx.cli.options import (
    AttentionCut,
    EvidenceData,
    FixedShapes,
    ModelPath,
    Overwrite,
    SampleData,
    Shapes,
    TargetText,
)
from tgonnx.cli.preprocessing import Preprocessing
from tgonnx.cli.recipe_file import Given, RecipeFile
from tgonnx.cli.terminal import Terminal, plain
from tgonnx.errors import TargetError, UsageError
from tgonnx.options import ATTENTIONS, CRITERION, TARGET, attention_of
from tgonnx.selection.bounds import Bounds
from tgonnx.training.recipe import Recipe, Run

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    import onnx

    from tgonnx.analysis.coupling import Coupling
    from tgonnx.proof import Prover
    from tgonnx.runtime.equivalence import Check

VERIFIED = Only("verify_seconds", "unverified")


@command(
    CUT,
    "tgonnx prune model.onnx --data data.npz --target flops=0.5",
    "tgonnx prune model.onnx --data pictures/ --mean imagenet --std imagenet -o small.onnx",
    "tgonnx prune --recipe tgonnx.toml",
    "tgonnx prune --resume runs/model-1",
)
def prune(
    terminal: Terminal,
    *,
    given: Given,
    model: ModelPath,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "-d",
            help="An .npz file with arrays named like the model's inputs, plus `label` or `target`; "
            "or a folder with one folder of images for each class. Without: units are ranked by their weights.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write.", show_default="MODEL.pruned.onnx"),
    ] = None,
    preprocessing: Preprocessing,
    target: TargetText = TARGET,
    recipe_file: RecipeFile = None,
    recipe: Recipe,
    bounds: Bounds,
    run: Run,
    no_run_dir: Annotated[bool, typer.Option("--no-run-dir", help="Keep nothing of the training.")] = False,
    attention: AttentionCut = ATTENTIONS[0],
    shape: Shapes = None,
    fix_shape: FixedShapes = None,
    overwrite: Overwrite = False,
    report_path: Annotated[
        Path | None, typer.Option("--report", metavar="PATH.json", help="Also write all figures there.")
    ] = None,
) -> None:
    """Learn which channels to delete, delete them, train on, verify, and write the smaller model."""
    from tgonnx.analysis.cost import Target
    from tgonnx.io.save import check_destination, model_destination, save, save_anyway, save_text
    from tgonnx.pipeline import prune as prune_model
    from tgonnx.report import tables as report

    protected = [model, *([data] if data else []), *([Path(run.test)] if run.test else [])]
    out = out or model.with_name(f"{model.stem}.pruned.onnx")
    model_destination(out, overwrite, protected)
    if report_path:
        check_destination(report_path, overwrite, [*protected, out])
    wanted = Target.parse(target)
    if data and not (no_run_dir or run.run_dir or run.resume):
        run = replace(run, run_dir="auto")
    if run.test:
        if not data:
            raise UsageError("--test measures what is learned from --data, which is not given")
        run = replace(run, test=preprocessing.source(run.test))
    loaded = read_model(model, shape, fix_shape)  # once: the file may be another one when training is over
    with terminal.progress(wanted.kind) as listener:
        result = prune_model(
            loaded,
            preprocessing.source(data) if data else None,
            wanted,
            recipe=recipe,
            bounds=bounds,
            run=run,
            progress=Announcing(terminal, listener, given.keep),
            attention=attention_of(attention),
        )
    out, misplaced = save_anyway(lambda path: save(result.model, path, overwrite, protected), out)
    with terminal.working("timing"):
        before, after = report.facts(result, loaded.original, run.threads)
    figures = report.prune_json(str(out), result, before, after)
    if report_path:
        text = json.dumps(plain(figures), indent=2) + "\n"
        _, also = save_anyway(lambda path: save_text(text, path, overwrite, [*protected, out]), report_path)
        misplaced = misplaced or also
    for note in result.notes:
        terminal.note(f"note: {note}")
    table = report.comparison(before, after, result.check, result.metric_label)
    terminal.result(figures, table, report.counted_text(result.counted_at), f"wrote {out}")
    if misplaced:
        terminal.complain(misplaced)
        raise typer.Exit(UsageError.exit_code)
    if not result.target_met:
        terminal.complain(
            f"target {wanted} not met: {result.achieved:.3f} of the {wanted.kind} is left in {out}"
        )
        raise typer.Exit(TargetError.exit_code)


@command(CUT, "tgonnx mask model.onnx -o mask.json --target params=0.5")
def mask(
    terminal: Terminal,
    *,
    model: ModelPath,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="MASK.json", help="Where to write the mask.")],
    target: TargetText = TARGET,
    criterion: Annotated[
        str,
        typer.Option(
            "--criterion",
            metavar="[l1|l2|lamp|fpgm|obs|zero|random]",
            help="How units are ranked; obs looks at --data.",
        ),
    ] = CRITERION,
    allocation: Annotated[
        str,
        typer.Option(
            "--allocation",
            metavar="[auto|uniform|global]",
            help="The same fraction of every group, or the lowest scores of all.",
        ),
    ] = "auto",
    data: SampleData = None,
    preprocessing: Preprocessing,
    bounds: Bounds,
    attention: AttentionCut = ATTENTIONS[0],
    shape: Shapes = None,
    run: Annotated[Run, Only("seed")],
    overwrite: Overwrite = False,
) -> None:
    """Choose units to cut without training, and write the choice to a file."""
    from tgonnx.analysis.cost import Target
    from tgonnx.api import select
    from tgonnx.io.save import check_destination

    wanted = Target.parse(target)
    inputs = [path for path in (model, data) if path]
    check_destination(out, overwrite, protect=inputs)
    coupling = prunable(terminal, model, attention, shape)
    source = preprocessing.source(data) if data else None
    chosen = select(coupling, wanted, criterion, run.seed, data=source, allocation=allocation, bounds=bounds)
    chosen.save(out, overwrite, inputs)
    costs = coupling.cost_model
    _finish(terminal, out, costs.cost(), costs.cost(chosen.open))


@command(CUT, "tgonnx gate model.onnx --mask mask.json -o gated.onnx")
def gate(
    terminal: Terminal,
    *,
    model: ModelPath,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where to write the gated model.")],
    mask_path: Annotated[
        Path | None,
        typer.Option("--mask", metavar="MASK.json", help="Gates to close; without, all are open."),
    ] = None,
    data: EvidenceData = None,
    preprocessing: Preprocessing,
    shape: Shapes = None,
    run: Annotated[Run, VERIFIED],
    overwrite: Overwrite = False,
) -> None:
    """Write the model with gates in it: the same size, computing what the pruned model computes."""
    from tgonnx.io.save import model_destination, save
    from tgonnx.passes.insert_gates import gate as gate_model
    from tgonnx.passes.remove_channels import apply as cut
    from tgonnx.selection.mask import Mask

    inputs = [path for path in (model, mask_path, data) if path]
    model_destination(out, overwrite, inputs)
    given = Mask.load(mask_path) if mask_path else None
    coupling = prunable(terminal, model, given.attention if given else "heads", shape)
    chosen = given or Mask.all_open(coupling)
    gated = gate_model(coupling, chosen)
    prover = _prover(coupling, data, preprocessing, run)
    with terminal.working("verifying"):
        check = prover.both(chosen, gated, cut(coupling, chosen))
    told = _settled(terminal, prover, check, gated)
    save(gated, out, overwrite, inputs)
    terminal.result({"out": str(out), **told}, f"wrote {out}")


@command(CUT, "tgonnx apply model.onnx --mask mask.json -o small.onnx")
def apply(
    terminal: Terminal,
    *,
    model: ModelPath,
    mask_path: Annotated[Path, typer.Option("--mask", metavar="MASK.json", help="What to cut.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where to write the pruned model.")],
    data: EvidenceData = None,
    preprocessing: Preprocessing,
    shape: Shapes = None,
    fix_shape: FixedShapes = None,
    run: Annotated[Run, VERIFIED],
    overwrite: Overwrite = False,
) -> None:
    """Cut what a mask closes. The result is verified before it is written."""
    from tgonnx.io.save import model_destination, save
    from tgonnx.passes.insert_gates import gate as gate_model
    from tgonnx.passes.remove_channels import apply as cut
    from tgonnx.selection.mask import Mask

    inputs = [path for path in (model, mask_path, data) if path]
    model_destination(out, overwrite, inputs)
    chosen = Mask.load(mask_path)
    coupling = prunable(terminal, model, chosen.attention, shape, fix_shape)
    pruned = cut(coupling, chosen)
    prover = _prover(coupling, data, preprocessing, run)
    with terminal.working("verifying"):
        check = prover.both(chosen, gate_model(coupling, chosen), pruned)
    told = _settled(terminal, prover, check, pruned)
    save(pruned, out, overwrite, inputs)
    costs = coupling.cost_model
    _finish(terminal, out, costs.cost(), costs.cost(chosen.open), told)


def _prover(coupling: Coupling, data: Path | None, preprocessing: Preprocessing, run: Run) -> Prover:
    """What verifies on the user's data, if there is some."""
    from tgonnx.proof import Prover, real_feeds

    feeds = real_feeds(preprocessing.source(data) if data else None, coupling.model.original)
    return Prover(coupling, feeds, run.verify_seconds, run.unverified)


def _settled(terminal: Terminal, prover: Prover, check: Check, result: onnx.ModelProto) -> dict[str, Any]:
    """Tell of a check before its `result` is written; the check as JSON. Raises `VerificationError` if it is not ok."""
    from tgonnx.report import tables as report

    if doubt := prover.settle(check, result):
        terminal.note(f"note: {doubt}")
    elif check.up_to:
        terminal.note(f"note: verified up to the inputs of {', '.join(check.up_to)}, which nothing here runs")
    terminal.note(f"verification: {check.max_rel:.1e} relative difference, {check.ran_by}", level=1)
    for size in check.skipped:
        terminal.note(f"not tried: {size}", level=1)
    return {"verification": report.check_json(check)}


def _finish(
    terminal: Terminal, out: Path, before: Any, after: Any, told: Mapping[str, Any] | None = None
) -> None:
    left = {
        name: getattr(after, name) / max(getattr(before, name), 1) for name in ("flops", "params", "channels")
    }
    parts = ", ".join(f"{value:.1%} of {name}" for name, value in left.items())
    data = {"out": str(out), "before": vars(before), "after": vars(after), "left": left, **(told or {})}
    terminal.result(data, f"wrote {out}: {parts} left")
