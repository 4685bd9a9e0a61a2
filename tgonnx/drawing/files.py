"""Reports as files: by the ending of a path, and in the folder of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgonnx.drawing.page import page, pictures, sweep_page
from tgonnx.drawing.png import PNG, can_rasterise
from tgonnx.errors import UsageError
from tgonnx.io.save import check_destination, save_text

StrPath = str | os.PathLike[str]
Story = Mapping[str, Any]
ENDINGS = (".html", ".json")
DATA, PAGE, PICTURES = "report.json", "report.html", "pictures"


def report_destination(path: StrPath, overwrite: bool = False, protect: Iterable[StrPath] = ()) -> Path:
    """As `check_destination`, for a report: its ending says what is written. Raises UsageError."""
    place = check_destination(path, overwrite, protect)
    if Path(path).suffix.lower() not in ENDINGS:
        raise UsageError(f"{path}: a report is written as .html (a page) or .json (all figures)")
    return place


def report_page_destination(path: StrPath, overwrite: bool = False, protect: Iterable[StrPath] = ()) -> None:
    """As `check_destination`, for a page. Raises UsageError."""
    check_destination(path, overwrite, protect)
    if not is_page(path):
        raise UsageError(f"{path}: the report is a page; write {str(Path(path).with_suffix('.html'))!r}")


def is_page(path: StrPath) -> bool:
    """Is a page wanted, by the ending?"""
    return Path(path).suffix.lower() == ".html"


def page_of(stories: Sequence[Story]) -> str:
    """The page of one result or of several sizes. Raises UsageError."""
    return page(stories[0]) if len(stories) == 1 else sweep_page(stories)


def save_report(story: Story, path: StrPath, overwrite: bool = False) -> None:
    """Write a page or its data, as the ending says. Raises UsageError."""
    report_destination(path, overwrite)
    save_text(page(story) if is_page(path) else _json([story]), path, overwrite)


def write_report(folder: Path, stories: Sequence[Story]) -> None:
    """Write data, page and, of a single result, pictures into the folder of a run. Raises UsageError."""
    save_text(_json(stories), folder / DATA, overwrite=True)
    save_text(page_of(stories), folder / PAGE, overwrite=True)
    if len(stories) > 1:  # each size has pictures of its own
        return
    place = folder / PICTURES
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"{place}: no folder can be made there: {error.strerror}") from None
    for name, drawing in pictures(stories[0]).items():
        drawing.save(place / name, overwrite=True)
        if can_rasterise():
            drawing.save((place / name).with_suffix(PNG), overwrite=True)


def read_stories(folder: Path) -> list[Story]:
    """What a report was made from. Raises UsageError naming the folder and what is wrong with it."""
    place = folder / DATA
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        stories = data["sizes"] if isinstance(data, dict) and "sizes" in data else [data]
        page_of(stories)
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: has no {DATA}: the run is not finished, or is older than reports; run it again for one"
        ) from None
    except OSError as error:
        raise UsageError(f"{place}: cannot be read: {error.strerror}") from None
    except (UsageError, ValueError, LookupError, TypeError, AttributeError):
        raise UsageError(f"{place}: damaged, or not of a run of this version; run it again for one") from None
    found: list[Story] = stories
    return found


def _json(stories: Sequence[Story]) -> str:
    data = stories[0] if len(stories) == 1 else {"format": stories[0]["format"], "sizes": list(stories)}
    return json.dumps(data, indent=1) + "\n"
