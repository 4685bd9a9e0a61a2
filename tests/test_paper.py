"""The paper's experiments: each script's `--quick` form runs end to end, keeps its rows and goes on from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FASHION = Path("/usr/share/datasets/fashion-mnist")


def run(script: str, out: Path, *options: str) -> str:
    """What a script prints."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "paper" / script),
        "--quick",
        "--out",
        str(out),
        *options,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"paper_{name}.jsonl").read_text().splitlines()]


def goes_on(script: str, out: Path, name: str) -> None:
    """A row that is missing is made again, and no other."""
    file = out / f"paper_{name}.jsonl"
    kept = file.read_text().splitlines()
    file.write_text("\n".join(kept[:-1]) + "\n")
    run(script, out)
    again = file.read_text().splitlines()
    assert again[:-1] == kept[:-1]
    first, last = json.loads(kept[-1]), json.loads(again[-1])
    for timed in ("seconds", "ms"):
        first.pop(timed, None), last.pop(timed, None)
    assert first == last


@pytest.mark.skipif(not FASHION.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_table_1_on_fashion_mnist(tmp_path: Path) -> None:
    printed = run("table1.py", tmp_path)
    found = {row["method"]: row for row in rows(tmp_path, "table1")}
    assert list(found) == ["unpruned", "joint", "frozen", "L2", "sigmoid'", "tanh'"]
    assert found["unpruned"]["left"] == 1.0
    assert all(0.4 < row["left"] <= 0.51 for name, row in found.items() if name != "unpruned")
    assert all(f"| {method} |" in printed for method in found)
    assert found["unpruned"]["before"] > 0.5  # of ten classes, after a short training
    assert {path.name for path in tmp_path.glob("*.svg")} == {"figure4a.svg", "figure5.svg"}
    goes_on("table1.py", tmp_path, "table1")
