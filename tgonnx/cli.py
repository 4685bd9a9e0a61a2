"""The command `tgonnx`."""

from __future__ import annotations

import functools
import inspect as introspection
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tgonnx.cli_options import (
    COMMON,
    AttentionCut,
    EvidenceData,
    FixedShapes,
    Freeze,
    MinChannels,
    ModelPath,
    Overwrite,
    RoundTo,
    Seed,
    Shapes,
    TargetText,
    Unverified,
    VerifySeconds,
)
from tgonnx.console import Terminal, plain
from tgonnx.ending import EXIT_CODES, finished
from tgonnx.errors import (
    InstallationError,
    TargetError,
    UnsupportedError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    import onnx

    from tgonnx.coupling import Attention, Coupling
    from tgonnx.model import Model
    from tgonnx.proof import Prover
    from tgonnx.verify import Check

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make an ONNX model smaller and faster by deleting channels, attention heads and hidden units.",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; the first parameter is the `Terminal` made from the options of all commands."""

    @functools.wraps(function)
    def run(json: bool, quiet: bool, verbose: int, no_color: bool, **own: Any) -> None:
        function(Terminal(json, quiet, verbose, not no_color), **own)

    keyword = introspection.Parameter.KEYWORD_ONLY
    parameters = list(introspection.signature(function, eval_str=True).parameters.values())[1:]
    parameters += [
        introspection.Parameter(name, keyword, default=0 if name == "verbose" else False, annotation=kind)
        for name, kind in COMMON.items()
    ]
    del run.__wrapped__
    run.__signature__ = introspection.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(epilog="Exit codes: see `tgonnx --help`.")(run)
    return function


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = typer.main.get_command(app)
    return finished(lambda: command.main(given, prog_name="tgonnx", standalone_mode=False), given)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("tgonnx"))
        raise typer.Exit


# --- looking ----------------------------------------------------------------------------------------


@command
def inspect(
    terminal: Terminal,
    model: ModelPath,
    groups: Annotated[bool, typer.Option("--groups", help="List all members of all groups.")] = False,
    why: Annotated[
        str | None,
        typer.Option(
            "--why",
            metavar="'GLOB'",
            help="What keeps the axes of these weights, and how.",
        ),
    ] = None,
    attention: AttentionCut = "heads",
    shape: Shapes = None,
) -> None:
    """Show what a model costs, what can be cut together, and what cannot be cut and why."""
    from tgonnx import report

    coupling = _analyzed(terminal, model, attention, shape)
    costs, original = coupling.cost_model, coupling.model.original
    size = model.stat().st_size
    everything = terminal.verbose > 0
    if why is not None:
        asked = [pin for pin in coupling.pinned if why == pin.value or fnmatchcase(pin.value, why)]
        if not asked:
            raise UsageError(f"--why {why!r} matches no weight with an axis that stays")
        data = [vars(pin) | {"way": [str(step) for step in coupling.why(pin)]} for pin in asked]
        terminal.result({"why": data}, report.why_table(coupling, asked))
        return
    terminal.result(
        report.inspect_json(str(model), original, size, coupling, costs) if terminal.json else {},
        report.overview(str(model), original, size, coupling, costs.cost()),
        report.layer_table(report.layers(costs), everything),
        report.group_table(coupling.groups, groups),
        report.pinned_table(coupling.pinned, everything),
    )


@command
def verify(
    terminal: Terminal,
    a: Annotated[Path, typer.Argument(metavar="A", help="The one model.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other.", show_default=False)],
    data: EvidenceData = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Random inputs at each size.")] = 1,
    rtol: Annotated[
        float, typer.Option("--rtol", min=0, help="Difference allowed, relative to an output's channel.")
    ] = 1e-4,
    seconds: VerifySeconds = 120,
    seed: Seed = 0,
) -> None:
    """Compare what two models promise, and compute at many sizes. Exit code 1: they differ, or nobody can tell."""
    from tgonnx import report
    from tgonnx.loading import read
    from tgonnx.proof import real_feeds
    from tgonnx.verify import verify as compare

    first, second = read(a), read(b)
    feeds = real_feeds(data, first) or None
    with terminal.working("comparing"):
        check = compare(first, second, feeds, samples, seed, rtol, seconds=seconds)
    terminal.result(report.check_json(check), report.check_table(check))
    if not check.ok:
        terminal.complain(
            f"{a} and {b} {'differ: ' if check.reasons else 'are not comparable: '}{check.complaint}"
        )
        raise typer.Exit(VerificationError.exit_code)


