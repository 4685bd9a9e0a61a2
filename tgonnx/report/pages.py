"""What the command line adds to the report of a run: where the model is, and how fast both are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgonnx.drawing.files import is_page, page_of, write_report
from tgonnx.io.plain import plain
from tgonnx.io.save import save_text
from tgonnx.pipeline import PruneResult
from tgonnx.report.tables import Facts


def story_with(out: str, result: PruneResult, before: Facts, after: Facts) -> dict[str, Any]:
    """The data of a report, with the model's file and latencies."""
    story = result.story()
    for part, facts in (("before", before), ("after", after)):
        story[part] |= {"latency": facts.latency}
    told: dict[str, Any] = plain(story | {"out": out})
    return told


def save_figures(
    figures: Mapping[str, Any],
    stories: Sequence[Mapping[str, Any]],
    path: Path,
    overwrite: bool,
    protect: Iterable[Path],
) -> None:
    """Write `--report`: a page of the stories, or the figures as JSON, as the ending says. Raises UsageError."""
    text = page_of(stories) if is_page(path) else json.dumps(plain(figures), indent=2) + "\n"
    save_text(text, path, overwrite, protect)


def renew(result: PruneResult, story: Mapping[str, Any]) -> None:
    """Write the report in the folder of a run once more, now that more is known. Raises UsageError."""
    if result.run_dir is not None:
        write_report(result.run_dir, [story])
