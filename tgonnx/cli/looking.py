"""Commands that look at models and data: inspect, diff, verify, data, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tgonnx.cli.common import HERE, LOOK, analyzed, command, prunable
from tgonnx.cli.fields import Only
from tgonnx.cli.options import Analysis, Evidence, ModelPath, Overwrite, Previewed, Samples, Subject
from tgonnx.cli.picturing import Pictures
from tgonnx.cli.terminal import Terminal
from tgonnx.errors import (
    InstallationError,
    UsageError,
    VerificationError,
)
from tgonnx.options import means
from tgonnx.runtime.options import Comparing
from tgonnx.training.recipe import Recipe, Run

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    from tgonnx.analysis.coupling import Coupling


@command(LOOK, "tgonnx inspect model.onnx", "tgonnx inspect model.onnx --why 'layer1.*'")
def inspect(
    terminal: Terminal,
    *,
    groups: Annotated[bool, typer.Option("--groups", help="List all members of all groups.")] = False,
    why: Annotated[
        str | None,
        typer.Option(
            "--why",
            metavar="'GLOB'",
            help="What keeps the axes of these weights, and how; why sums have no branch, and elements stay.",
        ),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="How far outputs move if a group loses half; looks at --data."),
    ] = False,
    pictures: Pictures,
    data: Samples,
    subject: Annotated[Subject, Only("model", "attention", "shape")],
) -> None:
    """Show what a model costs, what can be cut together, and what cannot be cut and why."""
    from tgonnx.report import branches, zeros
    from tgonnx.report import tables as report

    pictures.check(subject.model)
    if sensitivity:
        pictures.refuse("--sensitivity")
        _sensitivity(terminal, data, subject)
        return
    model, coupling = subject.model, analyzed(terminal, subject)
    costs, original = coupling.cost_model, coupling.model.original
    size = model.stat().st_size
    everything = terminal.verbose > 0
    written = pictures.of_coupling(coupling, everything)
    if why is not None:
        _why(terminal, coupling, why, written)
        return
    terminal.result(
        report.inspect_json(str(model), original, size, coupling, costs)
        | branches.branch_json(coupling)
        | zeros.weights_json(coupling.model)
        if terminal.json
        else {},
        report.overview(str(model), original, size, coupling, costs.cost()),
        report.layer_table(report.layers(costs), everything),
        report.group_table(coupling.groups, groups),
        *branches.branch_tables(coupling),
        report.pinned_table(coupling.pinned, everything),
        *written,
    )


def _why(terminal: Terminal, coupling: Coupling, why: str, written: list[str]) -> None:
    """Why axes and elements of weights stay, and sums have no branch. Raises UsageError if nothing is called so."""
    from tgonnx.analysis.weights import why_whole
    from tgonnx.report import branches
    from tgonnx.report import tables as report

    def meant(*names: str) -> bool:
        return means(why, *names)

    model = coupling.model
    pins = [pin for pin in coupling.pinned if meant(pin.value)]
    sums = [each for each in model.no_branches if meant(each.name, each.label)]
    whole = {
        name: reason for name in model.initializers if meant(name) and (reason := why_whole(model, name))
    }
    if not pins and not sums and not whole:
        raise UsageError(
            f"--why {why!r} matches no weight with an axis that stays, and no sum without a branch"
        )
    told = {
        "why": [vars(pin) | {"way": [str(step) for step in coupling.why(pin)]} for pin in pins],
        "no_branch": [vars(each) for each in sums],
        "elements": whole,
    }
    tables = [report.why_table(coupling, pins)] if pins else []
    tables += [branches.no_branch_table(sums)] if sums else []
    tables += [branches.whole_table(whole)] if whole else []
    terminal.result(told, *tables, *written)


def _sensitivity(terminal: Terminal, data: Samples, subject: Subject) -> None:
    """What each group costs on the user's samples. Raises UsageError without any."""
    from tgonnx import api
    from tgonnx.report.closing import sensitivity_json, sensitivity_table

    source = data.source()
    if source is None:
        raise UsageError("--sensitivity looks at activations: give --data")
    coupling = prunable(terminal, subject)
    with terminal.working("closing groups in turn"):
        found = api.sensitivity(coupling, source)
    terminal.result(sensitivity_json(found), sensitivity_table(found))


