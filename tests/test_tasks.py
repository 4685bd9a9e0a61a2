"""docs/tasks.md, docs/faq.md, docs/exit_codes.md: what they tell users to do works, and the tables are true."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from doc_commands import PYTHON, ROOT, run, run_all, section
from task_models import TASKS, put

import tgonnx as tg
from tgonnx import errors

TASK_SECTIONS = {
    "A classifier from photographs": "classifier.small.onnx",
    "A detector without labels": "detector.small.onnx detector.tiny.onnx",
    "Segmentation": "segmenter.small.onnx",
    "A token model, by heads": "tokens.small.onnx tokens.narrow.onnx",
    "A recurrent tagger": "tagger.small.onnx",
    "A model with states": "stateful.small.onnx",
    "Choosing a target": "classifier.flops70.onnx classifier.flops40.onnx classifier.least.onnx",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    put(folder)
    learned = tg.tune(
        str(folder / "classifier.onnx"), str(folder / "photographs"), from_scratch=True, epochs=10, lr=0.01
    )
    learned.save(folder / "classifier.onnx", overwrite=True)
    return folder


def quick(line: str) -> str:
    """The command with as little work as it can do."""
    if not line.startswith("tgonnx prune"):
        return line
    train = "" if "--calibrate" in line else " --epochs 1"
    return f"{line}{train} --threads 1 --verify-seconds 1 --no-run-dir"


def parameters(path: Path) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer)


@pytest.mark.parametrize("title", TASK_SECTIONS)
def test_a_task_is_done_as_the_page_says(title: str, desk: Path) -> None:
    assert run_all(section("tasks.md", title), desk, quick)
    for name in TASK_SECTIONS[title].split():
        before, after = parameters(desk / f"{name.split('.')[0]}.onnx"), parameters(desk / name)
        assert after < 0.95 * before, name


def test_the_first_looks(desk: Path) -> None:
    text = section("tasks.md").partition("\n## ")[0]
    assert len(run_all(text, desk)) == 2
    assert (desk / "batch.png").stat().st_size > 100


def test_a_model_keeps_its_states(desk: Path) -> None:
    small = tg.prune(str(desk / "stateful.onnx"), target="params=0.6").model.graph
    assert [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in small.input] == [[0, 8], [0, 6]]


def test_the_python_of_the_page_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    (code,) = PYTHON.findall(section("tasks.md"))
    exec(compile(code, "docs/tasks.md", "exec"), {})
    assert parameters(desk / "bare.onnx") < parameters(desk / "classifier.onnx")
    assert parameters(desk / "classifier.python.onnx") < parameters(desk / "classifier.onnx")


def test_every_task_has_its_section() -> None:
    text = section("tasks.md")
    assert [name for name in TASKS if f"{name}.onnx" not in text] == []
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert set(TASK_SECTIONS) <= set(titles)


# --- questions and answers --------------------------------------------------------------------------


def test_the_commands_of_the_answers_run(desk: Path) -> None:
    assert len(run_all(section("faq.md"), desk, quick)) >= 6


def test_what_cannot_be_pruned_says_why(desk: Path) -> None:
    text = "m (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), desk / "relu.onnx")
    run("tgonnx prune relu.onnx", desk, expected=4)


# --- exit codes -------------------------------------------------------------------------------------


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", section("exit_codes.md"), re.MULTILINE)
    table = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    public = {
        name: kind.exit_code
        for name in tg.__all__
        if isinstance(kind := getattr(tg, name), type) and issubclass(kind, errors.TgonnxError)
    }
    assert table == public


def test_codes_that_signals_end_with_are_in_the_table() -> None:
    from tgonnx.cli.ending import EXIT_CODES

    text = section("exit_codes.md")
    listed = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", text, re.MULTILINE) for code in row.split(",")
    }
    assert listed == {int(code) for code in re.findall(r"\b(\d+)\b", EXIT_CODES)}
    assert (ROOT / "docs" / "exit_codes.md").exists()
