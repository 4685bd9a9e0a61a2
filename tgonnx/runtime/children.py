"""Child processes that end with their parent, however it ends."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tgonnx.io.interrupts import deferred


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bytes]:
    """Run a program that calls `watch_parent`, and wait for it. Returns its exit code and what it wrote to stderr.

    Its stdin is a pipe that nobody writes to and that ends with this process. Signals of a terminal reach this
    process only, which ends the child.
    """
    reading, writing = os.pipe()
    child = None
    try:
        with deferred():  # a signal must find a child that is known, or none; it may come at the end of this
            child = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        errors = child.communicate()[1]
        return child.returncode, errors
    except BaseException:
        if child is not None:
            child.kill()
            with child:  # which waits for it and closes its pipe
                pass
        raise
    finally:
        os.close(reading)
        os.close(writing)


def watch_parent(folder: Path) -> None:
    """In the child: when the parent is gone, remove `folder`, which the parent made, and end."""

    removing = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        removing.set()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    # what misses its files ends this process, which must not cut the removal short
    atexit.register(lambda: watcher.join() if removing.is_set() else None)
