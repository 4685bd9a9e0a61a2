"""What is learned epoch by epoch, as files that TensorBoard draws. The writer needs neither it nor torch."""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path
from typing import Any

from tgonnx.errors import InstallationError, UsageError
from tgonnx.training.progress import Progress

FOLDER = "tensorboard"  # in that of a run
FIGURES = ("loss", "metric", "cost")


def check_writer() -> Any:
    """The modules that write the files. Raises InstallationError if they are not there."""
    try:
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2, summary_pb2
    except ImportError as error:
        raise InstallationError(
            f"--tensorboard needs tensorboardX ({error}): pip install 'tgonnx[tensorboard]'"
        ) from None
    return event_file_writer, event_pb2, summary_pb2


class Events:
    """Called with each record of a run: writes its figures below the run's folder by phase, to the disk at once."""

    def __init__(self, folder: Path) -> None:
        """Raises InstallationError; UsageError if nothing can be written there."""
        writers, self._events, self._summaries = check_writer()
        place = folder / FOLDER
        try:
            place.mkdir(exist_ok=True)
            self._writer = writers.EventsWriter(
                str(place / "events"), f".{os.getpid()}.{time.monotonic_ns()}"
            )
        except OSError as error:
            raise UsageError(f"{place}: cannot be written: {error.strerror}") from None
        weakref.finalize(self, self._writer.close)  # a run may end in many ways

    def __call__(self, progress: Progress) -> None:
        figures = {name: getattr(progress, name) for name in FIGURES}
        values = [
            self._summaries.Summary.Value(tag=f"{progress.phase}/{name}", simple_value=value)
            for name, value in figures.items()
            if value is not None
        ]
        told = self._summaries.Summary(value=values)
        self._writer.write_event(self._events.Event(wall_time=time.time(), step=progress.step, summary=told))
        self._writer.flush()
