"""What the commands share: how one is registered, and how it reads its model."""

from __future__ import annotations

import functools
import inspect as introspection
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tgonnx.cli.ending import EXIT_CODES
from tgonnx.cli.fields import Expanded
from tgonnx.cli.options import COMMON
from tgonnx.cli.terminal import Terminal
from tgonnx.errors import UnsupportedError
from tgonnx.io.interrupts import deferred
from tgonnx.options import attention_of

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    from tgonnx.analysis.coupling import Coupling
    from tgonnx.analysis.model import Model

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make an ONNX model smaller and faster by deleting channels, attention heads and hidden units.",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; the first parameter is the `Terminal` made from the options of all commands.

    A parameter that is a class of options stands for its fields (`tgonnx.cli.fields`). The command is called
    like the function, an underscore at the end aside.
    """

    own = list(introspection.signature(function, eval_str=True).parameters.values())[1:]
    expanded = {p.name: found for p in own if (found := Expanded.of(p.annotation))}

    @functools.wraps(function)
    def run(json: bool, quiet: bool, verbose: int, no_color: bool, **given: Any) -> None:
        with deferred():  # a signal in the middle of an import would be taken for a broken package
            import_module("onnx")
        made = {name: options.made_from(given) for name, options in expanded.items()}
        function(Terminal(json, quiet, verbose, not no_color), **given, **made)

    keyword = introspection.Parameter.KEYWORD_ONLY
    parameters = [
        made.replace(kind=keyword)
        for p in own
        for made in (expanded[p.name].parameters() if p.name in expanded else (p,))
    ]
    parameters += [
        introspection.Parameter(name, keyword, default=0 if name == "verbose" else False, annotation=kind)
        for name, kind in COMMON.items()
    ]
    del run.__wrapped__
    run.__signature__ = introspection.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(function.__name__.rstrip("_"), epilog="Exit codes: see `tgonnx --help`.")(run)
    return function


def loaded(path: Path, shapes: list[str] | None, fixed: list[str] | None = None) -> Model:
    """The model in a file, counted at `shapes`, and of no other shapes than `fixed`."""
    from tgonnx.analysis.input_shapes import fix_shapes, parse_shapes
    from tgonnx.loading import load, read

    sizes, only = parse_shapes(shapes or ()), parse_shapes(fixed or (), "--fix-shape")
    if not only:
        return load(path, sizes)
    return replace(load(fix_shapes(read(path), only), sizes), source=str(path))


def analyzed(
    terminal: Terminal,
    path: Path,
    attention: str,
    shapes: list[str] | None,
    fixed: list[str] | None = None,
) -> Coupling:
    from tgonnx.analysis.solver import analyze

    with terminal.working(f"reading {path}"):
        return analyze(loaded(path, shapes, fixed), attention_of(attention))


def prunable(
    terminal: Terminal,
    path: Path,
    attention: str,
    shapes: list[str] | None,
    fixed: list[str] | None = None,
) -> Coupling:
    coupling = analyzed(terminal, path, attention, shapes, fixed)
    if not coupling.units:
        why = "no layer has channels that could go"
        if coupling.pinned:
            pin = coupling.pinned[0]
            why = (
                f"{pin.value}[{pin.axis}] is kept by {pin.node or 'the model'} ({pin.op_type}): {pin.reason}"
            )
        raise UnsupportedError(f"{path}: nothing can be pruned: {why}")
    return coupling
