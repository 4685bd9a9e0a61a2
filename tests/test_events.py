"""TensorBoard's files, on request: the figures of history.csv, by phase."""

from __future__ import annotations

import csv
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_task import network, samples

import tgonnx as tg

OPTIONS: dict[str, Any] = {"epochs": 4, "batch": 32, "threads": 1, "from_scratch": True, "verify_seconds": 1}


def scalars(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of all events in the files of a folder, which are framed as TensorFlow's records are."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)
            at += length + 16


def test_events_are_those_of_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "run"
    tg.prune(network(), samples(200), criterion="gates", tensorboard=True, run_dir=str(folder), **OPTIONS)
    told = {(tag, step): value for tag, step, value in scalars(folder / "tensorboard")}
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = {
        (f"{row['phase']}/{name}", int(row["step"])): float(row[name])
        for row in rows
        for name in ("loss", "metric", "cost")
        if row[name]
    }
    assert {phase.partition("/")[0] for phase, _ in expected} == {"search", "commit", "fine-tune"}
    assert told.keys() == expected.keys()
    assert all(told[key] == pytest.approx(value, rel=1e-6) for key, value in expected.items())


def test_without_a_folder_or_the_writer_there_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    folder = tmp_path / "run"
    with pytest.raises(tg.InstallationError, match=r"pip install 'tgonnx\[tensorboard\]'"):
        tg.prune(network(), samples(80), tensorboard=True, run_dir=str(folder), **OPTIONS)
    assert not folder.exists()
    monkeypatch.undo()
    pytest.importorskip("tensorboardX")
    with pytest.raises(
        tg.UsageError, match="tensorboard writes into the folder of the run: it needs run_dir"
    ):
        tg.prune(network(), samples(80), tensorboard=True, **OPTIONS)
