"""Options of the command line made from the fields of option classes, and the objects made from what was given.

A command that takes a `Recipe` has an option for each of its fields; `Annotated[Run, Only("seed")]` for some. All
are text to typer (switches apart): the class reads and checks them, as it does for Python. A field that is made
without `option` is annotated for typer itself (`tgonnx.cli.options`), or is of such a class in turn.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from tgonnx.cli.recipe_file import from_run
from tgonnx.errors import flag
from tgonnx.options import NO_CHOICE, Spec

PANELS = {  # where help lists the options of a class
    "DataOptions": "Reading the data",
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
    """A parameter of a command that stands for several options: the class, and what each of its fields stands for."""

    kind: type
    members: dict[str, Expanded | inspect.Parameter]

    @classmethod
    def of(cls, annotation: Any) -> Expanded | None:
        """None for a parameter that is one option."""
        kind, *extra = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
        if not is_dataclass(kind) or not isinstance(kind, type):
            return None
        only = [item.names for item in extra if isinstance(item, Only)]
        known = {field.name: field for field in fields(kind)}
        return cls(kind, {name: _member(kind, known[name]) for name in (only[0] if only else known)})

    def parameters(self) -> Iterator[inspect.Parameter]:
        """The options as parameters that typer understands."""
        for member in self.members.values():
            yield from member.parameters() if isinstance(member, Expanded) else (member,)

    def made_from(self, given: dict[str, Any]) -> Any:
        """The object, from what was given for its options, which are taken out of `given`. Raises OptionError."""
        return self.kind(
            **{
                name: member.made_from(given) if isinstance(member, Expanded) else given.pop(name)
                for name, member in self.members.items()
            }
        )

    def values(self, made: Any) -> dict[str, Any]:
        """What was made, by the names of the options."""
        found: dict[str, Any] = {}
        for name, member in self.members.items():
            value = getattr(made, name)
            found |= member.values(value) if isinstance(member, Expanded) else {name: value}
        return found


def _member(kind: type, field: Field[Any]) -> Expanded | inspect.Parameter:
    """What a field of a class stands for."""
    spec = field.metadata.get("option")
    if spec is not None:
        default, annotation = _described(field.name, spec, PANELS.get(kind.__name__))
    else:
        annotation = get_type_hints(kind, include_extras=True)[field.name]
        if (group := Expanded.of(annotation)) is not None:
            return group
        default = inspect.Parameter.empty if field.default is MISSING else field.default
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, keyword, default=default, annotation=annotation)


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
