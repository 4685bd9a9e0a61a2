"""The command `tgonnx`."""

from __future__ import annotations

import functools
import inspect as introspection
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tgonnx.console import Terminal, plain
from tgonnx.errors import (
    InstallationError,
    ModelError,
    TargetError,
    TgonnxError,
    UnsupportedError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    import onnx

    from tgonnx.coupling import Attention, Coupling
    from tgonnx.selection import Mask

_EPILOG = (
    "Exit codes: 0 done, 1 internal error or verification failed, 2 usage or paths, 3 model rejected, "
    "4 nothing prunable or unsupported, 5 data, 6 training diverged, 7 target not met, 8 environment, "
    "130 interrupted."
)
_INTERRUPTED = 130
app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make an ONNX model smaller and faster by deleting channels, attention heads and hidden units.",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
# click's UsageError; typer carries a copy of click in some versions and depends on it in others.
_UsageFault: type[Any] = typer.BadParameter.__bases__[0]

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file.", show_default=False)]
TargetText = Annotated[
    str, typer.Option("--target", help="What may stay: flops=0.5, params=0.5 or channels=0.5.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")]
RoundTo = Annotated[
    int | None,
    typer.Option(
        "--round-to",
        min=1,
        help="Keep multiples of this many units; auto: up to 8 where the target allows it, which runtimes like.",
        show_default="auto",
    ),
]
MinChannels = Annotated[int, typer.Option("--min-channels", min=1, help="Keep at least this many units.")]
Freeze = Annotated[
    list[str] | None,
    typer.Option(
        "--freeze", metavar="GLOB", help="Never cut what a node or value of this name takes part in."
    ),
]

AttentionCut = Annotated[
    Literal["heads", "head-dim"],
    typer.Option("--attention", help="What of attention is cut: whole heads, or the width of all heads."),
]

_COMMON = {
    "json": Annotated[bool, typer.Option("--json", help="Print the result as JSON.")],
    "quiet": Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only (and JSON if asked for).")
    ],
    "verbose": Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv with tracebacks.")
    ],
    "no_color": Annotated[bool, typer.Option("--no-color", help="No colours.")],
}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; the first parameter is the `Terminal` made from the options of all commands."""

    @functools.wraps(function)
    def run(json: bool, quiet: bool, verbose: int, no_color: bool, **own: Any) -> None:
        function(Terminal(json, quiet, verbose, not no_color), **own)

    keyword = introspection.Parameter.KEYWORD_ONLY
    parameters = list(introspection.signature(function, eval_str=True).parameters.values())[1:]
    parameters += [
        introspection.Parameter(name, keyword, default=0 if name == "verbose" else False, annotation=kind)
        for name, kind in _COMMON.items()
    ]
    del run.__wrapped__
    run.__signature__ = introspection.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(epilog="Exit codes: see `tgonnx --help`.")(run)
    return function


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    terminal = Terminal(json="--json" in given)
    traced = "-vv" in given or given.count("-v") + given.count("--verbose") > 1
    try:
        result = typer.main.get_command(app).main(given, prog_name="tgonnx", standalone_mode=False)
        if result != _INTERRUPTED:
            return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        pass
    except Exception as error:
        if traced:
            traceback.print_exc()
        return _report_failure(terminal, error)
    terminal.error("interrupted", "Interrupted", _INTERRUPTED)
    return _INTERRUPTED


def _report_failure(terminal: Terminal, error: Exception) -> int:
    if isinstance(error, TgonnxError):
        code, message = error.exit_code, str(error)
    elif isinstance(error, _UsageFault):
        code, message = UsageError.exit_code, error.format_message()
    elif isinstance(error, ImportError):
        code = InstallationError.exit_code
        message = f"a package is missing or broken: {error}; `tgonnx doctor` may tell how to mend it"
    else:
        code, message = 1, f"internal error: {type(error).__name__}: {error} (-vv shows where)"
    terminal.error(message, type(error).__name__, code)
    return code


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
) -> None:
    """Show what a model costs, what can be cut together, and what cannot be cut and why."""
    from tgonnx import report

    coupling = _analyzed(terminal, model, attention)
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
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many random inputs.")] = 2,
    rtol: Annotated[float, typer.Option("--rtol", min=0, help="Relative difference allowed.")] = 1e-4,
    seed: Seed = 0,
) -> None:
    """Compare what two models promise, and compute on random inputs. Exit code 1: they differ."""
    from tgonnx import report
    from tgonnx.loading import read
    from tgonnx.verify import verify as compare

    with terminal.working("comparing"):
        check = compare(read(a), read(b), samples=samples, rtol=rtol, seed=seed)
    terminal.result(report.check_json(check), report.check_table(check))
    if not check.ok:
        terminal.complain(f"{a} and {b} differ: {check.reasons[0]}")
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
    overwrite: Overwrite = False,
    report_path: Annotated[
        Path | None, typer.Option("--report", metavar="PATH.json", help="Also write all figures there.")
    ] = None,
) -> None:
    """Learn which channels to delete, delete them, train on, verify, and write the smaller model."""
    from tgonnx import report
    from tgonnx.cost import Target
    from tgonnx.prune import prune as run
    from tgonnx.saving import check_destination, save, save_text

    protected = [model, *([data] if data else [])]
    out = out or model.with_name(f"{model.stem}.pruned.onnx")
    check_destination(out, overwrite, protected)
    if report_path:
        check_destination(report_path, overwrite, [*protected, out])
    weight: float | Literal["auto"] = "auto" if penalty == "auto" else _number("--lambda", penalty)
    wanted = Target.parse(target)
    with terminal.progress(wanted.kind) as listener:
        result = run(
            model, data, wanted, loss, epochs, batch, lr, gate_lr, weight, gradient, round_to, min_channels,
            freeze or (), weights, seed, threads or None, engine, device, listener, attention,
        )  # fmt: skip
    with terminal.working("timing"):
        before, after = report.facts(result, model, threads)
    save(result.model, out, overwrite, protected)
    figures = report.prune_json(str(out), result, before, after)
    if report_path:
        save_text(json.dumps(plain(figures), indent=2) + "\n", report_path, overwrite, protected)
    for note in result.notes:
        terminal.note(f"note: {note}")
    table = report.comparison(before, after, result.check, result.metric_name or "metric")
    terminal.result(figures, table, f"wrote {out}")
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
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Choose units to cut without training, and write the choice to a file."""
    from tgonnx.cost import Target
    from tgonnx.saving import check_destination
    from tgonnx.selection import select

    wanted = Target.parse(target)
    check_destination(out, overwrite, protect=[model])
    coupling = _prunable(terminal, model, attention)
    chosen = select(coupling, wanted, criterion, seed, round_to, min_channels, freeze or [])
    chosen.save(out)
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
    overwrite: Overwrite = False,
) -> None:
    """Write the model with gates in it: the same size, computing what the pruned model computes."""
    from tgonnx.passes.insert_gates import gate as gate_model
    from tgonnx.saving import check_destination, save
    from tgonnx.selection import Mask

    inputs = [model] + ([mask_path] if mask_path else [])
    check_destination(out, overwrite, inputs)
    given = Mask.load(mask_path) if mask_path else None
    coupling = _prunable(terminal, model, given.attention if given else "heads")
    chosen = given or Mask.all_open(coupling)
    save(gate_model(coupling, chosen), out, overwrite, inputs)
    terminal.result({"out": str(out)}, f"wrote {out}")