@command
def bench(
    terminal: Terminal,
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="One or more .onnx files.", show_default=False)
    ],
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of each model.")] = 50,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Samples in a run, if the model lets choose.")
    ] = 1,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Threads; 0: all.")] = 0,
    seed: Seed = 0,
) -> None:
    """Time models on random inputs, taking turns, so that noise hits all alike."""
    from tgonnx import report
    from tgonnx.bench import latency
    from tgonnx.loading import read
    from tgonnx.runtime import open_session
    from tgonnx.verify import runnable_feeds

    protos = [read(path) for path in models]
    feeds = [runnable_feeds(proto, open_session(proto), seed=seed, batch=batch)[0] for proto in protos]
    with terminal.working("timing"):
        results = latency(protos, feeds, repeats, threads)
    names = [str(path) for path in models]
    data = [{"model": name, **vars(result)} for name, result in zip(names, results, strict=True)]
    terminal.result({"latency_ms": data}, report.latency_table(names, results))


@command
def doctor(terminal: Terminal) -> None:
    """Show versions, which onnxruntime really works, which engine training will use, and how to mend it."""
    from tgonnx import report
    from tgonnx.doctor import diagnose

    diagnosis = diagnose()
    terminal.result({"ok": diagnosis.ok, **vars(diagnosis)}, report.diagnosis_table(diagnosis))
    if not diagnosis.ok:
        terminal.complain(diagnosis.problems[0])
        raise typer.Exit(InstallationError.exit_code)


# --- cutting ----------------------------------------------------------------------------------------


