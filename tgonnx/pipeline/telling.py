"""The report in the folder of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tgonnx.errors import TgonnxError
from tgonnx.io.notes import Note
from tgonnx.pipeline.result import PruneResult
from tgonnx.training.keeper import Keeper


def told(result: PruneResult, keeper: Keeper) -> PruneResult:
    """The result, its report written into the folder of its run. What prevents it becomes a note of the result."""
    if keeper.folder is None:
        return result
    trouble = _written(keeper, [result.story()])
    return replace(result, run_dir=keeper.folder.path, notes=(*result.notes, *trouble))


def all_told(results: Sequence[PruneResult], keeper: Keeper) -> None:
    """The report of several sizes, beside those that each has in its own folder. What prevents it is noted."""
    for note in _written(keeper, [result.story() for result in results]):
        keeper.journal.note(note)


def _written(keeper: Keeper, stories: Sequence[dict[str, Any]]) -> tuple[Note, ...]:
    """What kept the report from being written: hours of training are not lost for a picture of them."""
    if keeper.folder is None:
        return ()
    try:
        keeper.folder.write_report(stories)
    except TgonnxError as error:
        return (Note("report", f"no report: {error}"),)
    except Exception as error:
        return (Note("report", f"no report: internal error: {type(error).__name__}: {error}"),)
    return ()
