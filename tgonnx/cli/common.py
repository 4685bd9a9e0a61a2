"""What the commands share: how one is registered, and how it reads its model."""

from __future__ import annotations

import functools
import inspect as introspection
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer

from tgonnx.cli.ending import EXIT_CODES
from tgonnx.cli.fields import Expanded
from tgonnx.cli.options import COMMON, Subject
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

    A parameter that is a class of options stands for its fields (`tgonnx.cli.fields`).
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
    app.command(epilog="Exit codes: see `tgonnx --help`.")(run)
    return function


def loaded(subject: Subject) -> Model:
    """The model, counted at the shapes that are asked for, and of no other shapes than those that are fixed."""
    from tgonnx.analysis.input_shapes import fix_shapes, parse_shapes
    from tgonnx.loading import load, read

    path = subject.model
    sizes, only = parse_shapes(subject.shape or ()), parse_shapes(subject.fix_shape or (), "--fix-shape")
    if not only:
        return load(path, sizes)
    return replace(load(fix_shapes(read(path), only), sizes), source=str(path))


def analyzed(terminal: Terminal, subject: Subject, attention: str | None = None) -> Coupling:
    """What can be cut of the model; `attention` is that of a mask, or as the user says."""
    from tgonnx.analysis.solver import analyze

    with terminal.working(f"reading {subject.model}"):
        return analyze(loaded(subject), attention_of(attention or subject.attention))


def prunable(terminal: Terminal, subject: Subject, attention: str | None = None) -> Coupling:
    """The same. Raises UnsupportedError if nothing can be cut."""
    coupling = analyzed(terminal, subject, attention)
    if not coupling.units:
        why = "no layer has channels that could go"
        if coupling.pinned:
            pin = coupling.pinned[0]
            why = (
                f"{pin.value}[{pin.axis}] is kept by {pin.node or 'the model'} ({pin.op_type}): {pin.reason}"
            )
        raise UnsupportedError(f"{subject.model}: nothing can be pruned: {why}")
    return coupling
