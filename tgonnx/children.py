"""Child processes that end with their parent, however it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Run a program that calls `watch_parent`, and wait for it; stderr is kept, stdout dropped.

    Its stdin is a pipe that nobody writes to and that ends with this process. Signals of a terminal reach this
    process only, which ends the child.
    """
    reading, writing = os.pipe()
    try:
        return subprocess.run(
            command,
            env=dict(environment),
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)


def watch_parent(folder: Path) -> None:
    """In the child: when the parent is gone, remove `folder`, which the parent made, and end."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
