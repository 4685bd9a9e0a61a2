"""How help looks: plain text, options and commands in groups, examples at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

Row = tuple[str, str]


class Grouped(TyperCommand):
    """A command whose options stand in groups, each under the name of its panel."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        of_kind = [(_panel(parameter), parameter.get_help_record(ctx)) for parameter in self.get_params(ctx)]
        _write(formatter, of_kind)


class GroupedCommands(TyperGroup):
    """All commands, in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write(formatter, [(_panel(each), each.get_help_record(ctx)) for each in self.get_params(ctx)])
        commands = [self.commands[name] for name in self.list_commands(ctx)]
        width = formatter.width - 6 - max(len(str(each.name)) for each in commands)
        rows = [
            (getattr(each, "rich_help_panel", None) or "Commands", each)
            for each in commands
            if not each.hidden
        ]
        _write(formatter, [(panel, (str(each.name), each.get_short_help_str(width))) for panel, each in rows])


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or "Options"


def _write(formatter: Any, rows: Iterable[tuple[str, Row | None]]) -> None:
    """The rows under their headings, these in the order in which they come."""
    panels: dict[str, list[Row]] = {"Arguments": []}  # the first, wherever they stand
    for panel, row in rows:
        if row is not None:
            panels.setdefault(panel, []).append(row)
    for panel, own in panels.items():
        if own:
            with formatter.section(panel):
                formatter.write_dl(own)


def epilog(examples: Sequence[str], last: str) -> str:
    """Examples as they are, and a line of text."""
    lines = "\n".join(["\b", "Examples:", *(f"  {example}" for example in examples)])
    return f"{lines}\n\n{last}" if examples else last
