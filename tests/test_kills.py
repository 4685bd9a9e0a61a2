"""However a run is ended, what it had learned is kept, and it goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_task import network, samples

import tgonnx

ROOT = Path(tgonnx.__file__).parents[1]
PATIENCE = 120  # seconds until something is taken to have failed
Run = subprocess.Popen[str]
PRUNE = (
    "prune", "m.onnx", "--data", "d.npz", "--epochs", "30", "--batch", "16", "--threads", "1", "-o", "out.onnx",
    "--from-scratch", "--criterion", "gates",
)  # fmt: skip


def filled(folder: Path) -> Path:
    onnx.save(network(), folder / "m.onnx")
    np.savez(folder / "d.npz", **samples(256))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


def begun(folder: Path, arguments: tuple[str, ...]) -> Run:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "tgonnx", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, stdout=pipe, stderr=pipe, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The pruned file of a run that nothing stopped, and that kept nothing."""
    folder = filled(tmp_path_factory.mktemp("whole"))
    ends_well(begun(folder, (*PRUNE, "--no-run-dir")))
    assert not (folder / "runs").exists()
    return (folder / "out.onnx").read_bytes()


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(*arguments: str) -> Run:
        runs.append(begun(folder, arguments))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()
        run.communicate()


def checkpoints(folder: Path, phase: str) -> list[Path]:
    return list(folder.glob(f"runs/*/checkpoints/*-{phase}-0*.json"))


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def reaches(run: Run, phase: str) -> None:
    assert run.stderr is not None
    until(lambda: str(run.stderr and run.stderr.readline()).startswith(phase))


def ends_well(run: Run) -> None:
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, errors


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.long)])
def test_a_run_that_is_killed_at_random_goes_on_bit_by_bit(
    kills: int, expected: bytes, folder: Path, start: Callable[..., Run]
) -> None:
    chance = random.Random(kills)
    often = (*PRUNE, "--checkpoint-seconds", "0.05")
    arguments = often
    for _ in range(kills):
        run = start(*arguments)
        until(lambda run=run: checkpoints(folder, "*") or run.poll() is not None)
        try:
            run.wait(chance.uniform(0, 4))
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate()
        if run.returncode == 0:  # it was over
            break
        arguments = ("prune", "--resume", "runs/m-1")  # the folder has the rest
    else:
        ends_well(start(*arguments))
    assert (folder / "out.onnx").read_bytes() == expected
    assert {path.name for path in (folder / "runs/m-1").iterdir()} == {
        "checkpoints", "history.csv", "mask.json", "pictures", "recipe.toml", "report.html", "report.json", "run.json",
    }  # fmt: skip
    (folder / "out.onnx").unlink()
    again = start("prune", "--resume", "runs/m-1")
    assert again.communicate()[1] == "error: runs/m-1: this run is finished\n"
    assert again.returncode == 2


@pytest.mark.parametrize(
    ("name", "phase"),
    [("SIGINT", "search"), ("SIGINT", "fine-tune"), ("SIGTERM", "fine-tune"), ("SIGHUP", "search")],
)
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(
    name: str, phase: str, expected: bytes, folder: Path, start: Callable[..., Run]
) -> None:
    run = start(*PRUNE)
    reaches(run, phase)
    run.send_signal(number := getattr(signal, name))
    began = time.monotonic()
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 128 + number
    if name != "SIGINT":
        assert time.monotonic() - began < 5
    (line,) = [line for line in errors.splitlines() if not line.startswith(("search", "fine-tune"))]
    assert line.startswith("error: interrupted")
    assert checkpoints(folder, phase)
    has_model = (name, phase) == ("SIGINT", "fine-tune")
    assert ("; the model so far is runs/m-1/model.onnx; " in line) == has_model
    assert (folder / "runs/m-1/model.onnx").exists() == has_model
    if has_model:
        onnx.checker.check_model(folder / "runs/m-1/model.onnx", full_check=True)
    ends_well(start(*shlex.split(line.partition("go on with tgonnx ")[2])))
    assert (folder / "out.onnx").read_bytes() == expected


def test_the_second_signal_ends_at_once(folder: Path, start: Callable[..., Run]) -> None:
    run = start(*PRUNE)
    reaches(run, "fine-tune")
    run.send_signal(signal.SIGINT)
    time.sleep(0.7)
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    run.wait(PATIENCE)
    assert run.returncode == 130
    assert time.monotonic() - began < 0.5
