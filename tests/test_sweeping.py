"""Several models from one search, and the smallest that is good enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_task import network, samples
from test_training import FAST, task_for

import tgonnx as tg
from tgonnx.cli.app import main
from tgonnx.pipeline import sweeping
from tgonnx.pipeline.sweeping import name_of
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.progress import Journal, Progress

HOW: dict[str, Any] = {"epochs": 4, "batch": 32, "lr": 1e-2, "threads": 1, "verify_seconds": 1}
SIZES = ("flops=0.8", "flops=0.4", "flops=60%")


class Stop(Exception):
    """In the place of a signal."""


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    model = network()
    return fine_tune(model, task_for(model), 150, FAST, Journal())


@pytest.mark.parametrize("criterion", ["gates", "obs"])
def test_a_sweep_searches_once(criterion: str, trained: onnx.ModelProto) -> None:
    told: list[Progress] = []
    results = tg.sweep(trained, samples(), SIZES, criterion=criterion, progress=told.append, **HOW)
    assert [result.target.value for result in results] == [0.8, 0.4, 0.6]
    assert all(result.target_met and result.check.ok for result in results)
    assert results[0].achieved > results[2].achieved > results[1].achieved
    searched = [progress.step for progress in told if progress.phase == "search"]
    assert searched == list(range(1, len(searched) + 1))
    assert bool(searched) == (criterion == "gates")
    phases = [[record.phase for record in result.history] for result in results]
    assert phases[0] == phases[1] == phases[2]


@pytest.mark.parametrize("criterion", ["gates", "obs"])
def test_a_sweep_goes_on_bit_by_bit(criterion: str, trained: onnx.ModelProto, tmp_path: Path) -> None:
    how = HOW | {"criterion": criterion, "checkpoint_seconds": 0}
    folder, whole = str(tmp_path / "run"), tg.sweep(trained, samples(), SIZES, **how)
    seen = 0

    def stops(progress: Progress) -> None:
        nonlocal seen
        seen += progress.phase == "fine-tune" and progress.step == 5
        if seen == 2:
            raise Stop

    with pytest.raises(Stop):
        tg.sweep(trained, samples(), SIZES, run_dir=folder, progress=stops, **how)
    with pytest.raises(tg.UsageError, match="was run with target"):
        tg.sweep(trained, samples(), SIZES[:2], resume=folder, **how)
    told: list[Progress] = []
    again = tg.sweep(trained, samples(), SIZES, resume=folder, progress=told.append, **how)
    assert not any(progress.phase == "search" for progress in told)
    assert min(progress.step for progress in told if progress.phase == "fine-tune") == 1  # of the third
    assert [a.model.SerializeToString() for a in again] == [b.model.SerializeToString() for b in whole]


def test_a_sweep_without_data(trained: onnx.ModelProto) -> None:
    results = tg.sweep(trained, targets=["params=0.8", "params=0.5"], verify_seconds=1)
    assert [result.target_met for result in results] == [True, True]


@pytest.mark.parametrize(
    ("targets", "fields", "reason"),
    [
        ((), {}, "one target or more"),
        (("flops=0.5", "params=0.5"), {}, "of one kind"),
        (("flops=0.5", "flops=50%"), {}, "all different"),
        (("flops=0.5",), {"max_drop": 1}, "neither max_drop nor lossless"),
        (("flops=0.5",), {"lossless": True}, "neither max_drop nor lossless"),
    ],
)
def test_sweeps_that_make_no_sense(targets: Any, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(tg.UsageError, match=reason):
        tg.sweep(network(), None, targets, **fields)


def test_a_sweep_of_calibrated_models(trained: onnx.ModelProto) -> None:
    results = tg.sweep(trained, samples(100), SIZES[:2], calibrate=True, threads=1, verify_seconds=1)
    assert [result.target_met for result in results] == [True, True]
    with pytest.raises(tg.UsageError, match="nor max_drop"):
        tg.prune(trained, samples(100), lossless=True, max_drop=1)


def test_files_are_named_after_targets() -> None:
    names = [
        name_of(tg.Target.parse(text)) for text in ("flops=0.7", "params=12.5%", "params=1M", "size=2MB")
    ]
    assert names == ["flops70", "params12.5", "params1M", "size2MB"]


@pytest.fixture
def folder(trained: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(trained, "m.onnx")
    np.savez("d.npz", **samples())
    return tmp_path


def test_a_sweep_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", "m.onnx", "-d", "d.npz", "--epochs", "2", "--threads", "1", "--no-run-dir"]
    assert main([*command, "--sweep", "flops=0.8,0.5"]) == 0
    shown = capsys.readouterr().out
    assert "m.flops80.onnx" in shown
    assert "accuracy (test)" in shown
    for share in (80, 50):
        onnx.checker.check_model(f"m.flops{share}.onnx", full_check=True)
    assert main([*command, "--sweep", "flops=0.8,0.5"]) == 2
    assert "m.flops80.onnx" in capsys.readouterr().err
    assert main([*command, "--sweep", "flops=0.8", "--json", "--overwrite", "--report", "r.json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [row["out"] for row in figures["sweep"]] == ["m.flops80.onnx"]
    assert json.loads(Path("r.json").read_text()) == figures


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--sweep", "0.7,0.5"], "--sweep '0.7,0.5' is not a kind"),
        (["--sweep", "flops=0.7,x"], "'x' is not a number"),
        (["--sweep", "flops=0.7", "--target", "flops=0.6"], "leave --target out"),
        (["--sweep", "flops=0.7,0.7"], "--sweep needs"),
    ],
)
def test_sweeps_that_are_refused(
    arguments: list[str], reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", "m.onnx", "-d", "d.npz", *arguments]) == 2
    assert reason in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["d.npz", "m.onnx"]


def test_the_smallest_within_a_drop(trained: onnx.ModelProto) -> None:
    result = tg.prune(trained, samples(), "flops=0.2", max_drop=5, **HOW)
    (note,) = [note for note in result.notes if note.code == "max-drop"]
    assert "within 5 points of accuracy" in note
    assert result.before.metric is not None
    assert result.after.metric is not None
    assert result.after.metric > result.before.metric - 0.2
    assert 0.2 - 0.1 < result.achieved < 0.9


def test_no_size_is_good_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweeping, "TRIES", 1)
    command = [
        "prune",
        "m.onnx",
        "-d",
        "d.npz",
        "--no-run-dir",
        "-q",
        "--target",
        "flops=0.05",
        "--epochs",
        "1",
    ]
    assert main([*command, "--lr", "0", "--criterion", "random", "--max-drop", "0.5"]) == 7
    assert "no size that was tried stays within 0.5 points of accuracy" in capsys.readouterr().err
    assert not (folder / "m.pruned.onnx").exists()


def test_a_drop_needs_points_and_data(trained: onnx.ModelProto) -> None:
    data = samples(100)
    with pytest.raises(tg.DataError, match="needs data"):
        tg.prune(trained, max_drop=1)
    del data["label"]
    with pytest.raises(tg.DataError, match="not of R2"):
        tg.prune(trained, data, max_drop=1)
