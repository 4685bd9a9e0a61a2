"""Commands that cut models: prune, mask, gate, apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tgonnx.cli.announcing import Announcing
from tgonnx.cli.common import CUT, command, prunable
from tgonnx.cli.common import loaded as read_model
from tgonnx.cli.delivering import Places, deliver
from tgonnx.cli.fields import Only
from tgonnx.cli.options import (
    Evidence,
    MaskFile,
    Overwrite,
    Results,
    Samples,
    Subject,
    TargetText,
    TrainingData,
    Wanted,
    inputs_of,
)
from tgonnx.cli.sweeping import sweep as write_sweep
from tgonnx.cli.sweeping import targets_of
from tgonnx.cli.terminal import Terminal
from tgonnx.errors import OptionError
from tgonnx.options import TARGET, attention_of
from tgonnx.selection.bounds import Bounds, Ranking
from tgonnx.training.recipe import Recipe, Run

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    import onnx

    from tgonnx.analysis.cost import Target
    from tgonnx.analysis.coupling import Coupling
    from tgonnx.proof import Prover
    from tgonnx.runtime.equivalence import Check
    from tgonnx.selection.mask import Mask

VERIFIED = Only("verify_seconds", "unverified")


@command(
    CUT,
    "tgonnx prune model.onnx --data data.npz --target flops=0.5",
    "tgonnx prune model.onnx --data pictures/ --mean imagenet --std imagenet -o small.onnx",
    "tgonnx prune model.onnx --data data.npz --mask mask.json",
    "tgonnx prune supernet.onnx --data data.npz --choose 'mixed_*=1' --from-scratch",
    "tgonnx prune --recipe tgonnx.toml",
    "tgonnx prune --resume runs/model-1",
)
def prune(
    terminal: Terminal,
    *,
    data: TrainingData,
    results: Results,
    wanted: Wanted,
    recipe: Recipe,
    bounds: Bounds,
    run: Run,
    subject: Subject,
) -> None:
    """Learn which channels to delete, delete them, train on, verify, and write the smaller model."""
    from tgonnx.pipeline import prune as prune_model
    from tgonnx.pipeline import sweep as sweep_model

    model, target = subject.model, wanted.target
    inputs = inputs_of(model, data.data, run, recipe)
    out = results.out or model.with_name(f"{model.stem}.pruned.onnx")
    places = Places(out, results.report_path, results.overwrite, inputs)
    targets = targets_of(results.sweep, target) if results.sweep else []
    if not targets:
        places.check()
    if recipe.mask and target != TARGET:
        raise OptionError("mask", "says what stays: leave --target out")
    goal = goal_of(target, unsaid=bool(recipe.mask or bounds.nm))
    run = results.kept(run, data)
    loaded = read_model(subject)  # once: the file may be another one when training is over

    def trained(make: Callable[..., Any], goal: Any, kind: str) -> Any:
        with terminal.progress(kind) as listener:
            return make(
                loaded,
                data.source(),
                goal,
                recipe=recipe,
                bounds=bounds,
                run=run,
                progress=Announcing(terminal, listener),
                attention=attention_of(subject.attention),
            )

    if targets:
        write_sweep(
            terminal,
            lambda targets: trained(sweep_model, targets, targets[0].kind),
            targets, results, model, inputs, loaded.original,
        )  # fmt: skip
        return
    result = trained(prune_model, goal, goal.kind if goal else "nonzeros" if bounds.nm else "flops")
    deliver(terminal, result, loaded, places, run.threads)


@command(CUT, "tgonnx mask model.onnx -o mask.json --target params=0.5")
def mask(
    terminal: Terminal,
    *,
    file: MaskFile,
    target: TargetText = TARGET,
    ranking: Ranking,
    data: Samples,
    bounds: Bounds,
    subject: Annotated[Subject, Only("model", "attention", "shape")],
    run: Annotated[Run, Only("seed")],
) -> None:
    """Choose units to cut without training, and write the choice to a file."""
    from tgonnx.api import select
    from tgonnx.io.save import check_destination

    wanted = goal_of(target, unsaid=bool(bounds.nm))
    inputs = [path for path in (subject.model, data.data) if path]
    check_destination(file.out, file.overwrite, protect=inputs)
    attention = bounds.attention_of(attention_of(subject.attention))
    coupling = prunable(terminal, subject, attention, bounds.cuts_branches or bounds.cuts_weights)
    chosen = select(
        coupling,
        wanted,
        ranking.criterion,
        run.seed,
        data=data.source(),
        allocation=ranking.allocation,
        bounds=bounds,
    )
    chosen.save(file.out, file.overwrite, inputs)
    costs = coupling.cost_model
    _finish(terminal, file.out, costs.cost(), chosen.counted(coupling).cost_model.cost(chosen.open))


@command(CUT, "tgonnx gate model.onnx --mask mask.json -o gated.onnx")
def gate(
    terminal: Terminal,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where to write the gated model.")],
    mask_path: Annotated[
        Path | None,
        typer.Option("--mask", metavar="MASK.json", help="Gates to close; without, all are open."),
    ] = None,
    data: Evidence,
    subject: Annotated[Subject, Only("model", "shape")],
    run: Annotated[Run, VERIFIED],
    overwrite: Overwrite = False,
) -> None:
    """Write the model with gates in it: the same size, computing what the pruned model computes."""
    from tgonnx.io.save import model_destination
    from tgonnx.passes.insert_gates import gate as gate_model
    from tgonnx.passes.remove_channels import apply as cut
    from tgonnx.runtime.ort_format import save_model
    from tgonnx.selection.mask import Mask

    inputs = [path for path in (subject.model, mask_path, data.data) if path]
    model_destination(out, overwrite, inputs)
    given = Mask.load(mask_path) if mask_path else None
    attention, blocks = (
        (given.attention, bool(given.branches or given.weights)) if given else ("heads", False)
    )
    coupling = prunable(terminal, subject, attention, blocks)
    chosen = given or Mask.all_open(coupling)
    gated = gate_model(coupling, chosen)
    prover = _prover(coupling, data, run, chosen)
    with terminal.working("verifying"):
        check = prover.both(chosen, gated, cut(coupling, chosen))
    told = _settled(terminal, prover, check, gated)
    save_model(gated, out, overwrite, inputs)
    terminal.result({"out": str(out), **told}, f"wrote {out}")


@command(CUT, "tgonnx apply model.onnx --mask mask.json -o small.onnx")
def apply(
    terminal: Terminal,
    *,
    mask_path: Annotated[Path, typer.Option("--mask", metavar="MASK.json", help="What to cut.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where to write the pruned model.")],
    data: Evidence,
    subject: Annotated[Subject, Only("model", "shape", "fix_shape")],
    run: Annotated[Run, Only("verify_seconds", "unverified", "sparse")],
    overwrite: Overwrite = False,
) -> None:
    """Cut what a mask closes. The result is verified before it is written."""
    from tgonnx.io.save import model_destination
    from tgonnx.passes.insert_gates import gate_sharing
    from tgonnx.passes.remove_channels import apply_sharing
    from tgonnx.runtime.ort_format import save_model
    from tgonnx.selection.mask import Mask
    from tgonnx.training.origin import say_origin

    inputs = [path for path in (subject.model, mask_path, data.data) if path]
    model_destination(out, overwrite, inputs)
    chosen = Mask.load(mask_path)
    coupling = prunable(terminal, subject, chosen.attention, bool(chosen.branches or chosen.weights))
    cut = apply_sharing(coupling, chosen, run.sparse)
    prover = _prover(coupling, data, run, chosen)
    with terminal.working("verifying"):
        check = prover.both(chosen, gate_sharing(coupling, chosen), cut)
    pruned = cut.filled()
    told = _settled(terminal, prover, check, pruned)
    say_origin(pruned, coupling, chosen)
    save_model(pruned, out, overwrite, inputs)
    costs = coupling.cost_model
    _finish(terminal, out, costs.cost(), chosen.counted(coupling).cost_model.cost(chosen.open), told)


def goal_of(target: str, unsaid: bool) -> Target | None:
    """The target; None if it is the default and something else says what stays. Raises OptionError."""
    from tgonnx.analysis.cost import Target

    return None if unsaid and target == TARGET else Target.parse(target)


def _prover(coupling: Coupling, data: Evidence, run: Run, mask: Mask) -> Prover:
    """What verifies what a mask makes, on the user's data, if there is some."""
    from tgonnx.proof import Prover, real_feeds

    source = data.source()
    feeds = [] if source is None else real_feeds(source, coupling.model.original)
    return Prover(coupling, feeds, run.verify_seconds, run.unverified, bool(mask.branches))


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
