"""The sections of a report, each from the plain data of a run; a section that there is nothing to say in is empty."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tgonnx.drawing.charts import Series, kept_chart, over_time, pair_chart
from tgonnx.drawing.svg import Drawing
from tgonnx.drawing.tags import Tag, tags_of
from tgonnx.drawing.text import safe
from tgonnx.io.summary import amount, byte_count

GROUPS, WHERE, TIMES = 40, 40, 30  # rows that are shown: groups, places of one reason, operators
Story = Mapping[str, Any]
SHARES = ("accuracy", "top5", "token-accuracy", "miou", "agreement")  # metrics that are read as per cent


def kind_name(kind: str) -> str:
    """A kind of cost as people write it."""
    return {"flops": "FLOPs", "params": "parameters"}.get(kind, kind)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already; columns that start with `>` are right-aligned figures."""
    right = [column.startswith(">") for column in columns]
    head = "".join(
        f"<th{_kind(r)}>{safe(c.removeprefix('>'))}</th>" for c, r in zip(columns, right, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{_kind(r)}>{cell}</td>' for cell, r in zip(row, right, strict=True))}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _kind(right: bool) -> str:
    return ' class="n"' if right else ' class="word"'


def notes(story: Story) -> str:
    """What a reader of the figures should know, first of all."""
    return "".join(f'<div class="note" role="note">{safe(n["text"], 2000)}</div>' for n in story["notes"])


def summary(story: Story) -> str:
    """Before, after, and what is left."""
    before, after, target = story["before"], story["after"], story["target"]
    rows = [
        (name, say(was), say(now), f"{now / was:.1%}" if was else "")
        for name, was, now, say in _figures(before, after)
    ]
    if before["metric"] is not None and after["metric"] is not None:
        count = story["samples"].get("test")
        part = f" (test part{f', {count:,} samples' if count else ''})"
        measured = [((story["metric"] or "metric") + part, before["metric"], after["metric"])]
        measured += [(name, was, after["others"][name]) for name, was in before["others"].items()]
        rows += [
            (name, f"{was:.4g}", f"{now:.4g}", f"{now - was:+.4g}")
            for name, was, now in measured
            if was is not None and now is not None
        ]
    met = "met" if story["target_met"] else "not met"
    mark = "ok" if story["target_met"] else "no"
    text = (
        f"Target: {kind_name(target['kind'])} at most {target['ratio']:.3g}. Left: {story['achieved']:.3f}, "
    )
    parts = [table(("", ">before", ">after", ">left"), [[safe(cell) for cell in row] for row in rows])]
    parts.append(f'<p>{safe(text)}<span class="{mark}">{met}</span>.</p>')
    if before["metric"] is None:
        parts.append('<p class="dim">Accuracy was not measured.</p>')
    parts.append(_small_print(story))
    return "".join(parts)


def _figures(before: Story, after: Story) -> list[tuple[str, float, float, Callable[[float], str]]]:
    rows: list[tuple[str, Any, Any, Callable[[float], str]]] = [
        ("FLOPs", before["cost"]["flops"], after["cost"]["flops"], amount),
        ("parameters", before["cost"]["params"], after["cost"]["params"], amount),
        ("channels", before["cost"]["channels"], after["cost"]["channels"], amount),
        ("file size", before["file_bytes"], after["file_bytes"], byte_count),
        ("compressed", before.get("compressed_bytes"), after.get("compressed_bytes"), byte_count),
        ("CPU latency (p50)", before.get("latency"), after.get("latency"), lambda value: f"{value:.2f} ms"),
    ]
    return [row for row in rows if row[1] is not None and row[2] is not None]


def _small_print(story: Story) -> str:
    said = []
    if story["samples"]:
        parts = ", ".join(f"{name} {count:,}" for name, count in story["samples"].items())
        said.append(f"Samples: {parts}.")
    if story["counted_at"]:
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, shape))}" for name, shape in story["counted_at"].items()
        )
        said.append(f"FLOPs are counted at {shapes}.")
    return f'<p class="dim">{safe(" ".join(said), 2000)}</p>' if said else ""


