"""The command that shows what came of a run: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tgonnx.cli.common import LOOK, command
from tgonnx.cli.options import Overwrite
from tgonnx.cli.terminal import Terminal


@command(LOOK, "tgonnx report runs/model-1", "tgonnx report runs/model-1 -o model.html")
def report(
    terminal: Terminal,
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", help="Where to write.", show_default="RUN/report.html"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make the report of a finished run anew: a page of figures and pictures that needs no network."""
    from tgonnx.drawing.files import DATA, PAGE, page_of, read_stories, report_page_destination, write_report
    from tgonnx.io.save import save_text

    if out is not None:
        report_page_destination(out, overwrite, [run / DATA])
    stories = read_stories(run)
    if out is None:
        write_report(run, stories)
    else:
        save_text(page_of(stories), out, overwrite, [run / DATA])
    place = out or run / PAGE
    terminal.result({"run": str(run), "out": str(place)}, f"wrote {place}")
