"""The command line in-process: results on stdout, progress and errors on stderr, exit codes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import onnx
import pytest

from tests.test_loading import mlp
from tgonnx.cli import looking
from tgonnx.cli.app import main
from tgonnx.errors import DivergedError, UsageError
from tgonnx.loading import read
from tgonnx.selection.mask import Mask

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(mlp(), path)
    return path


def test_help_is_understood_without_arguments(capsys: Capture) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "Make an ONNX model smaller and faster" in shown
    for name in ("inspect", "mask", "gate", "apply", "verify", "bench", "doctor"):
        assert name in shown
        assert main([name, "--help"]) == 0
        options = capsys.readouterr().out
        assert all(option in options for option in ("--json", "--quiet", "--verbose", "--no-color"))


def test_inspect_shows_layers_groups_and_reasons(model: Path, capsys: Capture) -> None:
    assert main(["inspect", str(model), "--groups"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for part in ("64 units in 1 groups", "w1[1]", "w2[0]", "an axis of a model input", "x float32[N, 8]"):
        assert part in shown.out


def test_inspect_says_why_a_weight_stays(model: Path, capsys: Capture) -> None:
    assert main(["inspect", str(model), "--why", "*", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["why"]
    assert found
    assert all(entry["way"][0] == f"{entry['value']}[{entry['axis']}]" for entry in found)
    assert main(["inspect", str(model), "--why", "nothing"]) == 2


def test_inspect_as_json(model: Path, capsys: Capture) -> None:
    assert main(["inspect", str(model), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["cost"] == {"flops": 2 * (8 * 64 + 64 * 4), "params": 8 * 64 + 64 * 4, "channels": 64}
    assert sum(layer["params"] for layer in data["layers"]) == data["cost"]["params"]
    assert data["groups"][0]["units"] == 64
    assert all(pin["reason"] for pin in data["pinned"])


def test_mask_gate_apply_verify_bench(model: Path, tmp_path: Path, capsys: Capture) -> None:
    mask, gated, pruned = (str(tmp_path / name) for name in ("mask.json", "gated.onnx", "pruned.onnx"))
    assert main(["mask", str(model), "-o", mask, "--target", "params=0.5", "--round-to", "8"]) == 0
    assert main(["gate", str(model), "--mask", mask, "-o", gated]) == 0
    capsys.readouterr()
    assert main(["apply", str(model), "--mask", mask, "-o", pruned, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["left"]["params"] == 0.5
    assert [tensor.dims[0] for tensor in read(pruned).graph.initializer] == [8, 32]
    assert main(["verify", gated, pruned]) == 0
    assert main(["bench", str(model), pruned, "--repeats", "3", "--threads", "1"]) == 0
    assert "pruned.onnx" in capsys.readouterr().out
    words = ["bench", str(model), pruned, "--train", "--repeats", "5", "--threads", "1"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["batch"] == 32
    assert [step["runs"] for step in told["step_ms"]] == [5, 5]
    assert told["step_ms"][0]["share"] == 1
    assert main([*words, "--engine", "portable", "--batch", "8"]) == 0
    assert "Training steps of 8 samples" in capsys.readouterr().out
    assert main([*words, "--by-operator"]) == 2


def test_a_gated_model_without_mask_is_the_model(model: Path, tmp_path: Path) -> None:
    gated = str(tmp_path / "gated.onnx")
    assert main(["gate", str(model), "-o", gated]) == 0
    assert main(["verify", str(model), gated]) == 0


def test_verify_says_what_differs(model: Path, tmp_path: Path, capsys: Capture) -> None:
    mask, pruned = str(tmp_path / "mask.json"), str(tmp_path / "pruned.onnx")
    main(["mask", str(model), "-o", mask])
    main(["apply", str(model), "--mask", mask, "-o", pruned])
    capsys.readouterr()
    assert main(["verify", str(model), pruned, "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["ok"] is False
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1


def test_quiet_is_silent(model: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["mask", str(model), "-o", str(tmp_path / "mask.json"), "-q"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_doctor(capsys: Capture) -> None:
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["importable"]
    assert main(["doctor", "--no-color"]) == 0
    assert "engine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (KeyboardInterrupt(), 130),
        (DivergedError("loss is NaN"), 6),
        (ImportError("gone"), 8),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_every_failure_is_one_line_and_a_code(
    failure: BaseException, code: int, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(looking, "analyzed", fail)
    assert main(["inspect", str(model), "--json"]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert json.loads(shown.out)["error"]["exit_code"] == code
    assert main(["inspect", str(model), "-vv"]) == code
    assert ("Traceback" in capsys.readouterr().err) == (code != 130)


def test_nothing_is_written_over(model: Path, tmp_path: Path, capsys: Capture) -> None:
    before = model.read_bytes()
    assert main(["gate", str(model), "-o", str(model), "--overwrite"]) == 2
    assert "never overwritten" in capsys.readouterr().err
    (tmp_path / "there.onnx").write_bytes(b"precious")
    assert main(["gate", str(model), "-o", str(tmp_path / "there.onnx")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert model.read_bytes() == before
    assert (tmp_path / "there.onnx").read_bytes() == b"precious"


def followed_by(node: onnx.NodeProto, path: Path) -> str:
    """The model with another node behind it, from z to y."""
    model = mlp()
    model.graph.node[2].output[0] = "z"
    model.graph.node.append(node)
    if node.domain:
        model.opset_import.append(onnx.helper.make_opsetid(node.domain, 1))
    onnx.save(model, path)
    return str(path)


def test_a_model_that_ends_in_an_unknown_operator_is_verified_up_to_there(
    tmp_path: Path, capsys: Capture
) -> None:
    node = onnx.helper.make_node("Magic", ["z"], ["y"], domain="my.ops")
    source = followed_by(node, tmp_path / "m.onnx")
    mask, out, other = (str(tmp_path / name) for name in ("mask.json", "out.onnx", "other.onnx"))
    assert main(["mask", source, "-o", mask, "-q"]) == 0
    assert main(["apply", source, "--mask", mask, "-o", out]) == 0
    shown = capsys.readouterr()
    assert "verified up to the inputs of Magic (my.ops)" in shown.err
    assert "wrote" in shown.out
    assert main(["verify", source, out]) == 1
    assert "output 'z': differs" in capsys.readouterr().err
    assert main(["gate", source, "--mask", mask, "-o", other]) == 0
    assert main(["verify", other, out]) == 0


@pytest.mark.parametrize("mishap", ["output appears", "folder is gone"])
def test_a_result_survives_what_happens_during_the_run(
    mishap: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The input is gone, too: nothing that a run needs is read again."""
    prune_module = importlib.import_module("tgonnx.pipeline")
    run, folder = prune_module.prune, tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)

    def eventful(*arguments: object, **options: object) -> object:
        result = run(*arguments, **options)
        model.unlink()
        if mishap == "output appears":
            (folder / "small.onnx").write_bytes(b"precious")
        else:
            folder.rmdir()
        return result

    monkeypatch.setattr(prune_module, "prune", eventful)
    assert main(["prune", str(model), "-o", str(folder / "small.onnx"), "--json"]) == 2
    shown = capsys.readouterr()
    out = Path(json.loads(shown.out)["out"])
    assert out == Path(folder if mishap == "output appears" else tmp_path, "small-1.onnx")
    assert sum(tensor.dims[0] for tensor in read(out).graph.initializer) < 8 + 64
    assert shown.err.count("error: ") == 1
    assert str(out) in shown.err
    if mishap == "output appears":
        assert (folder / "small.onnx").read_bytes() == b"precious"


