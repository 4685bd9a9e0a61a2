"""What an object shows of itself: a title, some facts and a short table, as text and for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from tgonnx.io.visible import shortened, visible

ROWS = 6  # of the table of a summary
WIDTH = 110  # characters of a line
CELL = 44  # characters of a name in a table


@dataclass(frozen=True)
class Summary:
    """`facts` are labels and texts; `left_out` says what the table does not show."""

    title: str
    facts: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    left_out: str = ""


class Shown:
    """An object that prints as its `summary`: a few lines instead of all its fields."""

    def summary(self) -> Summary:
        """What a person wants to know of it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return as_text(self.summary())

    def _repr_html_(self) -> str:
        return as_html(self.summary())


def as_text(summary: Summary) -> str:
    """Lines of at most `WIDTH` characters, without one at the end."""
    lines = [summary.title]
    indent = max((len(label) for label, _ in summary.facts), default=0)
    lines += [f"  {label:<{indent}}  {text}" for label, text in summary.facts]
    if summary.rows:
        table = [[_cell(cell) for cell in row] for row in (summary.columns, *summary.rows)]
        widths = [max(len(row[i]) for row in table) for i in range(len(summary.columns))]
        for name, *cells in table:
            others = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append(f"  {'  '.join((name.ljust(widths[0]), *others))}".rstrip())
    if summary.left_out:
        lines.append(f"  {summary.left_out}")
    return "\n".join(shortened(visible(line, CELL), WIDTH) for line in lines)


def as_html(summary: Summary) -> str:
    """The same as small tables; everything that comes from a model is escaped."""
    parts = [f"<p><b>{_html(summary.title)}</b></p>"]
    facts = "".join(
        f"<tr><th>{_html(label)}</th><td>{_html(text)}</td></tr>" for label, text in summary.facts
    )
    if facts:
        parts.append(f"<table>{facts}</table>")
    if summary.rows:
        head = "".join(f"<th>{_html(column)}</th>" for column in summary.columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{_html(_cell(cell))}</td>' for cell in row)}</tr>" for row in summary.rows
        )
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    if summary.left_out:
        parts.append(f"<p>{_html(summary.left_out)}</p>")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return shortened(visible(text, CELL), CELL)


def _html(text: str) -> str:
    return html.escape(shortened(visible(text, CELL), 4 * WIDTH))


def left_out(count: int, what: str) -> str:
    """`and 3 more groups`, if there are any."""
    return f"and {count:,} more {what}" if count > 0 else ""


def amount(value: float) -> str:
    """A count with a decimal prefix, as `41.6 M`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g}"


def byte_count(value: float) -> str:
    """A file size, as `1.09 MB`."""
    return f"{amount(value)}B" if value >= 1000 else f"{value:.0f} B"
