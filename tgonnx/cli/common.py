"""What the commands share: how one is registered, and how it reads its model."""

from __future__ import annotations

import functools
import inspect as introspection
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tgonnx.cli.ending import EXIT_CODES
from tgonnx.cli.fields import Expanded
from tgonnx.cli.help import Grouped, GroupedCommands, epilog
from tgonnx.cli.options import COMMON, Subject
from tgonnx.cli.recipe_file import Given, blamed, keys
from tgonnx.cli.terminal import Terminal
from tgonnx.errors import OptionError, UnsupportedError
from tgonnx.io.interrupts import deferred
from tgonnx.options import ALL, attention_of

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    from tgonnx.analysis.coupling import Coupling
    from tgonnx.analysis.model import Model

CUT, LOOK, HERE = "Cutting", "Looking and measuring", "This installation"  # groups of commands in the help
Command = Callable[..., None]
app = typer.Typer(
    cls=GroupedCommands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make an ONNX model smaller and faster by deleting channels, attention heads and hidden units.",
    epilog=epilog(
        ["tgonnx prune model.onnx --data data.npz --target flops=0.5", "tgonnx inspect model.onnx"],
        EXIT_CODES,
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def command(panel: str, *examples: str) -> Callable[[Command], Command]:
    """Register a command below `panel` of the help, which ends with the `examples`.

    The first parameter is the `Terminal` made from the options of all commands. One that is a class of options stands
    for its fields (`tgonnx.cli.fields`). The command is called like the function, an underscore at the end aside.
    """

    def register(function: Command) -> Command:
        text = epilog(examples, "Exit codes: see `tgonnx --help`.")
        name = function.__name__.rstrip("_")
        app.command(name, cls=Grouped, epilog=text, rich_help_panel=panel)(_with_options(function))
        return function

    return register


def _with_options(function: Command) -> Callable[..., None]:
    """The function that typer calls, with a parameter for each option."""
    own = list(introspection.signature(function, eval_str=True).parameters.values())[1:]
    expanded = {p.name: found for p in own if (found := Expanded.of(p.annotation))}

    @functools.wraps(function)
    def run(
        context: typer.Context, json: bool, quiet: bool, verbose: int, no_color: bool, **given: Any
    ) -> None:
        with deferred():  # a signal in the middle of an import would be taken for a broken package
            import_module("onnx")
        given |= _dependent(context, given)
        typed, names = dict(given), keys(context)
        try:
            made = {name: options.made_from(given) for name, options in expanded.items()}
            for name, options in expanded.items():
                typed |= {n: v for n, v in options.values(made[name]).items() if _is_plain(v)}
            told = Given({key: typed[name] for key, name in names.items() if name in typed})
            function(Terminal(json, quiet, verbose, not no_color, told), **given, **made)
        except OptionError as error:
            raise blamed(context, error) from None

    keyword = introspection.Parameter.KEYWORD_ONLY
    parameters = [
        made.replace(kind=keyword)
        for p in own
        for made in (expanded[p.name].parameters() if p.name in expanded else (p,))
    ]
    parameters.insert(0, introspection.Parameter("context", keyword, annotation=typer.Context))
    parameters += [
        introspection.Parameter(name, keyword, default=0 if name == "verbose" else False, annotation=kind)
        for name, kind in COMMON.items()
    ]
    del run.__wrapped__
    run.__signature__ = introspection.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _dependent(context: typer.Context, given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that depend on other options: where alternatives are chosen from, any cost may stay."""
    source = context.get_parameter_source("target")
    unsaid = source is not None and source.name == "DEFAULT"
    return {"target": ALL} if unsaid and given.get("choose") and not given.get("sweep") else {}


def _is_plain(value: Any) -> bool:
    """Is it better written as it is than as it was given? Several values were given as text."""
    return value is None or isinstance(value, str | bool | int | float | Path)


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


def prunable(
    terminal: Terminal, subject: Subject, attention: str | None = None, others: bool = False
) -> Coupling:
    """The same. Raises UnsupportedError if nothing can be cut; with `others`, something else may be."""
    coupling = analyzed(terminal, subject, attention)
    if not coupling.units and not others:
        why = "no layer has channels that could go"
        if coupling.pinned:
            pin = coupling.pinned[0]
            why = (
                f"{pin.value}[{pin.axis}] is kept by {pin.node or 'the model'} ({pin.op_type}): {pin.reason}"
            )
        raise UnsupportedError(f"{subject.model}: nothing can be pruned: {why}")
    return coupling
