"""Options from files: `--recipe`, what `init` writes, and a run that goes on by its folder alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_task import network, samples

from tgonnx.cli.app import main
from tgonnx.errors import UsageError
from tgonnx.io import toml

Capture = pytest.CaptureFixture[str]
QUICK = {"epochs": 3, "threads": 1, "from-scratch": True, "verify-seconds": 1}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    np.savez("d.npz", **samples(120))


def write(name: str = "tgonnx.toml", **more: Any) -> str:
    values = {"model": "m.onnx", "data": "d.npz", **QUICK} | {
        key.rstrip("_").replace("_", "-"): v for key, v in more.items()
    }
    Path(name).write_text(toml.as_text(values))
    return name


def resolved(folder: str) -> dict[str, Any]:
    return toml.read(Path(folder) / "recipe.toml")


def test_a_recipe_says_what_the_command_line_does_not(capsys: Capture) -> None:
    write(lr=0.01, freeze=["w4"], out="small.onnx", compensate=False, lambda_=0.5, round_to="auto")
    assert main(["prune", "--recipe", "tgonnx.toml", "--lr", "0.02", "--target", "params=0.8"]) == 0
    assert Path("small.onnx").exists()
    said = resolved("runs/m-1")
    assert (said["lr"], said["lambda"], said["freeze"], said["compensate"]) == (0.02, 0.5, ["w4"], False)
    assert (said["target"], said["epochs"], said["loss"]) == ("params=0.8", 3, "auto")
    assert 'loss = "auto"  # ce\n' in Path("runs/m-1/recipe.toml").read_text()
    assert said["batch"] == 24
    assert said["model"] == str(Path("m.onnx").absolute())


def test_a_run_s_recipe_gives_the_same_model_again() -> None:
    write(target="flops=0.6", seed=3, out="a.onnx")
    assert main(["prune", "--recipe", "tgonnx.toml"]) == 0
    assert main(["prune", "--recipe", "runs/m-1/recipe.toml", "-o", "b.onnx"]) == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    first, second = resolved("runs/m-1"), resolved("runs/m-2")
    assert first.pop("out") != second.pop("out")
    assert first == second


def test_paths_are_seen_from_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(out="small.onnx")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["prune", "--recipe", "../tgonnx.toml", "--no-run-dir"]) == 0
    assert (tmp_path / "small.onnx").exists()


def test_several_values_are_lists_and_tables(capsys: Capture) -> None:
    given = "mean = [0.5, 0.4]\nstd = 2\nfreeze = 'w4'\n[const]\nz = [1, 2]\n"
    Path("tgonnx.toml").write_text(toml.as_text({"model": "m.onnx", "data": "d.npz", **QUICK}) + given)
    assert main(["prune", "--recipe", "tgonnx.toml"]) == 2
    assert "tgonnx.toml: mean means nothing for d.npz, which holds arrays" in capsys.readouterr().err
    Path("tgonnx.toml").write_text('model = "m.onnx"\ndata = "d.npz"\nconst = {z = [1, 2]}\n')
    assert main(["prune", "--recipe", "tgonnx.toml"]) == 2
    assert "'z'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch = 3", "tgonnx.toml: prune has no option 'epoch'; did you mean epochs?"),
        ("gate_lr = 3", "tgonnx.toml: prune has no option 'gate_lr'; did you mean gate-lr?"),
        ("resume = 'runs/m-1'", "tgonnx.toml: resume belongs on the command line"),
        ("[lr]\nsearch = 3", "tgonnx.toml: lr is a table; write lr = VALUE"),
        ("lr = 'fast'", "tgonnx.toml: lr 'fast' is not a number of at least 0"),
        ("optimizer = 'adamax'", "tgonnx.toml: unknown optimizer 'adamax'; there are adam, adamw, sgd"),
        ("lr = ", "tgonnx.toml: is no TOML: "),
        ("target = 'flops=2'", "tgonnx.toml: target 'flops=2': a share is above 0 and at most 1"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, said: str, capsys: Capture) -> None:
    Path("tgonnx.toml").write_text(f"model = 'm.onnx'\n{text}\n")
    assert main(["prune", "--recipe", "tgonnx.toml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1


def test_a_wrong_flag_is_named_as_a_flag_though_there_is_a_file(capsys: Capture) -> None:
    assert main(["prune", "--recipe", write(), "--gate-lr", "fast"]) == 2
    assert capsys.readouterr().err == "error: --gate-lr 'fast' is not a number of at least 0\n"
    assert main(["prune", "--recipe", "none.toml"]) == 2
    assert "none.toml: cannot be read: No such file" in capsys.readouterr().err


def test_init_writes_every_option_with_its_default(capsys: Capture) -> None:
    assert main(["init", "m.onnx", "--data", "d.npz"]) == 0
    assert toml.read("tgonnx.toml") == {"model": "m.onnx", "data": "d.npz"}
    text = Path("tgonnx.toml").read_text()
    assert "# input x float32[N, 2, 6, 6]" in text
    assert "# Learning rate of the gates.\n# gate-lr = 0.02\n" in text
    assert main(["init", "m.onnx"]) == 2  # it is there
    capsys.readouterr()
    all_of_it = re.sub(r"^# ([a-z-]+ = )", r"\1", text, flags=re.MULTILINE)
    Path("all.toml").write_text(all_of_it)
    assert main(["prune", "--help"]) == 0
    flags = set(re.findall(r"^ +(?:-\w, )?--([a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    alone = {"recipe", "resume", "help", "no-run-dir", "json", "quiet", "verbose", "no-color"}
    assert toml.read("all.toml").keys() == (flags - alone) | {"model"}
    rest = ["--epochs", "3", "--threads", "1", "--from-scratch", "--verify-seconds", "1"]
    assert main(["prune", "--recipe", "all.toml", *rest]) == 0
    assert main(["prune", "m.onnx", "--data", "d.npz", *rest]) == 0
    first, second = resolved("runs/m-1"), resolved("runs/m-2")
    del first["out"], second["cache"], first["cache"]
    assert {key: value for key, value in first.items() if key in second} == second


def test_toml_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = {"a": 'quo"te \\ and\nline \x7f', "b": [1, 2.5, True], "c": "äöü 😀", "d": 1e-7, "e": []}
    (tmp_path / "t.toml").write_text(toml.as_text({**values, "none": None}), encoding="utf-8")
    assert toml.read(tmp_path / "t.toml") == values
    (tmp_path / "t.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="no text in UTF-8"):
        toml.read(tmp_path / "t.toml")


def test_a_run_that_was_begun_in_python_wants_its_model(capsys: Capture) -> None:
    Path("runs").mkdir()
    Path("runs/recipe.toml").write_text('target = "flops=0.5"\n')
    Path("runs/run.json").write_text(json.dumps({}))
    assert main(["prune", "--resume", "runs"]) == 2
    assert "MODEL" in capsys.readouterr().err
    assert main(["prune", "--resume", "none"]) == 2
    assert capsys.readouterr().err == "error: none: is not the folder of a run\n"


def test_several_sizes_can_be_had_again() -> None:
    """Each has a rate of its own, which the recipe of the run must leave open."""
    write(sweep="flops=0.8,0.6", out="a.onnx")
    assert main(["prune", "--recipe", "tgonnx.toml", "-q"]) in (0, 7)
    assert main(["prune", "--recipe", "runs/m-1/recipe.toml", "-o", "b.onnx", "-q"]) in (0, 7)
    for size in ("flops80", "flops60"):
        assert Path(f"a.{size}.onnx").read_bytes() == Path(f"b.{size}.onnx").read_bytes()
