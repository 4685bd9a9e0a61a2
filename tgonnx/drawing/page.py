"""The report of a run as one HTML file: no network, no script, light and dark, on screens of any size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tgonnx.drawing.charts import kept_chart
from tgonnx.drawing.sections import SECTIONS, Story, history_charts, kind_name, notes, table
from tgonnx.drawing.style import DRAWING, PAGE
from tgonnx.drawing.svg import Drawing
from tgonnx.drawing.text import safe
from tgonnx.errors import UsageError
from tgonnx.io.summary import amount, byte_count

FORMAT = "tgonnx-report-1"
_NEEDED = {
    "format", "model", "target", "achieved", "target_met", "counted_at", "metric", "samples", "before", "after",
    "verification", "notes", "history", "layers", "groups", "pinned", "recipe",
}  # fmt: skip


def page(story: Story) -> str:
    """The report of one run. Raises UsageError if `story` is not what `PruneResult.story` gives."""
    _checked(story)
    title = f"{_name(story)}: {story['achieved']:.0%} of the {kind_name(story['target']['kind'])} left"
    return _document(title, _headline(story), notes(story) + _sections(story))


def sweep_page(stories: Sequence[Story]) -> str:
    """One report of several sizes: all side by side, then each on its own. Raises UsageError as `page`."""
    for story in stories:
        _checked(story)
    said = dict.fromkeys(note["text"] for story in stories for note in story["notes"])
    top = notes({"notes": [{"text": text} for text in said]})
    parts = [
        f"<details><summary>{safe(_left(story))}</summary>{_sections(story)}</details>" for story in stories
    ]
    body = f"{top}<h2>All sizes</h2>{_sizes(stories)}{''.join(parts)}"
    return _document(f"{_name(stories[0])}: {len(stories)} sizes", "", body)


def pictures(story: Story) -> dict[str, Drawing]:
    """The pictures of a report by the name of their file."""
    drawn = {f"{_file(chart.title)}.svg": chart for chart in history_charts(story)}
    return ({"kept.svg": kept_chart(story["layers"])} if story["layers"] else {}) | drawn


def _file(title: str) -> str:
    """`flops-left` for `flops left over time`."""
    words = title.removesuffix(" over time").lower()
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in words).split()) or "metric"


def _checked(story: Any) -> None:
    if not isinstance(story, Mapping) or story.get("format") != FORMAT:
        raise UsageError(f"no data of a report: the format is not {FORMAT}")
    if missing := sorted(_NEEDED - story.keys()):
        raise UsageError(f"no data of a report: {missing[0]!r} is missing")


def _document(title: str, headline: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{safe(title)}</title><style>{PAGE}{DRAWING}</style></head>\n"
        f"<body><main><h1>{safe(title)}</h1>{headline}\n{body}\n</main></body></html>\n"
    )


def _headline(story: Story) -> str:
    out = story.get("out")
    written = f", written to {out}" if out else ""
    return f'<p class="dim">Cut from {safe(story["model"] + written, 2000)}</p>'


def _name(story: Story) -> str:
    """The file of the model without its folder."""
    return os.path.basename(story["model"]) or "model"


def _sections(story: Story) -> str:
    filled = ((title, section(story)) for title, section in SECTIONS)
    return "\n".join(f"<section><h2>{title}</h2>{body}</section>" for title, body in filled if body)


def _left(story: Story) -> str:
    return f"{kind_name(story['target']['kind'])} {story['achieved']:.1%}"


def _sizes(stories: Sequence[Story]) -> str:
    first = stories[0]
    rows = [("original", "100%", first["before"], None)]
    rows += [(story.get("out") or "", _left(story), story["after"], story["before"]) for story in stories]
    cells = []
    for name, left, figures, before in rows:
        metric, was = figures["metric"], None if before is None else before["metric"]
        cells.append([
            safe(name), safe(left), amount(figures["cost"]["flops"]), byte_count(figures["file_bytes"]),
            "" if metric is None else f"{metric:.4g}",
            "" if metric is None or was is None else f"{metric - was:+.4g}",
        ])  # fmt: skip
    metric = f">{first['metric'] or 'metric'} (test)"
    return table(("file", ">left", ">FLOPs", ">size", metric, ">change"), cells)