@command
def apply(
    terminal: Terminal,
    model: ModelPath,
    mask_path: Annotated[Path, typer.Option("--mask", metavar="MASK.json", help="What to cut.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where to write the pruned model.")],
    overwrite: Overwrite = False,
) -> None:
    """Cut what a mask closes. The result is verified against the gated model before it is written."""
    from tgonnx.passes.remove_channels import apply as cut
    from tgonnx.saving import check_destination, save
    from tgonnx.selection import Mask

    check_destination(out, overwrite, [model, mask_path])
    chosen = Mask.load(mask_path)
    coupling = _prunable(terminal, model, chosen.attention)
    pruned = cut(coupling, chosen)
    _verified(terminal, coupling, chosen, pruned)
    save(pruned, out, overwrite, [model, mask_path])
    costs = coupling.cost_model
    _finish(terminal, out, costs.cost(), costs.cost(chosen.open))


def _analyzed(terminal: Terminal, path: Path, attention: Attention) -> Coupling:
    from tgonnx.coupling import analyze
    from tgonnx.model import load

    with terminal.working(f"reading {path}"):
        return analyze(load(path), attention)


def _prunable(terminal: Terminal, path: Path, attention: Attention) -> Coupling:
    coupling = _analyzed(terminal, path, attention)
    if not coupling.units:
        why = "no layer has channels that could go"
        if coupling.pinned:
            pin = coupling.pinned[0]
            why = (
                f"{pin.value}[{pin.axis}] is kept by {pin.node or 'the model'} ({pin.op_type}): {pin.reason}"
            )
        raise UnsupportedError(f"{path}: nothing can be pruned: {why}")
    return coupling


def _verified(terminal: Terminal, coupling: Coupling, chosen: Mask, pruned: onnx.ModelProto) -> None:
    """Raise `VerificationError` unless the pruned model computes what the gated one does."""
    from tgonnx.passes.insert_gates import gate as gate_model
    from tgonnx.verify import verify as compare

    try:
        with terminal.working("verifying"):
            check = compare(gate_model(coupling, chosen), pruned)
    except (ModelError, UnsupportedError) as error:  # custom operators, for one
        terminal.note(f"not verified: {error}")
        return
    if not check.ok:
        raise VerificationError(f"pruned and gated model differ, nothing was written: {check.reasons[0]}")
    terminal.note(f"verified: {check.max_rel:.1e} relative difference, {check.ran_by}", level=1)


def _finish(terminal: Terminal, out: Path, before: Any, after: Any) -> None:
    left = {
        name: getattr(after, name) / max(getattr(before, name), 1) for name in ("flops", "params", "channels")
    }
    parts = ", ".join(f"{value:.1%} of {name}" for name, value in left.items())
    data = {"out": str(out), "before": vars(before), "after": vars(after), "left": left}
    terminal.result(data, f"wrote {out}: {parts} left")
