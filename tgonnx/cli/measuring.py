"""Commands that measure models: eval, bench, profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tgonnx.cli.common import LOOK, command, prunable
from tgonnx.cli.fields import Only
from tgonnx.cli.options import READING, Overwrite, Subject
from tgonnx.cli.terminal import Terminal
from tgonnx.data.options import DataOptions
from tgonnx.errors import UsageError
from tgonnx.runtime.options import Timing
from tgonnx.training.exam import Exam
from tgonnx.training.recipe import Run

Models = Annotated[
    list[Path], typer.Argument(metavar="MODEL...", help="One or more .onnx files.", show_default=False)
]


@command(LOOK, "tgonnx eval model.onnx small.onnx --data data.npz")
def eval_(
    terminal: Terminal,
    *,
    models: Models,
    data: Annotated[
        Path,
        typer.Option("--data", "-d", help="Samples, in the forms that `prune` takes.", show_default=False),
    ],
    reading: Annotated[DataOptions, READING],
    exam: Exam,
) -> None:
    """Measure models on data: metric, agreement with the first one, size, and latency taken in turns."""
    from tgonnx.data.sources import read
    from tgonnx.pipeline import evaluate
    from tgonnx.report import evaluations as report

    with terminal.working("measuring"):
        found = evaluate(models, read(data, arrays=reading, images=reading), exam=exam)
    terminal.result(report.evaluation_json(found), report.evaluation_table(found), report.measured_on(found))


@command(LOOK, "tgonnx bench model.onnx small.onnx --threads 1")
def bench(
    terminal: Terminal,
    *,
    models: Models,
    how: Timing,
    by_operator: Annotated[
        bool, typer.Option("--by-operator", help="Also how long each type of operators takes.")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Time training steps, of 32 samples if --batch says nothing else.")
    ] = False,
    run: Annotated[Run, Only("threads", "seed", "engine")],
) -> None:
    """Time models on random inputs, taking turns, so that noise hits all alike."""
    from tgonnx.loading import read
    from tgonnx.report import tables as report
    from tgonnx.runtime.equivalence import runnable_feeds
    from tgonnx.runtime.latency import latency
    from tgonnx.runtime.sessions import open_session

    if train:
        _train_steps(terminal, models, how, by_operator, run)
        return
    protos = [read(path) for path in models]
    feeds = [
        runnable_feeds(proto, open_session(proto), seed=run.seed, batch=how.batch)[0] for proto in protos
    ]
    with terminal.working("timing"):
        results = latency(protos, feeds, how.repeats, run.threads)
    names = [str(path) for path in models]
    data = [{"model": name, **vars(result)} for name, result in zip(names, results, strict=True)]
    tables, told = [report.latency_table(names, results)], dict[str, Any](latency_ms=data)
    if by_operator:
        from tgonnx.report.times import operator_json, operator_table
        from tgonnx.runtime.operator_times import operator_times

        with terminal.working("timing operators"):
            times = [operator_times(*pair, run.threads) for pair in zip(protos, feeds, strict=True)]
        tables.append(operator_table(names, times, terminal.verbose > 0))
        told["operators"] = operator_json(names, times)
    terminal.result(told, *tables)


def _train_steps(terminal: Terminal, models: list[Path], how: Timing, by_operator: bool, run: Run) -> None:
    """`bench --train`."""
    from tgonnx.pipeline.step_times import BATCH, step_times
    from tgonnx.report import tables as report

    if by_operator:
        raise UsageError("--by-operator is of a run, and --train of steps: ask for one of them")
    batch = how.batch if how.batch > 1 else BATCH
    with terminal.working("timing training steps"):
        results = step_times(models, batch, how.repeats, run)
    names = [str(path) for path in models]
    data = [{"model": name, **vars(result)} for name, result in zip(names, results, strict=True)]
    terminal.result({"batch": batch, "step_ms": data}, report.step_table(names, results, batch))


@command(LOOK, "tgonnx profile model.onnx -o latency.json --threads 1")
def profile(
    terminal: Terminal,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE.json", help="Where to write the profile.", show_default=False
        ),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            "--script",
            metavar="FOLDER",
            help="Measure on another device: write what has to run there.",
            show_default=False,
        ),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            metavar="FILE.json",
            help="What the script of --script has written there.",
            show_default=False,
        ),
    ] = None,
    how: Annotated[Timing, Only("batch")],
    subject: Annotated[Subject, Only("model", "attention", "shape")],
    run: Annotated[Run, Only("threads", "seed")],
    overwrite: Overwrite = False,
) -> None:
    """Measure what each operator takes, by how many channels are kept: for `--target latency=...`."""
    from tgonnx.analysis import profile_file
    from tgonnx.io.save import check_destination
    from tgonnx.pipeline import elsewhere
    from tgonnx.pipeline.clock import Clock
    from tgonnx.pipeline.profiling import profiled
    from tgonnx.report.times import profile_json, profile_table

    if (script is None) == (out is None):
        raise UsageError("profile writes one thing: a profile (--out) or what measures elsewhere (--script)")
    if answers is not None and out is None:
        raise UsageError("--answers become a profile: say where with --out")
    inputs = [path for path in (subject.model, answers) if path]
    if out is not None:
        check_destination(out, overwrite, inputs)
    coupling = prunable(terminal, subject)
    if script is not None:
        elsewhere.write_script(coupling, script, how.batch, run.seed)
        terminal.result({"script": str(script)}, f"wrote {script}: its README.txt says how to run it")
        return
    with terminal.working("timing the model and cut copies of it"):
        if answers is None:
            found = profiled(coupling, Clock.of(coupling.model, run.threads, how.batch), run.seed)
        else:
            found = elsewhere.from_answers(coupling, answers, run.seed)
    assert out is not None
    profile_file.write(found, out, overwrite, inputs)
    told = {"out": str(out), **profile_json(found, coupling)}
    terminal.result(told, *profile_table(found, coupling, terminal.verbose > 0), f"wrote {out}")