@command(LOOK, "tgonnx verify gated.onnx small.onnx")
def verify(
    terminal: Terminal,
    *,
    a: Annotated[Path, typer.Argument(metavar="A", help="The one model.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other.", show_default=False)],
    data: Evidence,
    how: Comparing,
    run: Annotated[Run, Only("verify_seconds", "seed")],
) -> None:
    """Compare what two models promise, and compute at many sizes. Exit code 1: they differ, or nobody can tell."""
    from tgonnx.loading import read
    from tgonnx.proof import real_feeds
    from tgonnx.report import tables as report
    from tgonnx.runtime.equivalence import verify as compare

    first, second = read(a), read(b)
    feeds = real_feeds(data.source(), first) or None
    with terminal.working("comparing"):
        check = compare(first, second, feeds, how.samples, run.seed, how.rtol, seconds=run.verify_seconds)
    terminal.result(report.check_json(check), report.check_table(check))
    if not check.ok:
        terminal.complain(
            f"{a} and {b} {'differ: ' if check.reasons else 'are not comparable: '}{check.complaint}"
        )
        raise typer.Exit(VerificationError.exit_code)


@command(LOOK, "tgonnx diff model.onnx small.onnx")
def diff(
    terminal: Terminal,
    *,
    a: Annotated[Path, typer.Argument(metavar="A", help="The original.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="What was cut from it.", show_default=False)],
    pictures: Annotated[Pictures, Only("svg", "overwrite")],
    both: Annotated[Analysis, Only("attention", "shape")],
) -> None:
    """Show what each layer of A has lost in B, whatever cut it."""
    from tgonnx.analysis.difference import difference
    from tgonnx.report import differences as report

    pictures.check(a, b)
    subjects = (Subject(model=path, attention=both.attention, shape=both.shape) for path in (a, b))
    first, second = (analyzed(terminal, subject) for subject in subjects)
    found = difference(first, second)
    written = pictures.of_difference(found, first)
    terminal.result(
        report.difference_json(found),
        report.cost_table(found),
        report.difference_table(found, terminal.verbose > 0),
        *report.branches_text(found),
        *written,
    )


@command(LOOK, "tgonnx data model.onnx --data images --preview batch.png")
def data(
    terminal: Terminal,
    *,
    model: ModelPath,
    seen: Previewed,
    recipe: Annotated[Recipe, Only("augment")],
    preview: Annotated[
        Path | None,
        typer.Option("--preview", metavar="OUT.png", help="Draw one batch as the model sees it."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Say how data are read for a model, check them as `prune` does, and draw a batch."""
    from tgonnx.data.previewing import of_dataset
    from tgonnx.data.sources import open_dataset
    from tgonnx.io.save import check_destination
    from tgonnx.loading import read
    from tgonnx.losses.fit import validate
    from tgonnx.report import tables as report

    if preview is not None:
        check_destination(preview, overwrite, [model, seen.data])
    proto = read(model)
    with terminal.working(f"reading {seen.data}"):
        dataset = open_dataset(seen.source(), proto)
        validate(dataset, proto)
        shown = of_dataset(dataset, proto, augment=recipe.augment)
    if preview is not None:
        shown.save(preview, overwrite)
    told = {"data": str(seen.data), "rows": shown.rows, "preview": None if preview is None else str(preview)}
    written = [] if preview is None else [f"wrote {preview}"]
    terminal.result(told, report.named_lines(shown.rows), *written)


@command(HERE)
def doctor(terminal: Terminal) -> None:
    """Show versions, which onnxruntime really works, which engine training will use, and how to fix it."""
    from tgonnx.report import tables as report
    from tgonnx.runtime.doctor import diagnose

    diagnosis = diagnose()
    terminal.result({"ok": diagnosis.ok, **vars(diagnosis)}, report.diagnosis_table(diagnosis))
    if not diagnosis.ok:
        terminal.complain(diagnosis.problems[0])
        raise typer.Exit(InstallationError.exit_code)
