"""How tables look: quiet, and safe to show whatever is in a name."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from tgonnx.io.visible import visible


def quiet(title: str, *columns: str) -> Table:
    """A quiet table; columns that start with `>` are right-aligned."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.pad_edge = table.show_edge = False
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            Text(column.removeprefix(">")), justify="right" if right else "left", overflow="fold"
        )
    return table


def row(table: Table, *cells: str | Sequence[str], style: str | None = None) -> None:
    """A cell is a line or several. Names may hold brackets and worse: cells are never markup, and safe to show."""
    lines = ([cell] if isinstance(cell, str) else cell for cell in cells)
    table.add_row(*(Text("\n".join(map(visible, cell))) for cell in lines), style=style)
