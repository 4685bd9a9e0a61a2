"""Broken data sets through `tgonnx prune`: one clear line, exit code 5, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_bad_input import refused
from tests.test_loading import mlp

Arrays = dict[str, Any]


def good() -> Arrays:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((40, 8)).astype(np.float32), "label": rng.integers(0, 4, 40)}


def data(**changes: Any) -> Callable[[Path], None]:
    """Write the good data with some arrays changed, or left out if None."""

    def write(path: Path) -> None:
        np.savez(path, **{name: array for name, array in (good() | changes).items() if array is not None})

    return write


def content(text: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(text) and None


def spoiled(value: float) -> np.ndarray:
    x = good()["x"]
    x[7, 3] = value
    return x


# case: what writes d.npz, further arguments, what the line says
CASES: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "empty file": (content(b""), [], "d.npz"),
    "not an npz": (content(b"hello, world"), [], "d.npz"),
    "no samples": (data(x=np.zeros((0, 8), np.float32), label=np.zeros(0, np.int64)), [], "no samples"),
    "no input array": (data(x=None), [], "x"),
    "another name": (data(x=None, y=good()["x"]), [], "x"),
    "wrong width": (data(x=np.zeros((40, 9), np.float32)), [], "x"),
    "wrong rank": (data(x=np.zeros((40, 8, 1), np.float32)), [], "x"),
    "text instead of numbers": (data(x=np.full((40, 8), "a")), [], "x"),
    "NaN": (data(x=spoiled(np.nan)), [], "NaN"),
    "infinity": (data(x=spoiled(np.inf)), [], "x"),
    "label too large": (data(label=np.full(40, 4)), [], "label"),
    "label below 0": (data(label=np.full(40, -1)), [], "label"),
    "fewer labels": (data(label=np.zeros(39, np.int64)), [], "label"),
    "no labels for ce": (data(label=None), ["--loss", "ce"], "label"),
    "targets of the wrong shape": (
        data(label=None, target=np.zeros((40, 5), np.float32)),
        ["--loss", "mse"],
        "target",
    ),
    "NaN in targets": (
        data(label=None, target=np.full((40, 4), np.nan, np.float32)),
        ["--loss", "mse"],
        "target",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken_data_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, extra, part = CASES[case]
    model = tmp_path / "m.onnx"
    model.write_bytes(mlp().SerializeToString())
    write(tmp_path / "d.npz")
    before = sorted(os.listdir(tmp_path))
    refused(["prune", str(model), "-d", str(tmp_path / "d.npz"), *extra], 5, part, capsys)
    assert sorted(os.listdir(tmp_path)) == before


# case: arguments after the model, exit code, what the line says
USES: dict[str, tuple[list[str], int, str]] = {
    "no such data": (["-d", "none.npz"], 2, "none.npz"),
    "output in a missing folder": (["-o", "missing/out.onnx"], 2, "missing"),
    "output is the model": (["-o", "m.onnx", "--overwrite"], 2, "m.onnx"),
    "output exists": (["-o", "taken.onnx"], 2, "taken.onnx"),
    "report exists": (["--report", "taken.onnx"], 2, "taken.onnx"),
    "no such loss": (["--loss", "huber"], 2, "huber"),
    "lambda is a word": (["--lambda", "large"], 2, "large"),
    "negative lambda": (["--lambda", "-1"], 2, "-1"),
    "epochs 0": (["--epochs", "0"], 2, "epochs"),
    "freeze matches nothing": (["--freeze", "zz*"], 2, "zz*"),
}


@pytest.mark.parametrize("case", USES)
def test_wrong_use_is_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, code, part = USES[case]
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(mlp().SerializeToString())
    Path("taken.onnx").write_text("mine")
    refused(["prune", "m.onnx", *arguments], code, part, capsys)
    assert sorted(os.listdir()) == ["m.onnx", "taken.onnx"]
    assert Path("taken.onnx").read_text() == "mine"


def test_a_target_that_cannot_be_met_is_flagged_and_the_best_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    model.write_bytes(mlp().SerializeToString())
    code = main_prune(model, out, "--target", "flops=0.001")
    assert code == 7
    assert "not met" in capsys.readouterr().err
    assert out.exists()


def main_prune(model: Path, out: Path, *arguments: str) -> int:
    from tgonnx.cli.app import main

    return main(["prune", str(model), "-o", str(out), "--no-run-dir", *arguments])
