"""However a run is ended: one line, a documented code, no child, nothing in the temporary folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_task import network, samples

import tgonnx
from tgonnx.cli import streams
from tgonnx.cli.ending import finished
from tgonnx.io import interrupts

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
ROOT = Path(tgonnx.__file__).parents[1]
PATIENCE = 120  # seconds until something is taken to have failed; nothing is measured
Run = subprocess.Popen[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **samples(256))
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.fixture
def started(folder: Path) -> Iterator[Callable[..., Run]]:
    """Start the command in `folder`; what still runs at the end of the test is killed."""
    runs: list[Run] = []

    def start(*arguments: str) -> Run:
        environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tgonnx", *arguments]
        pipe = subprocess.PIPE
        runs.append(
            subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
        run.communicate()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def catches(run: Run, number: int) -> bool:
    for line in Path(f"/proc/{run.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def relatives(folder: Path) -> list[str]:
    """The processes that have something of `folder` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word.startswith(str(folder)) for word in words):
            found.append(" ".join(words))
    return found


PRUNE = (
    "prune",
    "m.onnx",
    "--data",
    "d.npz",
    "--epochs",
    "500",
    "--threads",
    "1",
    "-o",
    "out.onnx",
    "--from-scratch",
    "--criterion",
    "gates",
)
KEPT_NOWHERE = (*PRUNE, "--no-run-dir")


@pytest.mark.parametrize("moment", ["imports", "rehearsal", "training"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_run(name: str, moment: str, folder: Path, started: Callable[..., Run]) -> None:
    number = getattr(signal, name)
    before = sorted(os.listdir(folder))
    run = started(*KEPT_NOWHERE, *(() if moment == "training" else ("-q",)))
    if moment == "imports":
        until(lambda: catches(run, signal.SIGTERM))
    elif moment == "rehearsal":
        until(lambda: relatives(folder))
    else:
        assert run.stderr is not None
        until(lambda: "search" in str(run.stderr and run.stderr.readline()))
    run.send_signal(number)
    out, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 128 + number
    lines = [line for line in err.splitlines() if line.split()[0] not in ("search", "fine-tune")]
    assert lines == ["error: interrupted" + ("" if name == "SIGINT" else f" by {name}")]
    assert out == ""
    assert relatives(folder) == []
    assert os.listdir(folder / "tmp") == []
    assert sorted(os.listdir(folder)) == before


def test_a_rehearsal_does_not_outlive_a_parent_that_was_killed(
    folder: Path, started: Callable[..., Run]
) -> None:
    run = started(*KEPT_NOWHERE)
    until(lambda: relatives(folder))
    run.kill()
    run.communicate()
    until(lambda: not relatives(folder))
    assert os.listdir(folder / "tmp") == []


def test_an_ignored_signal_stays_ignored(folder: Path, started: Callable[..., Run]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        run = started("inspect", "m.onnx", "-q")
    finally:
        signal.signal(signal.SIGHUP, before)
    until(lambda: catches(run, signal.SIGTERM))
    run.send_signal(signal.SIGHUP)
    assert run.communicate(timeout=PATIENCE) == ("", "")
    assert run.returncode == 0


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "| true"])
@pytest.mark.parametrize("command", ["inspect m.onnx", "mask m.onnx -o k.json --json", "--help"])
def test_results_that_cannot_be_shown(redirection: str, command: str, folder: Path) -> None:
    if "full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    program = f"{sys.executable} -m tgonnx {command}"
    script = f"set -o pipefail; {program} {redirection}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 8
    assert done.stderr.startswith("error: stdout cannot be written: ")
    assert done.stderr.count("\n") == 1
    assert (folder / "k.json").exists() == ("k.json" in command)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_messages_that_cannot_be_shown_change_nothing(redirection: str, folder: Path) -> None:
    program = f"{sys.executable} -m tgonnx"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command, code in (("mask m.onnx -o k.json -v", 0), ("inspect none.onnx", 2)):
        done = subprocess.run(
            ["bash", "-c", f"{program} {command} {redirection}"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert done.stderr == ""
    assert (folder / "k.json").exists()


def test_a_signal_that_a_library_swallowed_comes_again() -> None:
    handler = signal.getsignal(signal.SIGTERM)

    def swallow() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: False)
        except interrupts.Interrupted:
            until(lambda: False)

    with pytest.raises(interrupts.Interrupted), interrupts.raised():
        swallow()
    assert signal.getsignal(signal.SIGTERM) is handler


class _Trap:
    """Where Python prints an exception and drops it."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: False)


def test_a_signal_that_meets_a_destructor_comes_again_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    hook = sys.unraisablehook

    def drop() -> None:
        trap = _Trap()
        del trap
        until(lambda: False)

    start = time.monotonic()
    with pytest.raises(interrupts.Interrupted), interrupts.raised():
        drop()
    assert time.monotonic() - start < interrupts.UNWINDING
    assert capsys.readouterr().err == ""
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_beside_the_answer_is_no_traceback(
    moment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before there is an answer it is told of; after that it changes nothing."""
    handler, guarded = signal.getsignal(signal.SIGTERM), streams.guarded

    @contextmanager
    def struck() -> Iterator[None]:
        if moment == "before":
            os.kill(os.getpid(), signal.SIGTERM)
        with guarded():
            yield
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(streams, "guarded", struck)
    code = finished(lambda: None, [])
    assert code == {"before": 128 + signal.SIGTERM, "after": 0}[moment]
    assert capsys.readouterr().err == {"before": "error: interrupted by SIGTERM\n", "after": ""}[moment]
    assert signal.getsignal(signal.SIGTERM) is handler