def history_charts(story: Story) -> list[Drawing]:
    """Metric, cost and loss over the epochs; those that there are figures of."""
    records = story["history"]
    if not records:
        return []
    phases = [record["phase"] for record in records]
    epochs = [record["epoch"] for record in records]
    percent = story["metric"] in SHARES
    figures = (
        ("metric", story["metric"] or "metric", story["before"]["metric"], "original (test)", percent),
        ("cost", f"{kind_name(story['target']['kind'])} left", story["target"]["ratio"], "target", True),
        ("loss", "loss", None, "", False),
    )
    drawn = []
    for colour, (key, name, level, level_name, share) in enumerate(figures):
        points = [(i, float(r[key])) for i, r in enumerate(records) if r[key] is not None]
        if points:
            drawn.append(over_time(Series(name, points, level, level_name, share), phases, epochs, colour))
    return drawn


def history(story: Story) -> str:
    """What was told at the end of each epoch."""
    charts = history_charts(story)
    if not charts:
        return ""
    said = '<p class="dim">One point for each epoch. In training the metric is measured on the validation part.</p>'
    return said + "".join(f"<h3>{safe(_short(c.title))}</h3>{c.inline()}" for c in charts)


def _short(title: str) -> str:
    return title.removesuffix(" over time")


def kept(story: Story) -> str:
    """Channels by layer."""
    layers = story["layers"]
    if not layers:
        return ""
    said = "A bar is what is left of a layer's output channels."
    if tags_of(layers):
        said += " Layers with the same letter and colour are coupled: they share a gate, and lose the same channels."
    if any(layer["group"] is None for layer in layers):
        said += " Pale bars cannot be cut; the reasons are below."
    return f'<p class="dim">{said}</p>{kept_chart(layers).inline()}'


def removed(story: Story) -> str:
    """Branches that went, with what went with each."""
    branches = story.get("branches", ())
    if not branches:
        return ""
    rows = [
        [safe(b["branch"]), safe(b["node"]), f"{b['nodes']:,}", f"{b['flops']:.1%}", f"{b['params']:.1%}"]
        for b in branches
    ]
    said = "The shortcut is left where a branch was added to it. Shares are those of the whole original."
    columns = ("branch", "added at", ">nodes", ">FLOPs", ">parameters")
    return f'<p class="dim">{said}</p>{table(columns, rows)}'


def zeros(story: Story) -> str:
    """How many elements of each weight are left that got zeros."""
    weights = story.get("weights", ())
    rows = [
        [safe(w["weight"]), f"{w['kept']:,} of {w['of']:,}", f"{w['kept'] / w['of']:.1%}"] for w in weights
    ]
    said = "Elements that are not zero. FLOPs and parameters are counted as if a runtime did not skip zeros."
    return f'<p class="dim">{said}</p>{table(("weight", ">not zero", ">left"), rows)}' if rows else ""


def groups(story: Story) -> str:
    """What each group cost and was worth, those that saved most first."""
    found = sorted(story["groups"], key=lambda group: -group["saved"])
    if not found:
        return ""
    tags = tags_of(story["layers"])
    scored = any(group["scores"] for group in found)
    columns = ["group", ">units left", ">FLOPs", ">parameters", ">saves alone"]
    rows = []
    for group in found[:GROUPS]:
        scores = group["scores"] or {}
        layers = ", ".join(group["layers"][:3]) + (
            f" and {len(group['layers']) - 3} more" if len(group["layers"]) > 3 else ""
        )
        name = f'{_letter(tags.get(group["name"]))}{safe(group["name"])}<br><span class="dim">{safe(layers)}</span>'
        cells = [name, f"{group['kept']:,} of {group['units']:,}"]
        cells += [" to ".join(map(amount, group[kind])) for kind in ("flops", "params")]
        cells.append(f"{group['saved']:.1%}")
        if scored:
            cells.append(f"{_score(scores.get('kept'))} / {_score(scores.get('cut'))}")
        rows.append(cells)
    more = len(found) - GROUPS
    said = (
        "A group is what can only be cut together. FLOPs and parameters are those of all layers that it is in; "
        "layers between two groups count for both. The share of all FLOPs that a group saves alone is that of "
        "cutting it and nothing else."
    )
    if scored:
        columns.append(">score kept / cut")
        said += (
            " Scores are what the search learned of a group's units, on average: what it kept, what it cut."
        )
    parts = [f'<p class="dim">{said}</p><div class="wide">', table(columns, rows), "</div>"]
    return "".join([*parts, f'<p class="dim">and {more:,} more groups</p>' if more > 0 else ""])


