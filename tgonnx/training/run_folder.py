"""The folder of a run: what it is, how far it has come, and what it has found. In it are

    run.json       what must be the same when it goes on, and whether it is finished
    recipe.toml    the resolved recipe, as `--recipe` reads it
    history.csv    one line for each epoch
    mask.json      the choice, once the search is over
    latency.json   what each operator takes, where the target is a latency
    report.html    what came of it, for people; report.json is what that is made from, *.svg are its pictures
    tensorboard/   the same as history.csv for TensorBoard, on request
    checkpoints/   the last two, the best, and the outcome of the search

A run that has not been finished goes on from its newest checkpoint.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tgonnx.drawing.files import write_report
from tgonnx.errors import UsageError, flag
from tgonnx.io import toml
from tgonnx.io.notes import Note, notes_from_json, notes_to_json
from tgonnx.io.save import remove_leftovers, save_text
from tgonnx.selection.mask import Mask
from tgonnx.training import checkpoint
from tgonnx.training.progress import Journal, Progress
from tgonnx.training.state import Found, State, records_from_json, records_to_json, restored

FORMAT = "tgonnx-run-1"
MASK, PROFILE = "mask.json", "latency.json"
RUNS = "runs"  # in the current folder: where runs are numbered
LAST = 2  # checkpoints that are kept beside the best
FOUND = "1-search-outcome"  # in order of names between the two phases
ORDER = {"search": 1, "fine-tune": 2}
COLUMNS = [field.name for field in fields(Progress) if field.name != "seconds_left"]
Best = tuple[float, str]


@dataclass(frozen=True)
class Kept:
    """What a checkpoint says: of a phase, its state; of the outcome of the search, that alone.

    `best` is the best metric so far and the checkpoint that has it.
    """

    records: list[Progress]
    notes: tuple[Note, ...]
    state: State | None = None
    found: Found | None = None
    best: Best | None = None


@dataclass(frozen=True)
class RunFolder:
    """A folder that `create` made, or that `reopen` found."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    # --- checkpoints ----------------------------------------------------------------------------------

    def part(self, name: str) -> RunFolder:
        """A folder within, made if it is not there. Raises UsageError."""
        path = self.path / name
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path}: no folder can be made there: {error.strerror}") from None
        remove_leftovers(path)
        remove_leftovers(path / "checkpoints")
        return RunFolder(path)

    def name_of(self, state: State) -> str:
        return f"{ORDER[state.phase]}-{state.phase}-{state.step:08d}"

    def keep(self, state: State, journal: Journal, best: Best | None) -> None:
        """Write a checkpoint; then all but the last two and the best go. Raises UsageError."""
        name = self.name_of(state)
        facts = {"state": state.facts(), "best": best, **_told(journal)}
        checkpoint.write(self.checkpoints, name, state.tensors(), facts)
        others = [other for other in checkpoint.names(self.checkpoints) if other != FOUND]
        checkpoint.remove_others(self.checkpoints, [*others[-LAST:], FOUND, *([best[1]] if best else [])])
        self.write_history(journal)

    def keep_found(self, found: Found, journal: Journal) -> None:
        """Write the outcome of the search. Raises UsageError."""
        facts = {"cost": found.cost, "stake": found.stake, **_told(journal)}
        checkpoint.write(self.checkpoints, FOUND, found.tensors(), facts)

    def last_written(self) -> Path | None:
        """The arrays of the newest checkpoint; None if there is none."""
        names = checkpoint.names(self.checkpoints)
        return self.checkpoints / f"{names[-1]}{checkpoint.TENSORS}" if names else None

    def newest(self) -> Kept | None:
        """The newest checkpoint that is whole; notes say which were not. Raises UsageError if none is."""
        damaged: list[str] = []
        for name in reversed(checkpoint.names(self.checkpoints)):
            try:
                kept = self._kept(name)
            except UsageError as error:
                damaged.append(str(error))
                continue
            return replace(
                kept,
                notes=(
                    *kept.notes,
                    *(Note("checkpoint", f"{reason}; an earlier one is used") for reason in damaged),
                ),
            )
        if damaged:
            raise UsageError(damaged[0])
        return None

    def _kept(self, name: str) -> Kept:
        facts, tensors = checkpoint.read(self.checkpoints, name)
        records, notes = records_from_json(facts["records"]), notes_from_json(facts["notes"])
        if name == FOUND:
            return Kept(records, notes, found=Found.restored(facts, tensors))
        state, best = restored(facts["state"], tensors), facts["best"]
        searched = state.phase != "search" and FOUND in checkpoint.names(
            self.checkpoints
        )  # or a criterion chose
        found = self._kept(FOUND).found if searched else None
        return Kept(records, notes, state, found, None if best is None else (best[0], best[1]))

    # --- what people read -----------------------------------------------------------------------------

    def write_history(self, journal: Journal) -> None:
        """Write `history.csv` anew. Raises UsageError."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for record in journal.records:
            values = asdict(record)
            rows.writerow(["" if values[name] is None else values[name] for name in COLUMNS])
        save_text(text.getvalue(), self.path / "history.csv", overwrite=True)

    def write_report(self, stories: Sequence[Mapping[str, Any]]) -> None:
        """Write the report of one result, or of several sizes, and what it is made from. Raises UsageError."""
        write_report(self.path, stories)

    def write_mask(self, mask: Mask) -> None:
        """Write `mask.json`. Raises UsageError."""
        mask.save(self.path / MASK, overwrite=True)

    def finish(self, mask: Mask, journal: Journal) -> None:
        """Say that the run is over, and leave what people read as it is in the end. Raises UsageError."""
        self.write_mask(mask)
        self.write_history(journal)
        document = _document(self.path)
        save_text(_text(document | {"status": "finished"}), self.path / "run.json", overwrite=True)


def _told(journal: Journal) -> dict[str, Any]:
    return {"records": records_to_json(journal.records), "notes": notes_to_json(journal.notes)}


# --- making and opening ---------------------------------------------------------------------------------


def next_free(model: str, folder: Path | None = None) -> Path:
    """`runs/MODEL-N` with the next number that is free; `model` is the model's file."""
    runs = (folder or Path()) / RUNS
    stem = Path(model).stem[:100] or "model"
    number = 1
    while os.path.lexists(runs / f"{stem}-{number}"):
        number += 1
    return runs / f"{stem}-{number}"


