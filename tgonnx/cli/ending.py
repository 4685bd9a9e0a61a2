"""How a run of the command ends: with an exit code and, if anything went wrong, with one line."""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import typer

from tgonnx.cli import streams
from tgonnx.cli.terminal import Terminal
from tgonnx.errors import InstallationError, OptionError, TgonnxError, UsageError
from tgonnx.io import interrupts

EXIT_CODES = (
    "Exit codes: 0 done, 1 internal error or verification failed, 2 usage or paths, 3 model rejected, "
    "4 nothing prunable or unsupported, 5 data, 6 training diverged, 7 target not met, 8 environment (a broken "
    "installation, memory, temporary files, stdout closed or full), 129, 130, 143 interrupted (SIGHUP, SIGINT, "
    "SIGTERM)."
)
_INTERRUPTED = 130
# click's UsageError; typer carries a copy of click in some versions and depends on it in others.
_UsageFault: type[Any] = typer.BadParameter.__bases__[0]


def finished(run: Callable[[], object], given: Sequence[str]) -> int:
    """Call `run`, the command with the arguments `given`; report what it raises. Returns the exit code."""
    code: int | None = None
    try:
        with interrupts.raised(), streams.guarded(), warnings.catch_warnings():
            if interrupts.COMMAND and not sys.warnoptions:
                warnings.simplefilter("ignore")  # of libraries, about their own future
            code = _answered(run, given)
    except interrupts.Interrupted as error:  # in the moment before, or after: then the answer is given
        code = _report(Terminal(json="--json" in given), error) if code is None else code
    if interrupts.COMMAND:
        interrupts.ignore()
    return code


def _answered(run: Callable[[], object], given: Sequence[str]) -> int:
    failure: BaseException
    try:
        result = run()
        sys.stdout.flush()
        if result != _INTERRUPTED:
            return result if isinstance(result, int) else 0
        failure = KeyboardInterrupt()  # as typer answers it
    except (interrupts.Interrupted, KeyboardInterrupt, typer.Abort, Exception) as error:
        failure = error
    failure = interrupts.received() or failure  # a library may have taken the signal for a fault of its own
    if isinstance(failure, KeyboardInterrupt | typer.Abort):
        failure = interrupts.Interrupted(signal.SIGINT)
    traced = "-vv" in given or given.count("-v") + given.count("--verbose") > 1
    if traced and not isinstance(failure, interrupts.Interrupted):
        traceback.print_exception(failure)
    return _report(Terminal(json="--json" in given), failure)


def _report(terminal: Terminal, error: BaseException) -> int:
    if isinstance(error, OptionError):
        code, message = error.exit_code, error.on_command_line()
    elif isinstance(error, TgonnxError | interrupts.Interrupted):
        code, message = error.exit_code, str(error)
    elif isinstance(error, _UsageFault):
        code, message = UsageError.exit_code, error.format_message()
    elif isinstance(error, MemoryError):
        code, message = InstallationError.exit_code, f"not enough memory: {error}".removesuffix(": ")
    elif isinstance(error, ImportError):
        code = InstallationError.exit_code
        message = f"a package is missing or broken: {error}; `tgonnx doctor` may tell how to fix it"
    else:
        code, message = 1, f"internal error: {type(error).__name__}: {error} (-vv shows where)"
    terminal.error(message, type(error).__name__, code)
    return code
