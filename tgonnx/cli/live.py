"""Training as it is seen on a terminal: a bar with the time that is gone and left, below a line for each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from tgonnx.training.progress import Progress

NARROW = 50  # columns below which only the bar is shown beside the phase


@contextmanager
def live(console: Console, cost: str) -> Iterator[Callable[[Progress], None]]:
    """A listener that draws; the lines stay, the bar goes in the end. `cost` names what is left of the original."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = [TextColumn("{task.description}"), BarColumn(bar_width=None)]
    if console.width >= NARROW:
        columns += [TimeElapsedColumn(), TextColumn("{task.fields[left]}")]
    with Bars(*columns, console=console, transient=True, expand=True) as bars:
        task = bars.add_task("reading", total=None, left="")
        last: list[Progress] = []  # of the epoch that is going on

        def say() -> None:
            if last:  # what is left stands in the bar
                line = line_of(replace(last.pop(), seconds_left=None), cost)
                console.print(line, markup=False, highlight=False)

        def listen(progress: Progress) -> None:
            if last and (last[0].phase, last[0].epoch) != (progress.phase, progress.epoch):
                say()
            last[:] = [progress]
            bars.update(
                task,
                description=f"{progress.phase} {progress.epoch}/{progress.epochs}",
                completed=progress.step,
                total=progress.steps,
                left="" if progress.seconds_left is None else f"{clock(progress.seconds_left)} left",
            )

        try:
            yield listen
        finally:
            say()


def line_of(progress: Progress, cost: str) -> str:
    """Where a run is, in a line."""
    parts = [f"{progress.phase} {progress.epoch}/{progress.epochs}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.metric is not None:
        parts.append(f"metric {progress.metric:.4f}")
    if progress.cost is not None:
        parts.append(f"{cost} {progress.cost:.1%}")
    if progress.seconds_left is not None:
        parts.append(f"{clock(progress.seconds_left)} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours if there are some."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