@command
def prune(
    terminal: Terminal,
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
    target: TargetText = "flops=0.5",
    loss: Annotated[
        Literal["auto", "ce", "mse", "l1", "bce", "distill"],
        typer.Option(
            "--loss",
            help="What to learn from; auto: ce with labels, mse with targets, else distill (the original's outputs).",
        ),
    ] = "auto",
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            min=1,
            help="Passes over the data, search and fine-tuning together.",
            show_default="auto",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Samples in a training step.", show_default="auto")
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", min=0, help="Learning rate of the weights.", show_default="auto")
    ] = None,
    gate_lr: Annotated[float, typer.Option("--gate-lr", min=0, help="Learning rate of the gates.")] = 0.02,
    penalty: Annotated[
        str, typer.Option("--lambda", help="Weight of the cost in the objective: auto, or a number.")
    ] = "auto",
    gradient: Annotated[
        Literal["one", "sigmoid", "tanh"], typer.Option("--gradient", help="Shape of a gate's derivative.")
    ] = "one",
    round_to: RoundTo = None,
    min_channels: MinChannels = 1,
    freeze: Freeze = None,
    weights: Annotated[
        Literal["train", "frozen"],
        typer.Option(
            "--weights", help="Train the weights, too, or learn which channels to keep and nothing else."
        ),
    ] = "train",
    seed: Seed = 0,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Threads; 0: all.")] = 0,
    engine: Annotated[
        Literal["auto", "ort-training", "portable"],
        typer.Option("--engine", help="What trains; `tgonnx doctor` explains the choice."),
    ] = "auto",
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option("--device", help="Where it trains; cuda needs onnxruntime-gpu.")
    ] = "cpu",
    attention: AttentionCut = "heads",
    shape: Shapes = None,
    fix_shape: FixedShapes = None,
    verify_seconds: VerifySeconds = 120,
    unverified: Unverified = False,
    overwrite: Overwrite = False,
    report_path: Annotated[
        Path | None, typer.Option("--report", metavar="PATH.json", help="Also write all figures there.")
    ] = None,
) -> None:
    """Learn which channels to delete, delete them, train on, verify, and write the smaller model."""
    from tgonnx import report
    from tgonnx.cost import Target
    from tgonnx.prune import prune as run
    from tgonnx.saving import check_destination, save, save_anyway, save_text

    protected = [model, *([data] if data else [])]
    out = out or model.with_name(f"{model.stem}.pruned.onnx")
    check_destination(out, overwrite, protected)
    if report_path:
        check_destination(report_path, overwrite, [*protected, out])
    weight: float | Literal["auto"] = "auto" if penalty == "auto" else _number("--lambda", penalty)
    wanted = Target.parse(target)
    loaded = _loaded(model, shape, fix_shape)  # once: the file may be another one when training is over
    with terminal.progress(wanted.kind) as listener:
        result = run(
            loaded, data, wanted, loss, epochs, batch, lr, gate_lr, weight, gradient, round_to, min_channels,
            freeze or (), weights, seed, threads or None, engine, device, listener, attention,
            verify_seconds, unverified,
        )  # fmt: skip
    out, misplaced = save_anyway(lambda path: save(result.model, path, overwrite, protected), out)
    with terminal.working("timing"):
        before, after = report.facts(result, loaded.original, threads)
    figures = report.prune_json(str(out), result, before, after)
    if report_path:
        text = json.dumps(plain(figures), indent=2) + "\n"
        _, also = save_anyway(lambda path: save_text(text, path, overwrite, [*protected, out]), report_path)
        misplaced = misplaced or also
    for note in result.notes:
        terminal.note(f"note: {note}")
    table = report.comparison(before, after, result.check, result.metric_name or "metric")
    terminal.result(figures, table, report.counted_text(result.counted_at), f"wrote {out}")
    if misplaced:
        terminal.complain(misplaced)
        raise typer.Exit(UsageError.exit_code)
    if not result.target_met:
        terminal.complain(
            f"target {wanted} not met: {result.achieved:.3f} of the {wanted.kind} is left in {out}"
        )
        raise typer.Exit(TargetError.exit_code)


def _number(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"{option} {text!r} is neither auto nor a number of at least 0")
    return value


@command
def mask(
    terminal: Terminal,
    model: ModelPath,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="MASK.json", help="Where to write the mask.")],
    target: TargetText = "flops=0.5",
    criterion: Annotated[
        Literal["l2", "random"], typer.Option("--criterion", help="How units are ranked.")
    ] = "l2",
    round_to: RoundTo = None,
    min_channels: MinChannels = 1,
    freeze: Freeze = None,
    attention: AttentionCut = "heads",
    shape: Shapes = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Choose units to cut without training, and write the choice to a file."""
    from tgonnx.cost import Target
    from tgonnx.saving import check_destination
    from tgonnx.selection import select

    wanted = Target.parse(target)
    check_destination(out, overwrite, protect=[model])
    coupling = _prunable(terminal, model, attention, shape)
    chosen = select(coupling, wanted, criterion, seed, round_to, min_channels, freeze or [])
    chosen.save(out, overwrite, [model])
    costs = coupling.cost_model
    _finish(terminal, out, costs.cost(), costs.cost(chosen.open))


@command
def gate(
    terminal: Terminal,
    model: ModelPath,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where to write the gated model.")],
    mask_path: Annotated[
        Path | None,
        typer.Option("--mask", metavar="MASK.json", help="Gates to close; without, all are open."),
    ] = None,
    data: EvidenceData = None,
    shape: Shapes = None,
    verify_seconds: VerifySeconds = 120,
    unverified: Unverified = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the model with gates in it: the same size, computing what the pruned model computes."""
    from tgonnx.passes.insert_gates import gate as gate_model
    from tgonnx.passes.remove_channels import apply as cut
    from tgonnx.proof import Prover, real_feeds
    from tgonnx.saving import check_destination, save
    from tgonnx.selection import Mask

    inputs = [path for path in (model, mask_path, data) if path]
    check_destination(out, overwrite, inputs)
    given = Mask.load(mask_path) if mask_path else None
    coupling = _prunable(terminal, model, given.attention if given else "heads", shape)
    chosen = given or Mask.all_open(coupling)
    gated = gate_model(coupling, chosen)
    prover = Prover(coupling, real_feeds(data, coupling.model.original), verify_seconds, unverified)
    with terminal.working("verifying"):
        check = prover.both(chosen, gated, cut(coupling, chosen))
    told = _settled(terminal, prover, check, gated)
    save(gated, out, overwrite, inputs)
    terminal.result({"out": str(out), **told}, f"wrote {out}")


