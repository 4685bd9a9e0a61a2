"""A process of our own for what a runtime may not survive.

onnxruntime can end the process it runs in (SIGSEGV, SIGFPE). Work that is handed to the child by `ask` comes back as an
answer, or as `Crash` with what the child was about. The child serves one request after another, so that only the first
waits for imports. Everything travels through its pipes, and the weights of models through a file in memory
(`tgonnx.runtime.shelf`): nothing lies in the temporary folder, and when this process ends, however it ends, the pipe
closes and the child with it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tgonnx.errors import TgonnxError
from tgonnx.io.checker import describe
from tgonnx.io.interrupts import deferred
from tgonnx.runtime import shelf
from tgonnx.runtime.heap import give_back, keep_large_blocks_apart

_START = [sys.executable, "-c", "from tgonnx.runtime.child import serve; serve()"]


KILLED = "SIGKILL"


class Crash(TgonnxError):
    """The child ended while it worked; `stage` is what it was about."""

    def __init__(self, stage: str, how: str) -> None:
        super().__init__(f"{stage}: {how}")
        self.stage, self.how = stage, how

    @property
    def killed(self) -> bool:
        """Whether the system ended it, which it does where memory is short, and not the runtime itself."""
        return KILLED in self.how


Stage = Callable[[str], None]


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    shelf: shelf.Shelf | None

    def end(self) -> None:
        """Kill the child and close its pipes."""
        self.process.kill()
        self.process.wait()
        kept = None if self.shelf is None else self.shelf.file
        for stream in (self.process.stdin, self.process.stdout, self.log, kept):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # what could not be written any more
                    continue


_child: _Child | None = None
_lock = threading.Lock()


def ask(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work(stage, *arguments)` returns or raises, worked out in the child.

    It calls `stage` with what it is about.

    Everything must be picklable, `work` by its name; large initializers of models lie on the shelf there. Raises
    `Crash` if the child does not survive.
    """
    global _child
    with _lock:
        with deferred():  # a signal must find a child that is known, or none
            child = _child if _child is not None and _child.process.poll() is None else _started()
            _child = child
        try:
            kind, value = _exchange(child, (work, arguments))
        except BaseException:  # an interrupt leaves the child in the middle of something
            _child = None
            child.end()
            raise
    if kind == "raise":
        raise value
    return value


def _exchange(child: _Child, request: Any) -> tuple[str, Any]:
    stage = "starting"
    assert child.process.stdin is not None
    assert child.process.stdout is not None
    try:
        shelf.Packer(child.process.stdin, child.shelf).dump(request)
        child.process.stdin.flush()
        give_back()  # what was needed until here only, while the child is busy
        while True:
            kind, value = pickle.load(child.process.stdout)
            if kind != "stage":
                if child.shelf is not None:
                    child.shelf.clear()
                return kind, value
            stage = value
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        raise Crash(stage, _how(child)) from None


def _how(child: _Child) -> str:
    code = child.process.wait()
    if code < 0:
        try:
            return f"the runtime crashed ({signal.Signals(-code).name})"
        except ValueError:
            return f"the runtime crashed (signal {-code})"
    child.log.seek(0)
    lines = child.log.read().decode(errors="replace").strip().splitlines()
    return f"the process ended with code {code}" + (f": {lines[-1][:300]}" if lines else "")


def _started() -> _Child:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, sys.path)])
    log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child; has no name on disk)
    weights = shelf.Shelf.new()
    handles = () if weights is None else (weights.file.fileno(),)
    process = subprocess.Popen(
        [*_START, *map(str, handles)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the parent
        pass_fds=handles,
    )
    return _Child(process, log, weights)


@atexit.register
def close() -> None:
    """End the child, if there is one."""
    global _child
    if _child is not None:
        _child.end()
        _child = None


# --- in the child -----------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until the pipe closes; then end at once, whatever is being worked on."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what runtimes print is no answer
    keep_large_blocks_apart()
    for handle in sys.argv[1:]:
        shelf.open_here(int(handle))
    requests: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    while True:
        work, arguments = requests.get()

        def say(kind: str, value: Any) -> None:
            pickle.dump((kind, value), answers, protocol=5)
            answers.flush()

        try:
            answer = ("done", work(lambda text: say("stage", text), *arguments))
        except TgonnxError as error:
            answer = ("raise", error)
        except Exception as error:
            answer = ("raise", RuntimeError(f"{type(error).__name__}: {describe(error)}"))
        say(*answer)
        del work, arguments, answer, say
        give_back()


def _listen(stream: IO[bytes], requests: queue.Queue[Any]) -> None:
    try:
        while True:
            requests.put(pickle.load(stream))
    except EOFError:
        os._exit(0)
    except Exception:
        traceback.print_exc()
        os._exit(1)
