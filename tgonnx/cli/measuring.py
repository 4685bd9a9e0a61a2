"""Commands that measure models side by side: eval, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tgonnx.cli.common import LOOK, command
from tgonnx.cli.fields import Only
from tgonnx.cli.options import READING
from tgonnx.cli.terminal import Terminal
from tgonnx.data.options import DataOptions
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
    run: Annotated[Run, Only("threads", "seed")],
) -> None:
    """Time models on random inputs, taking turns, so that noise hits all alike."""
    from tgonnx.loading import read
    from tgonnx.report import tables as report
    from tgonnx.runtime.equivalence import runnable_feeds
    from tgonnx.runtime.latency import latency
    from tgonnx.runtime.sessions import open_session

    protos = [read(path) for path in models]
    feeds = [
        runnable_feeds(proto, open_session(proto), seed=run.seed, batch=how.batch)[0] for proto in protos
    ]
    with terminal.working("timing"):
        results = latency(protos, feeds, how.repeats, run.threads)
    names = [str(path) for path in models]
    data = [{"model": name, **vars(result)} for name, result in zip(names, results, strict=True)]
    terminal.result({"latency_ms": data}, report.latency_table(names, results))
