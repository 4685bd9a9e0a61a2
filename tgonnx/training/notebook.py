"""Progress in a notebook, where nobody asked for it by a callback: a line for each epoch and a bar, drawn in place."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from tgonnx.io.summary import Summary, as_html, as_text
from tgonnx.training.progress import Listener, Progress

OFTEN = 0.25  # seconds between two drawings


def notebook_listener() -> Listener | None:
    """A listener that draws, in the kernel of a notebook; None anywhere else."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return Drawing() if type(running).__name__ == "ZMQInteractiveShell" else None


@dataclass
class Drawing:
    """The last message of each epoch as a row, and how far the phase has come."""

    rows: dict[tuple[str, int], Progress] = field(default_factory=dict)
    _display: Any = None
    _drawn: float = 0.0

    def __call__(self, progress: Progress) -> None:
        new = (progress.phase, progress.epoch) not in self.rows
        self.rows[progress.phase, progress.epoch] = progress
        if new or progress.step == progress.steps or time.monotonic() - self._drawn > OFTEN:
            self._drawn = time.monotonic()
            self._draw()

    def summary(self) -> Summary:
        """A row for each epoch."""
        last = next(reversed(self.rows.values()))
        rows = [
            (
                f"{each.phase} {each.epoch}/{each.epochs}",
                "" if each.loss is None else f"{each.loss:.4f}",
                "" if each.metric is None else f"{each.metric:.4f}",
                "" if each.cost is None else f"{each.cost:.1%}",
            )
            for each in self.rows.values()
        ]
        left = "" if last.seconds_left is None else f", about {last.seconds_left:.0f} s left"
        title = f"{last.phase}: step {last.step:,} of {last.steps:,}{left}"
        return Summary(title, (), ("epoch", "loss", "metric", "cost left"), rows)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        last, summary = next(reversed(self.rows.values())), self.summary()
        bar = f'<progress value="{last.step}" max="{last.steps}" style="width: 30em"></progress>'
        return {"text/plain": as_text(summary), "text/html": f"{bar}{as_html(summary)}"}

    def _draw(self) -> None:
        from IPython.display import display  # it is there, or nothing would be drawn

        if self._display is None:
            self._display = display(self, display_id=True)
        else:
            self._display.update(self)
