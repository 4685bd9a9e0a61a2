"""Signals that ask the command to end: one line, 128 + the signal's number as exit code, nothing left behind.

Python code is unwound by the exception `Interrupted`, so that files and folders for the time being are removed
and children ended; while `deferred`, a signal waits. Before the packages are imported there is nothing to unwind,
and an exception in the middle of an import would be taken for a broken package: then the process ends at once.
The library alone never touches signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

TYPE_CHECKING = False  # without `typing` this module is quick: until it is there, a signal meets nobody
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType
    from typing import Any, NoReturn

TWICE = 0.5  # seconds in which one Ctrl-C may come twice, from the terminal and from a program between
SOON = 0.05  # seconds until a signal comes again whose exception was dropped
UNWINDING = 4.0  # seconds in which a repeated signal changes nothing, so that cleaning up is not interrupted
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(BaseException):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(message(number) + _State.advice)
        self.number, self.exit_code = number, 128 + number


def message(number: int) -> str:
    """What the one line says."""
    return "interrupted" if number == signal.SIGINT else f"interrupted by {signal.Signals(number).name}"


class _State:
    """What the handlers share; they run in the main thread only."""

    depth = 0  # of `deferred`
    pending: int | None = None
    received: int | None = None
    when = 0.0  # a signal was last acted on, in seconds of the monotonic clock
    reminder: threading.Timer | None = None
    advice = ""  # what the one line says behind the message


def received() -> Interrupted | None:
    """The signal that came, even if a library turned the exception into one of its own."""
    return None if _State.received is None else Interrupted(_State.received)


@contextmanager
def raised() -> Iterator[None]:
    """Within, signals raise `Interrupted` in the main thread; a signal that was ignored (nohup) still is."""
    _State.received, _State.pending, _State.advice = None, None, ""
    _State.when = -UNWINDING
    before: dict[int, Any] = {}
    hook = sys.unraisablehook
    try:
        with deferred():  # a signal must find all handlers in their places, or none
            before = _install(_raise)
            sys.unraisablehook = _raise_lost(hook)
        yield
    finally:
        with deferred():
            for number, handler in before.items():
                signal.signal(number, handler)
            sys.unraisablehook = hook
            if _State.reminder is not None:
                _State.reminder.cancel()


def _raise(number: int, frame: FrameType | None) -> None:
    if time.monotonic() - _State.when < UNWINDING:
        return
    _State.received, _State.when = number, time.monotonic()
    # The exception may get lost: where an import fails and something else is tried instead, for one.
    _remind(number, UNWINDING + 1)
    if _State.depth:
        _State.pending = number
    else:
        raise Interrupted(number)


def _raise_lost(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """What to do with an exception in a destructor or a callback, which Python prints and drops; `hook` has others."""

    def answer(dropped: Any) -> None:
        if isinstance(dropped.exc_value, Interrupted):
            _State.when = -UNWINDING
            _remind(dropped.exc_value.number, SOON)
        else:
            hook(dropped)

    return answer


def _remind(number: int, seconds: float) -> None:
    if _State.reminder is not None:
        _State.reminder.cancel()
    _State.reminder = threading.Timer(seconds, _send, (number,))
    _State.reminder.daemon = True
    _State.reminder.start()


def _send(number: int) -> None:
    """Send this process a signal, so that its main thread wakes up wherever it waits."""
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Within, a signal waits until the end; for what may not be done by half, and is short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if not _State.depth and _State.pending is not None:
            number, _State.pending = _State.pending, None
            raise Interrupted(number)


@contextmanager
def salvaging() -> Iterator[None]:
    """Within, after a signal, nothing reminds of it, and another one ends the process at once."""
    before = {}
    if _State.received is not None:
        if _State.reminder is not None:
            _State.reminder.cancel()
        before = _install(_end_repeated)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_repeated(number: int, frame: FrameType | None) -> None:
    if time.monotonic() - _State.when > TWICE:
        _end(number, frame)


def advise(text: str) -> None:
    """Say more in the one line that tells of the signal: where the work is, and how to go on."""
    _State.advice = f"; {text}"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder, gone in the end whatever happens. Raises `InstallationError` if the disk does not take it."""
    import shutil
    import tempfile
    from pathlib import Path

    from tgonnx.errors import InstallationError

    folder = None
    try:
        with deferred():
            folder = tempfile.mkdtemp(prefix="tgonnx-")
        yield Path(folder)
    except OSError as error:
        place = folder or tempfile.gettempdir()
        reason = error.strerror or type(error).__name__
        raise InstallationError(
            f"temporary files cannot be written to {place}: {reason}; TMPDIR names another folder"
        ) from None
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


# --- before and after the command -------------------------------------------------------------------


def _is_command() -> bool:
    given = getattr(sys, "orig_argv", [])
    program = (getattr(sys, "argv", None) or [""])[0]
    if program == "-m":  # what it is while the package is being found
        return "-m" in given and given[given.index("-m") + 1 :][:1] == ["tgonnx"]
    return bool(os.path.splitext(os.path.basename(program))[0] == "tgonnx")


def end_at_once() -> None:
    """Let signals end the process without unwinding; for the time of the imports."""
    _install(_end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    code = 128 + number
    try:
        os.write(2, f"error: {message(number)}\n".encode())
        if "--json" in sys.argv:
            failure = f'"message": "{message(number)}", "kind": "Interrupted", "exit_code": {code}'
            os.write(1, f'{{"error": {{{failure}}}}}\n'.encode())
    finally:
        os._exit(code)


def ignore() -> None:
    """The answer is given and what is left takes milliseconds: let nothing change the exit code."""
    _install(signal.SIG_IGN)


def _install(handler: Any) -> dict[int, Any]:
    """Set the handler for all signals that are not ignored; the handlers before, by number."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    return before


# Whether this process is the command `tgonnx` or `python -m tgonnx`, rather than a user of the library.
COMMAND = _is_command()
if COMMAND:
    end_at_once()
