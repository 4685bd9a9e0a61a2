"""stdout and stderr of the command, which may be closed, full, or a pipe that nobody reads any more.

A result that cannot be shown is an `OutputError`; a progress or error line that cannot be shown is dropped, since
there is nobody left to tell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from tgonnx.errors import OutputError


class Guarded:
    """A text stream whose failures are `OutputError`s, or nothing at all if `silent`. `stream` None: closed."""

    def __init__(self, stream: TextIO | None, silent: bool) -> None:
        self._stream, self._silent = stream, silent
        self.failed = False
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names may not exist in the terminal's encoding

    def write(self, text: str) -> int:
        self._do("write", text)
        return len(text)

    def flush(self) -> None:
        self._do("flush")

    def isatty(self) -> bool:
        return not self.failed and self._stream is not None and self._stream.isatty()

    def _do(self, action: str, *arguments: str) -> None:
        if self._stream is None and action == "flush":
            return
        try:
            if self._stream is None:
                raise ValueError("it is closed")
            getattr(self._stream, action)(*arguments)
        except (OSError, ValueError) as error:  # ValueError: closed by someone in this process
            self.failed = True
            if not self._silent:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise OutputError(f"stdout cannot be written: {reason}") from None

    def discard(self) -> None:
        """Drop what a failed stream still holds: Python would try to write it again at the end."""
        if self.failed and self._stream is not None:
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded() -> Iterator[None]:
    """Within, `sys.stdout` and `sys.stderr` are guarded; the numbers of closed ones are given to no other file."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    before = sys.stdout, sys.stderr
    streams = Guarded(sys.stdout, silent=False), Guarded(sys.stderr, silent=True)
    try:
        sys.stdout, sys.stderr = streams
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.discard()
