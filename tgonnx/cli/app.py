"""The command `tgonnx`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tgonnx.cli.ending import finished

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    pass

from tgonnx.cli import cutting, looking, measuring, reporting, starting, tuning
from tgonnx.cli.common import app
from tgonnx.cli.repeated import added_up

__all__ = ["app", "cutting", "looking", "main", "measuring", "reporting", "starting", "tuning"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = added_up(sys.argv[1:] if arguments is None else arguments) or ["--help"]
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
