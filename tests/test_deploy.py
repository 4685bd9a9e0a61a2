"""docs/deploy.md: every command in it runs, and the files that they make run where they should."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from doc_commands import ROOT, beside, blocks, needs, run, section
from small_task import network, samples

import tgonnx as tg

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    np.savez(folder / "data.npz", **samples(600))
    learned = tg.tune(network(), str(folder / "data.npz"), from_scratch=True, epochs=12, lr=0.01, seed=0)
    onnx.save(learned.model, folder / "model.onnx")
    beside(folder)
    return folder


@pytest.fixture(scope="module")
def deployed(trained: Path) -> Path:
    """The folder after all plain commands of the page."""
    for block in blocks(section("deploy.md")):
        for line in block:
            run(line, trained)
    return trained


def accuracy(path: Path) -> float:
    data = samples(600)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return float((session.run(None, {"x": data["x"]})[0].argmax(1) == data["label"]).mean())


def test_every_command_makes_what_the_page_says(deployed: Path) -> None:
    best = accuracy(deployed / "model.onnx")
    assert best > 0.8
    for name in (
        "pruned.onnx",
        "pruned.ort",
        "int8.onnx",
        "pruned.int8.onnx",
        "small.onnx",
        "build/model.ort",
    ):
        assert accuracy(deployed / name) > best - 0.2, name
    np.testing.assert_allclose(
        accuracy(deployed / "build/model.onnx"), accuracy(deployed / "build/model.ort")
    )
    quantised = onnx.load(deployed / "pruned.int8.onnx").graph
    assert any(node.op_type == "QuantizeLinear" for node in quantised.node)


def test_quantised_models_are_measured_beside_the_others(deployed: Path) -> None:
    names = ["model.onnx", "pruned.onnx", "int8.onnx", "pruned.int8.onnx"]
    found = tg.evaluate([deployed / name for name in names], str(deployed / "data.npz"), repeats=2)
    assert [model.agreement > 0.7 for model in found.models] == [True] * 4
    assert found.models[0].agreement == 1
    assert all(model.metric is not None and model.metric > 0.6 for model in found.models)
    assert all(model.latency.p50 > 0 for model in found.models)


def test_a_broken_budget_fails_the_build(deployed: Path) -> None:
    command = (
        "python examples/ci.py model.onnx data.npz over.onnx --target params=0.5 --max-drop 1 --max-bytes 10"
    )
    run(command, deployed, expected=1)
    run("python examples/ci.py none.onnx data.npz over.onnx", deployed, expected=2)


# --- onnxruntime-web --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(deployed: Path) -> Path:
    """The page with onnxruntime-web installed beside it."""
    needs("node", "npm")
    (block,) = blocks(section("deploy.md"), "web")
    enter, install, compare = block
    assert enter == "cd page"
    assert compare.startswith("node ")
    done = subprocess.run(
        f"{install} --ignore-scripts --fetch-retries 0",
        shell=True, cwd=deployed / "page", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason"]
        pytest.skip(f"npm cannot install onnxruntime-web: {last[0]}")
    return deployed / "page"


def test_node_runs_both_models(page: Path) -> None:
    (block,) = blocks(section("deploy.md"), "web")
    told = json.loads(run(block[-1], page))
    assert told["runs"] == 20
    assert told["agree"] >= 14
    assert told["bytes"] == [(page / name).stat().st_size for name in ("original.onnx", "pruned.onnx")]
    assert all(ms > 0 for ms in told["ms"])
    shutil.copy(page.parent / "pruned.ort", page / "pruned.ort")
    assert json.loads(run("node node.mjs original.onnx pruned.ort samples.json", page))["agree"] >= 14


def test_the_page_shows_both_models(page: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    told: list[list[str]] = []
    answered = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            answered.set()

        def log_message(self, *words: object) -> None: ...

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(page))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/index.html?samples=samples.json&tell=/told"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-port=0",
        ]
        child = subprocess.Popen(
            [browser, *options, f"--user-data-dir={tmp_path}", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert answered.wait(90), "the page has told nothing"
        finally:
            child.terminate()
            child.wait(20)
            server.shutdown()
    first, second, *_, status = told[0]
    assert first.endswith(" ms")
    assert second.endswith(" ms")
    assert status.startswith("the same answer for ")
    assert int(status.split()[4]) >= 14


def test_the_page_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text()
    assert "examples/web/" in text
    assert {path.name for path in (ROOT / "examples" / "web").iterdir() if path.is_file()} == {
        "compare.mjs", "index.html", "node.mjs", "package.json", "samples.py",
    }  # fmt: skip
