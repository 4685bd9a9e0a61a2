"""The command that begins a project: init."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer

from tgonnx.cli.common import HERE, app, command
from tgonnx.cli.options import ModelPath, Overwrite
from tgonnx.cli.recipe_file import ALONE, OF_THE_RUN, SHOWN, keys
from tgonnx.cli.terminal import Terminal

WIDTH = 100  # characters of a line of comment
PROMISED = {
    "data": "data.npz",
    "out": "model.pruned.onnx",
    "report": "report.html",
}  # where there is no default


@command(HERE, "tgonnx init model.onnx --data data.npz", "tgonnx prune --recipe tgonnx.toml")
def init(
    terminal: Terminal,
    *,
    model: ModelPath,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="The data, in the forms that `prune` takes.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.toml", help="Where to write.")] = Path(
        "tgonnx.toml"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Write a recipe for `tgonnx prune --recipe`: every option with what it does and its default."""
    from tgonnx.io.save import check_destination, save_text
    from tgonnx.loading import load

    check_destination(out, overwrite, [model])
    given = {"model": model, **({"data": data} if data else {})}
    places = {key: _seen_from(out.parent, path) for key, path in given.items()}
    shown = [f"{label} {text}" for label, text in load(model).summary().facts if label in ("input", "output")]
    save_text("\n".join(_lines(places, shown)) + "\n", out, overwrite, [model])
    terminal.result({"out": str(out)}, f"wrote {out}; `tgonnx prune --recipe {out}` goes by it")


def _seen_from(folder: Path, path: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive
        return str(path.absolute())


def _lines(given: dict[str, str], shown: list[str]) -> Iterator[str]:
    """Groups of options as help has them; those that are not `given` are commented out, at their defaults."""
    from tgonnx.io.toml import line

    yield from _comment("A recipe for `tgonnx prune --recipe FILE`; what the command line says wins.")
    yield from _comment("Lines that begin with # are comments. Paths are those seen from this file.")
    context = typer.Context(typer.main.get_command(app).commands["prune"])  # type: ignore[attr-defined]
    for panel, options in _panels(context).items():
        yield from ("", f"# --- {panel} ".ljust(WIDTH, "-"))
        for key, option in options.items():
            yield ""
            yield from _comment(*([option.help] if option.help else []), *(shown if key == "model" else []))
            yield line(key, given[key]) if key in given else f"# {line(key, _default(key, option))}"


def _panels(context: typer.Context) -> dict[str, dict[str, Any]]:
    """The options that a file may have, by key, in the groups that help has."""
    hidden = {*ALONE, *SHOWN, *OF_THE_RUN} - {"report", "run-dir"}
    parameters, panels = {parameter.name: parameter for parameter in context.command.params}, dict[str, Any]()
    for key, name in keys(context).items():
        if key not in hidden:
            panel = getattr(parameters[name], "rich_help_panel", None) or "Options"
            panels.setdefault(panel, {})[key] = parameters[name]
    return panels


def _comment(*texts: str) -> Iterator[str]:
    for text in texts:
        yield from (f"# {part}" for part in wrap(text, WIDTH - 2))


def _default(key: str, parameter: Any) -> Any:
    """The default as a file has it: a number where it is one."""
    if key in PROMISED:
        return PROMISED[key]
    if parameter.multiple:
        return []
    if not isinstance(parameter.default, str):
        return parameter.default
    try:
        return json.loads(parameter.default)
    except ValueError:
        return parameter.default
