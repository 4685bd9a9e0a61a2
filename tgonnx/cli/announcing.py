"""What will happen, said on the terminal before it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tgonnx.cli.terminal import Terminal

if TYPE_CHECKING:
    from tgonnx.training.progress import Outlook, Progress


@dataclass(frozen=True)
class Announcing:
    """A listener that says what will happen, hands on what does, and writes the command into the folder of the run."""

    terminal: Terminal
    listener: Callable[[Progress], None]

    def begins(self, outlook: Outlook) -> None:
        width = max(len(name) for name, _ in outlook)
        for name, text in outlook:
            self.terminal.note(f"{name:<{width}}  {text}")

    def keeps(self, folder: Path) -> None:
        self.terminal.given.keep(folder)

    def __call__(self, progress: Progress) -> None:
        self.listener(progress)