@command
def apply(
    terminal: Terminal,
    model: ModelPath,
    mask_path: Annotated[Path, typer.Option("--mask", metavar="MASK.json", help="What to cut.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where to write the pruned model.")],
    data: EvidenceData = None,
    shape: Shapes = None,
    fix_shape: FixedShapes = None,
    verify_seconds: VerifySeconds = 120,
    unverified: Unverified = False,
    overwrite: Overwrite = False,
) -> None:
    """Cut what a mask closes. The result is verified before it is written."""
    from tgonnx.passes.insert_gates import gate as gate_model
    from tgonnx.passes.remove_channels import apply as cut
    from tgonnx.proof import Prover, real_feeds
    from tgonnx.saving import check_destination, save
    from tgonnx.selection import Mask

    inputs = [path for path in (model, mask_path, data) if path]
    check_destination(out, overwrite, inputs)
    chosen = Mask.load(mask_path)
    coupling = _prunable(terminal, model, chosen.attention, shape, fix_shape)
    pruned = cut(coupling, chosen)
    prover = Prover(coupling, real_feeds(data, coupling.model.original), verify_seconds, unverified)
    with terminal.working("verifying"):
        check = prover.both(chosen, gate_model(coupling, chosen), pruned)
    told = _settled(terminal, prover, check, pruned)
    save(pruned, out, overwrite, inputs)
    costs = coupling.cost_model
    _finish(terminal, out, costs.cost(), costs.cost(chosen.open), told)


def _loaded(path: Path, shapes: list[str] | None, fixed: list[str] | None = None) -> Model:
    """The model in a file, counted at `shapes`, and of no other shapes than `fixed`."""
    from tgonnx.input_shapes import fix_shapes, parse_shapes
    from tgonnx.loading import read
    from tgonnx.model import load

    sizes, only = parse_shapes(shapes or ()), parse_shapes(fixed or (), "--fix-shape")
    if not only:
        return load(path, sizes)
    return replace(load(fix_shapes(read(path), only), sizes), source=str(path))


def _analyzed(
    terminal: Terminal,
    path: Path,
    attention: Attention,
    shapes: list[str] | None,
    fixed: list[str] | None = None,
) -> Coupling:
    from tgonnx.coupling import analyze

    with terminal.working(f"reading {path}"):
        return analyze(_loaded(path, shapes, fixed), attention)


def _prunable(
    terminal: Terminal,
    path: Path,
    attention: Attention,
    shapes: list[str] | None,
    fixed: list[str] | None = None,
) -> Coupling:
    coupling = _analyzed(terminal, path, attention, shapes, fixed)
    if not coupling.units:
        why = "no layer has channels that could go"
        if coupling.pinned:
            pin = coupling.pinned[0]
            why = (
                f"{pin.value}[{pin.axis}] is kept by {pin.node or 'the model'} ({pin.op_type}): {pin.reason}"
            )
        raise UnsupportedError(f"{path}: nothing can be pruned: {why}")
    return coupling


def _settled(terminal: Terminal, prover: Prover, check: Check, result: onnx.ModelProto) -> dict[str, Any]:
    """Tell of a check before its `result` is written; the check as JSON. Raises `VerificationError` if it is not ok."""
    from tgonnx import report

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