def create_numbered(model: str, identity: Mapping[str, Any], recipe: Mapping[str, Any]) -> RunFolder:
    """A new folder `runs/MODEL-N`; no other process gets the same. Raises UsageError."""
    while True:
        path = next_free(model)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.is_dir():  # something stands where folders should be
                raise UsageError(f"{path}: no folder for the run can be made there") from None
        except OSError as error:
            raise UsageError(f"{path}: no folder for the run can be made there: {error.strerror}") from None
        else:
            return create(path, identity, recipe)


def create(path: Path, identity: Mapping[str, Any], recipe: Mapping[str, Any]) -> RunFolder:
    """A new folder for a run; an empty one that is there already will do.

    `identity` and `recipe`, of plain values, are what must be the same when the run goes on. Raises UsageError.
    """
    try:
        if path.is_dir() and any(path.iterdir()):
            raise UsageError(f"{path}: holds something already; --resume goes on with a run")
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: no folder for the run can be made there: {error.strerror}") from None
    by_flag = {flag(name).removeprefix("--"): value for name, value in recipe.items()}
    save_text(toml.as_text(by_flag), path / "recipe.toml", overwrite=True)
    document = {"format": FORMAT, "status": "running", "identity": dict(identity), "recipe": dict(recipe)}
    save_text(_text(document), path / "run.json", overwrite=True)
    return RunFolder(path)


def reopen(path: Path, identity: Mapping[str, Any], recipe: Mapping[str, Any]) -> RunFolder:
    """The folder of a run that can go on bit by bit. Raises UsageError, naming what is not as it was."""
    document = _document(path)
    if document["status"] == "finished":
        raise UsageError(f"{path}: this run is finished")
    for now, before in ((identity, document["identity"]), (recipe, document["recipe"])):
        for name in {**before, **now}:
            was, given = before.get(name), json.loads(json.dumps(now.get(name)))
            if was != given:
                raise UsageError(
                    f"{path}: was run with {name} {_shown(was)}, not {_shown(given)}: it cannot go on bit by bit"
                )
    for folder in (path, path / "checkpoints"):
        remove_leftovers(folder)
    return RunFolder(path)


def _document(path: Path) -> dict[str, Any]:
    place = path / "run.json"
    try:
        document: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        if document["format"] != FORMAT or not {"status", "identity", "recipe"} <= document.keys():
            raise ValueError
    except FileNotFoundError:
        raise UsageError(f"{path}: is not the folder of a run (it has no run.json)") from None
    except OSError as error:
        raise UsageError(f"{place}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{place}: damaged, or not of a run") from None
    return document


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1) + "\n"


def _shown(value: Any) -> str:
    text = value[:12] if isinstance(value, str) and len(value) == 64 else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
