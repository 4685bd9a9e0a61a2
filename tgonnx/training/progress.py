"""What is told of a run while it lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tgonnx.io.notes import Note, as_note

Phase = Literal["search", "commit", "fine-tune"]


@dataclass(frozen=True)
class Progress:
    """Where a run is. `loss` is the task's over recent steps, if there were any; `cost` is what is left, a ratio."""

    phase: Phase
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None
    metric: float | None = None
    cost: float | None = None
    seconds_left: float | None = None


Listener = Callable[[Progress], None]
Outlook = tuple[tuple[str, str], ...]  # what will happen: a name and a text for each line


@dataclass
class Journal:
    """What happened, one record per epoch, and who wants to know.

    `later` is how much follows the present phase, in steps of this phase. `notes` say what was done otherwise
    than asked.
    """

    listener: Listener | None = None
    records: list[Progress] = field(default_factory=list)
    later: float = 0.0
    notes: list[Note] = field(default_factory=list)
    followers: list[Listener] = field(default_factory=list)  # are told the records alone

    def note(self, text: str, code: str = "run") -> None:
        """Keep a note, once; plain text is one of this code."""
        if text not in self.notes:
            self.notes.append(as_note(text, code))

    def begin(self, outlook: Outlook) -> None:
        """Tell what will happen to a listener that has a method `begins` for that."""
        begins = getattr(self.listener, "begins", None)
        if begins is not None:
            begins(outlook)

    def keep(self, folder: Path) -> None:
        """Tell a listener that has a method `keeps` for that in which folder the run is kept."""
        keeps = getattr(self.listener, "keeps", None)
        if keeps is not None:
            keeps(folder)

    def tell(self, progress: Progress) -> None:
        if self.listener is not None:
            self.listener(progress)

    def record(self, progress: Progress) -> None:
        self.records.append(progress)
        for follower in self.followers:
            follower(progress)
        self.tell(progress)