def _letter(tag: Tag | None) -> str:
    return "" if tag is None else f"<b>{tag.letter}</b> "


def _score(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def pinned(story: Story) -> str:
    """What could not be cut: one block for each reason, the most frequent first."""
    parts = []
    for entry in story["pinned"]:
        count, where = entry["count"], entry["where"]
        axes = f"{count:,} {'axis' if count == 1 else 'axes'}"
        title = f'{safe(entry["reason"])} <span class="dim">({safe(entry["op_type"])}, {axes})</span>'
        listed = "".join(f"<li>{safe(place)}</li>" for place in where)
        rest = f"<li>and {count - len(where):,} more</li>" if count > len(where) else ""
        parts.append(f"<details><summary>{title}</summary><ul>{listed}{rest}</ul></details>")
    if not parts:
        return ""
    said = "Axes of weights that stay as they are, wholly or in part, by the reason."
    return f'<p class="dim">{said}</p>{"".join(parts)}'


def times(story: Story) -> str:
    """Milliseconds by operator before and after, if somebody measured them: `times` maps a node to both."""
    measured = story.get("times") or {}
    if not measured:
        return ""
    slowest = sorted(measured.items(), key=lambda item: -item[1][0])[:TIMES]
    rows = [(node, float(before), float(after)) for node, (before, after) in slowest]
    more = len(measured) - len(rows)
    rest = f'<p class="dim">and {more:,} faster operators</p>' if more > 0 else ""
    said = '<p class="dim">The slowest operators of the original: grey before, blue after.</p>'
    return said + pair_chart(rows, "ms", "Time by operator").inline() + rest


def verification(story: Story) -> str:
    """What the pruned model was held against."""
    check = story["verification"]
    if check is None:
        return ""
    mark = "ok" if check["ok"] else "no"
    rows = [
        ["verdict", f'<span class="{mark}">{safe(check["verdict"])}</span>'],
        ["largest difference", f"{_figure(check['max_rel'])} relative (allowed: {check['tolerance']:.0e})"],
        ["samples", f"{check['samples']:,}"],
        ["run by", safe(check["ran_by"], 1000)],
    ]
    for name, key in (
        ("different", "reasons"), ("in doubt", "inconclusive"), ("sizes", "sizes"), ("not tried", "skipped"),
        ("up to the inputs of", "up_to"),
    ):  # fmt: skip
        if check[key]:
            rows.append([name, "<br>".join(safe(entry) for entry in check[key][:WHERE])])
    said = '<p class="dim">The gated model is held against the original, and the pruned one against the gated.</p>'
    return said + table(("", ""), rows)


def _figure(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.1e}"


def recipe(story: Story) -> str:
    """How it was made: every value as it was resolved."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in story["recipe"].items()]
    shown = "\n".join(safe(line) for line in lines)
    return f"<details><summary>{len(lines)} values</summary><pre>{shown}</pre></details>" if lines else ""


SECTIONS: tuple[tuple[str, Callable[[Story], str]], ...] = (
    ("Before and after", summary),
    ("Accuracy and cost over time", history),
    ("Kept channels by layer", kept),
    ("Removed branches", removed),
    ("Weights with zeros", zeros),
    ("What each group cost", groups),
    ("Time by operator", times),
    ("What stays, and why", pinned),
    ("Verification", verification),
    ("Recipe", recipe),
)
