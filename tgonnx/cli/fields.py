"""Options of the command line made from the fields of option classes, and the objects made from what was given.

A command that takes a `Recipe` has an option for each of its fields; `Annotated[Run, Only("seed")]` for some. All
are text to typer (switches apart): the class reads and checks them, as it does for Python.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, get_args, get_origin

import typer

from tgonnx.cli.recipe_file import from_run
from tgonnx.errors import flag
from tgonnx.options import NO_CHOICE, Spec, specs

PANELS = {  # where help lists the options of a class
    "Preprocessing": "Reading the data",
    "Recipe": "Training",
    "Bounds": "What must stay",
    "Run": "The run",
}


class Only:
    """The fields of a class that a command has options for; the others keep their defaults."""

    def __init__(self, *names: str) -> None:
        self.names = names


@dataclass(frozen=True)
class Expanded:
    """A parameter of a command that stands for several options: the class, and the names of its fields."""

    kind: type
    names: tuple[str, ...]

    @classmethod
    def of(cls, annotation: Any) -> Expanded | None:
        """None for a parameter that is one option."""
        kind, *extra = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
        if not is_dataclass(kind) or not isinstance(kind, type):
            return None
        only = [item.names for item in extra if isinstance(item, Only)]
        names = only[0] if only else tuple(specs(kind))
        return cls(kind, names)

    def parameters(self) -> Iterator[inspect.Parameter]:
        """The options as parameters that typer understands."""
        known = specs(self.kind)
        for name in self.names:
            default, annotation = _described(name, known[name], PANELS.get(self.kind.__name__))
            keyword = inspect.Parameter.KEYWORD_ONLY
            yield inspect.Parameter(name, keyword, default=default, annotation=annotation)

    def made_from(self, given: dict[str, Any]) -> Any:
        """The object, from what was given for its options, which are taken out of `given`. Raises OptionError."""
        return self.kind(**{name: given.pop(name) for name in self.names})


def _described(name: str, spec: Spec, panel: str | None) -> tuple[Any, Any]:
    """Default and annotation of an option, for typer."""
    more: dict[str, Any] = {"help": spec.help, "rich_help_panel": panel}
    if spec.kind is bool:
        words = f"{flag(name)}/--no-{flag(name)[2:]}" if spec.default else flag(name)
        return spec.default, Annotated[bool, typer.Option(words, **more)]
    if spec.many:
        listed = typer.Option(flag(name), metavar=spec.metavar, **more)
        return None, Annotated[list[str] | None, listed]
    default = NO_CHOICE if spec.default is None else spec.default
    text = f"{default:g}" if isinstance(default, float) else str(default)
    if name == "resume":
        more |= {"is_eager": True, "callback": from_run}
    return text, Annotated[str, typer.Option(flag(name), metavar=_metavar(spec), **more)]


def _metavar(spec: Spec) -> str:
    if spec.metavar:
        return spec.metavar
    if spec.names is not None:
        return "NAME" if callable(spec.names) else f"[{'|'.join(spec.names)}]"
    return {int: "INTEGER", float: "FLOAT"}.get(spec.kind, "TEXT")
