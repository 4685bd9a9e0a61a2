"""When what a run holds is written down, and what it goes on from."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGINT
from typing import Any

from tgonnx.analysis import profile_file
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.times import Profile
from tgonnx.errors import OptionError, TgonnxError, UsageError, VerificationError
from tgonnx.io import interrupts
from tgonnx.selection.mask import Mask
from tgonnx.training import run_folder
from tgonnx.training.events import Events, check_writer
from tgonnx.training.progress import Journal, Phase
from tgonnx.training.recipe import Run
from tgonnx.training.run_folder import MASK, PROFILE, Best, RunFolder
from tgonnx.training.state import Found, State

SHORT = 0.1  # of the interval: the end of an epoch that comes sooner after a checkpoint is not worth one


@dataclass
class Keeper:
    """Writes checkpoints to the folder of a run, if there is one, and gives back what was read from it.

    `latest` is the state after the last step. `better(a, b)` says whether metric a is better than b.
    """

    folder: RunFolder | None = None
    journal: Journal = field(default_factory=Journal)
    interval: float = 60.0  # seconds between two checkpoints
    better: Callable[[float, float], bool] | None = None
    tensorboard: bool = False
    run: RunFolder | None = None  # of the run that the folder is a part of; None: it is the run
    latest: State | None = None
    found: Found | None = None
    _read: State | None = None
    _found_is_kept: bool = False
    _written: float = field(default_factory=time.monotonic)
    _best: Best | None = None

    def resume(self) -> None:
        """Read what the folder has: state, outcome of the search, journal. Raises UsageError."""
        kept = None if self.folder is None else self.folder.newest()
        if kept is None:
            return
        self._read, self.found, self._best = kept.state, kept.found, kept.best
        self._found_is_kept = kept.found is not None
        self.journal.records[:] = kept.records
        for note in kept.notes:
            self.journal.note(note)

    def resumed(self, phase: Phase) -> State | None:
        """The state that this phase goes on from; None if it starts anew."""
        return self._read if self._read is not None and self._read.phase == phase else None

    def part(self, name: str) -> Keeper:
        """The keeper of one of several models that the search is followed by, in a folder of that name.

        Raises UsageError if the folder cannot be made.
        """
        told = Journal(self.journal.listener, [*self.journal.records], notes=[*self.journal.notes])
        keeper = replace(self, journal=told, run=self.folder, latest=None, _read=None, _best=None)
        if self.folder is not None:
            keeper.folder = self.folder.part(name)
            keeper._found_is_kept = False
            keeper.resume()
            keeper.follow()
            if self.found is not None and not keeper._found_is_kept:
                keeper.keep_found(self.found)
        return keeper

    def keep_if_due(self, ends_epoch: bool) -> None:
        """Write a checkpoint if the last one is old, at the end of an epoch sooner, and if the metric is the best."""
        if self.folder is None:
            return
        age = time.monotonic() - self._written
        best = ends_epoch and self._is_best()
        if best or age >= self.interval * (SHORT if ends_epoch else 1):
            self.keep(best)

    def keep(self, best: bool = False) -> bool:
        """Write the latest state. What prevents it is noted, and the run goes on: the earlier checkpoint is there."""
        if self.folder is None or self.latest is None:
            return False
        state, self._written = self.latest, time.monotonic()
        metric = self.journal.records[-1].metric if best else None
        chosen = self._best if metric is None else (metric, self.folder.name_of(state))
        try:
            self._keep_found()
            self.folder.keep(state, self.journal, chosen)
        except UsageError as error:
            self.journal.note(f"checkpoint not written: {error}", "checkpoint")
            return False
        self._best = chosen
        return True

    def keep_found(self, found: Found) -> None:
        """Write the outcome of the search. What prevents it is noted, and tried again with the next checkpoint."""
        self.found, self.latest = found, None
        try:
            self._keep_found()
        except UsageError as error:
            self.journal.note(f"checkpoint not written: {error}", "checkpoint")

    @contextmanager
    def salvaging(self, model: Callable[[], Path | None] | None = None) -> Iterator[None]:
        """Within, an interruption is answered with a checkpoint; Ctrl-C also with the model as far as it is.

        `model`, if the search is over, writes that and says where. A signal that comes meanwhile ends the process
        at once. A result that is not let through is kept in a checkpoint, and the error says where.
        """
        try:
            yield
        except (interrupts.Interrupted, KeyboardInterrupt) as error:
            if self.folder is not None:
                with interrupts.salvaging():
                    advice = self._salvaged(model if getattr(error, "number", SIGINT) == SIGINT else None)
                    advice = f"{advice}go on with {_command(self.run or self.folder)}"
                interrupts.advise(advice)
                if hasattr(error, "add_note"):  # Python 3.11 and later: for those who call the library
                    error.add_note(advice)
            raise
        except VerificationError as error:
            raise VerificationError(f"{error}{self._refused()}") from None

    def _refused(self) -> str:
        """Write the latest state. Says where what was trained is, and what could not be written."""
        told = len(self.journal.notes)
        self.keep()
        parts: list[str] = [*self.journal.notes[told:]]
        kept = None if self.folder is None else self.folder.last_written()
        if self.folder is not None and kept is not None:
            parts.append(
                f"what was trained is kept in {kept}; {_option(self.folder)} does not train it again"
            )
        return "".join(f"; {part}" for part in parts)

    def _salvaged(self, model: Callable[[], Path | None] | None) -> str:
        """Write what can be written. Says what there is, and what could not be written."""
        told = len(self.journal.notes)
        self.keep()
        parts: list[str] = [*self.journal.notes[told:]]
        try:
            place = None if model is None else model()
        except TgonnxError as error:
            parts.append(f"there is no model yet: {error}")
        else:
            parts += [] if place is None else [f"the model so far is {place}"]
        return "".join(f"{part}; " for part in parts)

    def tell(self) -> None:
        """Say where the run is kept, so that more can be written there. What prevents it is noted."""
        self._try(lambda folder: self.journal.keep(folder.path))

    def follow(self) -> None:
        """Write the records where TensorBoard looks, if that is wanted."""
        if self.tensorboard:
            self._try(lambda folder: self.journal.followers.append(Events(folder.path)))

    def kept_mask(self, coupling: Coupling) -> Mask | None:
        """The choice that a run had made when it was interrupted; None if it had not come so far.

        Raises UsageError if it is not of this model.
        """
        if self.folder is None or (self._read is None and self.found is None):
            return None
        place = self.folder.path / MASK
        if not place.is_file():
            return None
        mask = Mask.load(place)
        mask.check(coupling)
        return mask

    def keep_profile(self, profile: Profile) -> None:
        """Write the latency profile by which a run chooses. What prevents it is noted."""
        self._try(lambda folder: profile_file.write(profile, folder.path / PROFILE, overwrite=True))

    def keep_mask(self, mask: Mask) -> None:
        """Write the choice. What prevents it is noted."""
        self._try(lambda folder: folder.write_mask(mask))

    def finish(self, mask: Mask) -> None:
        """Say that the run is over. What prevents it is noted."""
        self._try(lambda folder: folder.finish(mask, self.journal))

    def _try(self, write: Callable[[RunFolder], None]) -> None:
        if self.folder is not None:
            try:
                write(self.folder)
            except UsageError as error:
                self.journal.note(f"not kept: {error}", "checkpoint")

    def _keep_found(self) -> None:
        if self.folder is not None and self.found is not None and not self._found_is_kept:
            self.folder.keep_found(self.found, self.journal)
            self._found_is_kept = True

    def _is_best(self) -> bool:
        record = self.journal.records[-1]
        if record.phase != "fine-tune" or record.metric is None or self.better is None:
            return False
        return self._best is None or self.better(record.metric, self._best[0])


def open_keeper(
    run: Run, source: str, who: Mapping[str, Any], how: Mapping[str, Any], journal: Journal
) -> Keeper:
    """The keeper of a run: of a new folder, of the one that it goes on with, or of none.

    `who` and `how` are what must be the same when a run goes on. Raises UsageError; where no folder was asked for by
    name, that there is none is noted.
    """
    keeper = Keeper(None, journal, run.checkpoint_seconds, tensorboard=run.tensorboard)
    if run.tensorboard:
        check_writer()  # before there is a folder
        if not (run.resume or run.run_dir):
            raise OptionError("tensorboard", "writes into the folder of the run: it needs run_dir")
    if run.resume:
        keeper.folder = run_folder.reopen(Path(run.resume), who, how)
        keeper.resume()
    elif run.run_dir == "auto":
        try:
            keeper.folder = run_folder.create_numbered(source, who, how)
        except UsageError as error:
            journal.note(f"nothing was kept of the run: {error}", "checkpoint")
    elif run.run_dir:
        keeper.folder = run_folder.create(Path(run.run_dir), who, how)
    keeper.tell()
    keeper.follow()
    return keeper


def _command(folder: RunFolder) -> str:
    """How to go on with a run: the command, or the option in Python. The folder has the rest."""
    if not interrupts.COMMAND:
        return _option(folder)
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "prune")
    return shlex.join(["tgonnx", verb, "--resume", str(folder.path)])


def _option(folder: RunFolder) -> str:
    """The option that goes on with a run."""
    path = str(folder.path)
    return f"--resume {shlex.quote(path)}" if interrupts.COMMAND else f"resume={path!r}"