def test_a_mask_is_written_like_a_model(model: Path, tmp_path: Path, capsys: Capture) -> None:
    mask = tmp_path / "mask.json"
    assert main(["mask", str(model), "-o", str(mask)]) == 0
    before = mask.read_bytes()
    chosen = Mask.load(mask)
    with pytest.raises(UsageError, match="exists already"):
        chosen.save(mask)
    with pytest.raises(UsageError, match=r"folder .* does not exist"):
        chosen.save(tmp_path / "none" / "mask.json")
    assert main(["mask", str(model), "-o", str(mask), "--target", "params=0.2", "--overwrite"]) == 0
    assert mask.read_bytes() != before
    chosen.save(mask, overwrite=True)
    assert mask.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "mask.json"]


def test_what_cannot_be_verified_is_written_if_asked_for_and_marked(tmp_path: Path, capsys: Capture) -> None:
    source = followed_by(onnx.helper.make_node("Sub", ["z", "z"], ["y"]), tmp_path / "m.onnx")
    out = str(tmp_path / "out.onnx")
    assert main(["gate", source, "-o", out]) == 1
    shown = capsys.readouterr()
    assert "verification is inconclusive: output 'y' of the original is 0 on all inputs tried" in shown.err
    assert "--unverified" in shown.err
    assert shown.err.count("\n") == 1
    assert not Path(out).exists()
    assert main(["gate", source, "-o", out, "--unverified"]) == 0
    assert "not verified" in capsys.readouterr().err
    assert [entry.key for entry in onnx.load(out).metadata_props] == ["tgonnx.unverified"]
