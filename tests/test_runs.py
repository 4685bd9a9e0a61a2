"""A run that is stopped and goes on is the run that was never stopped, bit by bit."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_task import network
from test_training import FAST, task_for

from tgonnx.analysis.cost import Target
from tgonnx.analysis.solver import analyze
from tgonnx.errors import UsageError
from tgonnx.loading import load
from tgonnx.selection.mask import Mask
from tgonnx.training import checkpoint, run_folder
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.keeper import Keeper
from tgonnx.training.progress import Journal, Progress
from tgonnx.training.run_folder import RunFolder
from tgonnx.training.search import search
from tgonnx.training.state import Found

STEPS = 30  # of batches of 32 from 360 samples: 11 in an epoch
WHO, HOW = {"threads": 1, "onnxruntime": "1.0"}, {"lr": 0.01, "freeze": []}


class Stop(Exception):
    """In the place of a signal."""


def stops_at(step: int) -> Any:
    def listen(progress: Progress) -> None:
        if progress.step == step:
            raise Stop

    return listen


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def make() -> RunFolder:
        return run_folder.create(tmp_path_factory.mktemp("run") / "r", WHO, HOW)

    return make


def keeper_of(folder: RunFolder, journal: Journal, interval: float = 0.0) -> Keeper:
    keeper = Keeper(folder, journal, interval, better=lambda a, b: a > b)
    keeper.resume()
    return keeper


def told(journal: Journal) -> list[tuple[object, ...]]:
    return [(r.phase, r.step, r.loss, r.metric, r.cost) for r in journal.records]


def searched(journal: Journal, keeper: Keeper | None = None, **changes: Any) -> Found:
    model = network()
    coupling = analyze(load(model))
    how = replace(FAST, **changes)
    return search(coupling, task_for(model), Target(flops=0.5), STEPS, how, journal, keeper=keeper)


@pytest.mark.parametrize("changes", [
    {"engine": "auto"}, {"engine": "portable"}, {"accumulate": 2, "clip": 0.1, "optimizer": "sgd"},
], ids=str)  # fmt: skip
def test_a_search_goes_on_bit_by_bit(changes: dict[str, Any], folder_of: Any) -> None:
    whole, folder = Journal(), folder_of()
    expected = searched(whole, **changes)
    for step in (1, 11, 12, STEPS):  # 11: what is told at the end of an epoch is cut off
        journal = Journal(stops_at(step))
        keeper = keeper_of(folder, journal)
        with pytest.raises(Stop):
            searched(journal, keeper, **changes)
        keeper.keep()
    journal = Journal()
    found = searched(journal, keeper_of(folder, journal), **changes)
    assert np.array_equal(found.scores, expected.scores)
    assert found.cost == expected.cost
    assert found.values.keys() == expected.values.keys()
    assert all(found.values[name].tobytes() == expected.values[name].tobytes() for name in found.values)
    assert told(journal) == told(whole)
    again = searched(Journal(stops_at(1)), keeper_of(folder, Journal()), **changes)  # which trains no more
    assert np.array_equal(again.scores, expected.scores)


@pytest.mark.parametrize("changes", [
    {"optimizer": "sgd", "schedule": "step", "warmup": 0.2},
    {"optimizer": "adam", "accumulate": 3, "clip": 0.05},
    {"engine": "portable", "accumulate": 2, "schedule": "constant"},
], ids=str)  # fmt: skip
def test_every_optimiser_goes_on_bit_by_bit(changes: dict[str, Any], folder_of: Any) -> None:
    model, folder, how = network(), folder_of(), replace(FAST, **changes)
    expected = fine_tune(model, task_for(model), 12, how, Journal())
    folder.keep_found(Found(np.zeros(2), {}, 0.5), Journal())
    for step in (1, 7):
        journal = Journal(stops_at(step))
        keeper = keeper_of(folder, journal)
        with pytest.raises(Stop):
            fine_tune(model, task_for(model), 12, how, journal, keeper=keeper)
        keeper.keep()
    journal = Journal()
    tuned = fine_tune(model, task_for(model), 12, how, journal, keeper=keeper_of(folder, journal))
    assert tuned.SerializeToString() == expected.SerializeToString()


def test_fine_tuning_goes_on_bit_by_bit_and_the_best_is_kept(folder_of: Any) -> None:
    model, whole, folder = network(), Journal(), folder_of()
    expected = fine_tune(model, task_for(model), STEPS, FAST, whole)
    folder.keep_found(Found(np.zeros(2), {}, 0.5), Journal())
    for step in (5, 11, 29):
        journal = Journal(stops_at(step))
        keeper = keeper_of(folder, journal)
        with pytest.raises(Stop):
            fine_tune(model, task_for(model), STEPS, FAST, journal, keeper=keeper)
        keeper.keep()
    journal = Journal()
    tuned = fine_tune(model, task_for(model), STEPS, FAST, journal, keeper=keeper_of(folder, journal))
    assert tuned.SerializeToString() == expected.SerializeToString()
    assert told(journal) == told(whole)
    best = max(journal.records, key=lambda record: record.metric or 0.0)
    kept = checkpoint.names(folder.checkpoints)
    assert f"2-fine-tune-{best.step:08d}" in kept
    assert {"1-search-outcome", "2-fine-tune-00000029", "2-fine-tune-00000030"} <= set(kept)
    assert len(kept) <= 4
    lines = (folder.path / "history.csv").read_text().splitlines()
    assert lines[0] == "phase,epoch,epochs,step,steps,loss,metric,cost"
    assert len(lines) == 1 + len(journal.records)


def test_batches_that_are_skipped_are_those_that_were_seen() -> None:
    task = task_for(network())
    drawn = task.batches(32, 7)
    wanted = [next(drawn).feeds["x"] for _ in range(40)]
    for skip in (0, 1, 10, 11, 12, 25):
        assert np.array_equal(next(task.batches(32, 7, skip)).feeds["x"], wanted[skip])


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(tmp_path: Path) -> None:
    folder, journal = run_folder.create(tmp_path / "r", WHO, HOW), Journal(stops_at(9))
    with pytest.raises(Stop):
        searched(journal, keeper_of(folder, journal))
    names = checkpoint.names(folder.checkpoints)
    assert len(names) == run_folder.LAST
    newest = folder.checkpoints / f"{names[-1]}.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    kept = folder.newest()
    assert kept is not None
    assert kept.state is not None
    assert kept.state.step == 7
    assert any("checksum" in note and "an earlier one is used" in note for note in kept.notes)
    manifest = folder.checkpoints / f"{names[0]}.json"
    manifest.write_text(manifest.read_text().replace('"loss": ', '"loss": 1'))
    with pytest.raises(UsageError, match="checksum"):
        folder.newest()


def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, journal = run_folder.create(tmp_path / "r", WHO, HOW), Journal(stops_at(5))
    with pytest.raises(Stop):
        searched(journal, keeper_of(folder, journal))
    before = {path.name: path.read_bytes() for path in folder.checkpoints.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    journal = Journal()
    searched(journal, keeper_of(folder, journal))
    assert [note for note in journal.notes if "No space left" in note]
    assert all("\n" not in note for note in journal.notes)
    assert {path.name: path.read_bytes() for path in folder.checkpoints.iterdir()} == before


@pytest.mark.parametrize(
    ("who", "how", "wrong"),
    [
        ({"threads": 2}, {}, "threads 1, not 2"),
        ({"onnxruntime": "1.1"}, {}, 'onnxruntime "1.0", not "1.1"'),
        ({}, {"lr": 0.02}, "lr 0.01, not 0.02"),
        ({}, {"freeze": ["a"]}, r'freeze \[\], not \["a"\]'),
    ],
)
def test_another_run_is_refused(who: dict[str, Any], how: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    run_folder.create(tmp_path / "r", WHO, HOW)
    run_folder.reopen(tmp_path / "r", WHO, HOW)
    with pytest.raises(UsageError, match=wrong):
        run_folder.reopen(tmp_path / "r", WHO | who, HOW | how)


def test_folders_that_are_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the folder of a run"):
        run_folder.reopen(tmp_path, WHO, HOW)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"run\.json: damaged"):
        run_folder.reopen(tmp_path, WHO, HOW)
    with pytest.raises(UsageError, match="holds something already"):
        run_folder.create(tmp_path, WHO, HOW)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="no folder for the run"):
        run_folder.create(tmp_path / "file" / "r", WHO, HOW)


def test_a_finished_run_says_so(tmp_path: Path) -> None:
    folder = run_folder.create(tmp_path / "r", WHO, HOW)
    (folder.checkpoints / ".tgonnx-left.tmp").write_text("")
    run_folder.reopen(folder.path, WHO, HOW)
    assert list(folder.checkpoints.iterdir()) == []
    folder.finish(Mask(np.ones(2, bool), (("a", 2),)), Journal())
    with pytest.raises(UsageError, match="is finished"):
        run_folder.reopen(folder.path, WHO, HOW)
    assert json.loads((folder.path / "run.json").read_text())["status"] == "finished"


def test_runs_are_numbered(tmp_path: Path) -> None:
    assert run_folder.next_free("a/net.onnx", tmp_path) == tmp_path / "runs" / "net-1"
    run_folder.create(tmp_path / "runs" / "net-1", WHO, HOW)
    assert run_folder.next_free("b/net.onnx", tmp_path) == tmp_path / "runs" / "net-2"
