"""Charts of a report: kept channels by layer, figures over time, times before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tgonnx.drawing.svg import Drawing, dot, line, rect, text
from tgonnx.drawing.tags import tags_of
from tgonnx.io.visible import shortened

ROW, BAR = 30, 8  # pixels of a layer, and of its bar
NAME = 34  # characters of a name above a bar
LEFT, TOP, HIGH = 11.0, 24, 150  # of a chart over time: per cent for the scale, pixels above and of the chart

# --- kept channels --------------------------------------------------------------------------------------


def kept_chart(layers: Sequence[Mapping[str, Any]], title: str = "Kept channels by layer") -> Drawing:
    """A bar for each layer, in the order of the graph, what is left before what there was.

    A layer has `name`, `op`, `before` and `after`, in channels, and a `group`; None: it cannot be cut. Groups of
    several layers have a letter and a colour.
    """
    tags, body = tags_of(layers), []
    for number, layer in enumerate(layers):
        y = ROW * number
        tag, tip = tags.get(layer["group"]), f"{layer['name']} ({layer['op']})"
        style = "still" if layer["group"] is None else "bar" if tag is None else f"c{tag.colour}"
        name = shortened(layer["name"], NAME)
        if tag is None:
            body.append(text("0", y + 12, name, "ink small", tip=tip))
        else:
            body.append(text("0", y + 12, tag.letter, f"c{tag.colour} strong small"))
            body.append(text("22", y + 12, name, "ink small", tip=tip))
        left = layer["after"] / max(layer["before"], 1)
        said = f"{layer['after']:,} of {layer['before']:,}"
        body.append(text("100%", y + 12, said, "dim small", "end"))
        body.append(rect(0, y + 17, 100, BAR, "track"))
        body.append(rect(0, y + 17, 100 * left, BAR, style, f"{tip}: {said} ({left:.0%})"))
    return Drawing(title, "".join(body), max(ROW * len(layers), 1))


# --- over time ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """Points (which record, value) of one figure, joined by lines; `level` is what they are held against."""

    name: str
    points: Sequence[tuple[int, float]]
    level: float | None = None
    level_name: str = ""
    percent: bool = False


def over_time(series: Series, phases: Sequence[str], epochs: Sequence[int], colour: int = 0) -> Drawing:
    """One figure over the epochs of a run, with its phases; `phases` and `epochs` are those of each record."""
    values = [value for _, value in series.points]
    reach = values + ([] if series.level is None else [series.level])
    low, high = min(reach), max(reach)
    spread = max(high - low, 0.02 * max(abs(high), abs(low))) or 1.0
    middle = (low + high) / 2
    low, high = middle - 0.6 * spread, middle + 0.6 * spread
    count = len(phases)

    def x(record: int) -> float:
        return LEFT + (98 - LEFT) * (record + 0.5) / count

    def y(value: float) -> float:
        return TOP + HIGH * (high - value) / (high - low)

    body = [_grid(low, high, y, series.percent), _phases(phases, x, count)]
    if series.level is not None:
        place = y(series.level)
        body.append(line(LEFT, place, 98, place, "axis"))
        body.append(text("98%", place - 4, series.level_name, "dim small", "end"))
    ends = [(x(record), y(value)) for record, value in series.points]
    body += [line(*a, *b, f"s{colour}") for a, b in pairwise(ends)]
    for (record, value), end in zip(series.points, ends, strict=True):
        tip = f"{phases[record]}, epoch {epochs[record]}: {series.name} {_said(value, series.percent)}"
        body.append(dot(*end, 3, f"c{colour}", tip))
    return Drawing(f"{series.name} over time", "".join(body), TOP + HIGH + 22)


def _grid(low: float, high: float, y: Any, percent: bool) -> str:
    parts = []
    for step in range(5):
        value = low + (high - low) * (step + 0.5) / 5
        parts.append(line(LEFT, y(value), 98, y(value), "grid"))
        parts.append(text(f"{LEFT - 1.5:g}%", y(value) + 4, _said(value, percent), "dim small", "end"))
    return "".join(parts)


def _phases(phases: Sequence[str], x: Any, count: int) -> str:
    """Where each phase begins: a line, and its name below where there is room."""
    parts, start = [], 0
    half = (x(1) - x(0)) / 2
    for end in range(1, count + 1):
        if end < count and phases[end] == phases[start]:
            continue
        first, last = x(start) - half, x(end - 1) + half
        if start:
            parts.append(line(first, TOP, first, TOP + HIGH, "axis"))
        if last - first > 16:
            parts.append(
                text(f"{(first + last) / 2:.2f}%", TOP + HIGH + 16, phases[start], "dim small", "middle")
            )
        start = end
    return "".join(parts)


def _said(value: float, percent: bool) -> str:
    return f"{value:.1%}" if percent else f"{value:.3g}"


# --- pairs ----------------------------------------------------------------------------------------------


def pair_chart(rows: Sequence[tuple[str, float, float]], unit: str, title: str) -> Drawing:
    """Two bars for each name: before and after, in a unit."""
    most = max((max(before, after) for _, before, after in rows), default=0) or 1.0
    body = []
    for number, (name, before, after) in enumerate(rows):
        y = (ROW + BAR) * number
        body.append(text("0", y + 12, shortened(name, NAME), "ink small", tip=name))
        body.append(text("100%", y + 12, f"{before:.3g} to {after:.3g} {unit}", "dim small", "end"))
        body.append(
            rect(0, y + 17, 100 * before / most, BAR - 1, "bar", f"{name}: {before:.3g} {unit} before")
        )
        body.append(rect(0, y + 25, 100 * after / most, BAR - 1, "c0", f"{name}: {after:.3g} {unit} after"))
    return Drawing(title, "".join(body), max((ROW + BAR) * len(rows), 1))
