"""Training as it is watched: on a terminal, in 60 columns, without colours, in a notebook."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console
from small_task import network, samples

import tgonnx as tg
from tgonnx.cli.app import main
from tgonnx.cli.live import clock, live
from tgonnx.report.bars import LINES, kept_bars
from tgonnx.training.progress import Progress

ROOT = Path(tg.__file__).parents[1]


def step(phase: Any, epoch: int, number: int, metric: float | None = None) -> Progress:
    return Progress(phase, epoch, 2, number, 4, 0.5, metric, 0.75, 61.0)


def test_a_line_for_each_epoch_stays_and_the_bar_goes() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, no_color=True)
    with live(console, "flops") as listen:
        for message in (
            step("search", 1, 1),
            step("search", 1, 2, 0.25),
            step("search", 2, 3),
            step("search", 2, 4, 0.5),
        ):
            listen(message)
        listen(step("commit", 1, 4))
    lines = re.findall(r"^.*?((?:search|commit) \d/2  loss[^\n\r]*)", stream.getvalue(), re.MULTILINE)
    assert [line.rstrip() for line in lines] == [
        "search 1/2  loss 0.5000  metric 0.2500  flops 75.0%",
        "search 2/2  loss 0.5000  metric 0.5000  flops 75.0%",
        "commit 1/2  loss 0.5000  flops 75.0%",
    ]
    assert "1:01 left" in stream.getvalue()
    assert "\x1b[3" not in stream.getvalue()  # no colour


def test_times_are_told_in_hours_where_there_are_some() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 3601, 90000)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:01",
        "25:00:00",
    ]


@pytest.mark.parametrize("everything", [False, True])
def test_bars_show_what_was_kept(everything: bool) -> None:
    layers = [{"layer": f"layer{n}.weight", "units": 16, "kept": 16 - n % 16} for n in range(40)]
    stream = io.StringIO()
    Console(file=stream, width=60, color_system=None).print(kept_bars(layers, everything))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    shown = [line for line in lines if line.startswith("layer") and "/16" in line]
    assert len(shown) == (40 if everything else LINES)
    lengths = {int(line.split()[-1].partition("/")[0]): line.count("━") for line in shown}
    assert sorted(lengths.values()) == [lengths[kept] for kept in sorted(lengths)]
    assert any("and 16 more" in line for line in lines) is not everything


def on_a_terminal(folder: Path, columns: int, *words: str) -> str:
    leader, follower = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": str(columns),
        "NO_COLOR": "1",
        "TERM": "xterm",
    }
    run = subprocess.Popen(
        [sys.executable, "-m", "tgonnx", *words],
        cwd=folder,
        env=environment,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    parts = []
    try:
        while part := os.read(leader, 65536):
            parts.append(part)
    except OSError:  # the other end is closed
        pass
    assert run.wait(60) == 0
    return b"".join(parts).decode()


def test_a_run_on_a_terminal_of_60_columns(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **samples(120))
    words = ["--epochs", "3", "--threads", "1", "--from-scratch", "--no-run-dir", "--verify-seconds", "1"]
    shown = on_a_terminal(tmp_path, 60, "prune", "m.onnx", "--data", "d.npz", *words)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    table = plain[plain.index("before") :]
    assert max(len(line) for line in table.splitlines() if "note" not in line) <= 60
    assert re.search(r"^w1 +━+.* +\d/8", table, re.MULTILINE)
    assert "fine-tune 3/3  loss" in plain
    assert not re.search(r"\x1b\[[0-9;]*3\dm", shown)  # no colour


def test_what_was_kept_is_in_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    assert main(["prune", "m.onnx", "--json", "--verify-seconds", "1"]) == 0
    kept = json.loads(capsys.readouterr().out)["kept"]
    assert {entry["layer"]: entry["units"] for entry in kept} == {"w1": 8, "w3": 6}
    assert all(1 <= entry["kept"] <= entry["units"] for entry in kept)


def test_help_has_groups_and_examples_and_shells_can_complete(capsys: Any) -> None:
    assert main(["prune", "--help"]) == 0
    shown = capsys.readouterr().out
    headings = re.findall(r"^(\w[\w ]*):$", shown, re.MULTILINE)
    assert headings == [
        "Arguments",
        "Options",
        "Reading the data",
        "Training",
        "What must stay",
        "The run",
        "What is shown",
    ]
    assert "Examples:\n    tgonnx prune model.onnx --data data.npz --target flops=0.5\n" in shown
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        f"\n{panel}:\n" in shown for panel in ("Cutting", "Looking and measuring", "This installation")
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_TGONNX_COMPLETE": "complete_bash",
        "COMP_WORDS": "tgonnx pr",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([sys.executable, "-m", "tgonnx"], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["prune", "profile"]


def test_a_notebook_is_drawn_in_without_a_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, str]] = []

    class Handle:
        def update(self, what: Any) -> None:
            drawn.append(what._repr_mimebundle_())

    def display(what: Any, display_id: bool) -> Handle:
        assert display_id
        drawn.append(what._repr_mimebundle_())
        return Handle()

    shell = type("ZMQInteractiveShell", (), {})()
    notebook, drawing = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    vars(notebook)["get_ipython"] = lambda: shell
    vars(drawing)["display"] = display
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", drawing)
    options: dict[str, Any] = {"epochs": 3, "threads": 1, "from_scratch": True, "verify_seconds": 1}
    result = tg.prune(network(), samples(120), **options)
    assert "<progress value=" in drawn[-1]["text/html"]
    last = result.history[-1]
    assert f"fine-tune {last.epoch}/{last.epochs}" in drawn[-1]["text/plain"]
    assert f"{last.loss:.4f}" in drawn[-1]["text/plain"]
    count, heard = len(drawn), []
    tg.prune(network(), samples(120), progress=heard.append, **options)
    assert len(drawn) == count
    assert heard
