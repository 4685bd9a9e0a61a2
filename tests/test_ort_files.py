"""Models that are written in onnxruntime's own format, and what pruned files say of where they come from."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from small_task import network, samples

import tgonnx as tg
from tgonnx.cli import main
from tgonnx.io.stamp import MASK, ORIGINAL, STAMPS, TARGET, VERSION
from tgonnx.runtime import ort_format
from tgonnx.training.origin import as_text

FAST = ["--epochs", "1", "--threads", "1", "--no-run-dir", "--force", "--verify-seconds", "1", "-q"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    np.savez("d.npz", **samples())
    tg.select("m.onnx", "params=0.5", "l2").save("k.json")
    return tmp_path


def said(path: str | Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def outputs(path: str, count: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": samples(count)["x"]})[0]


@pytest.mark.parametrize(
    "words",
    [
        ["apply", "m.onnx", "--mask", "k.json"],
        ["gate", "m.onnx", "--mask", "k.json"],
        ["prune", "m.onnx", "--mask", "k.json", "--no-compensate", "-q"],
    ],
    ids=lambda words: words[0],
)
def test_the_ending_asks_for_the_format(words: list[str], here: Path) -> None:
    for name in ("a.onnx", "a.ort"):
        assert main([*words, "-o", name]) == 0
    assert Path("a.ort").read_bytes()[4:8] == b"ORTM"
    for count in (1, 5):
        np.testing.assert_allclose(outputs("a.ort", count), outputs("a.onnx", count), atol=1e-5)


def test_python_writes_it_too_and_a_sweep_does(here: Path) -> None:
    tg.save(tg.apply("m.onnx", "k.json"), "a.ort")
    assert outputs("a.ort", 2).shape == (2, 3)
    result = tg.prune("m.onnx", target="params=0.5")
    result.save("b.ort")
    with pytest.raises(tg.UsageError, match="exists already"):
        result.save("b.ort")
    words = ["prune", "m.onnx", "--data", "d.npz", "--sweep", "params=0.7,0.5", "-o", "s.ort", *FAST]
    assert main(words) == 0
    assert sorted(path.name for path in here.glob("s*")) == ["s.params50.ort", "s.params70.ort"]


def test_an_ort_file_is_written_by_what_converts(here: Path) -> None:
    from tgonnx.io.save import save

    with pytest.raises(tg.UsageError, match=r"no ONNX file by its name"):
        save(network(), "m.ort")
    tg.save(network(), "m.ort")
    with pytest.raises(tg.ModelError, match=r"the original \.onnx file is needed"):
        tg.load("m.ort")


def test_what_onnxruntime_does_not_convert_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network()
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Thing", "my.own"
    model.opset_import.add(domain="my.own", version=1)
    with pytest.raises(tg.UnsupportedError, match=r"x\.ort: not written: .*my\.own.*write \.onnx"):
        tg.save(model, "x.ort")
    assert not Path("x.ort").exists()


def test_a_file_that_differs_is_not_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_format, "ask", lambda work, *given: "output 'y': off by one")
    with pytest.raises(tg.VerificationError, match=r"x\.ort: not written.*off by one"):
        tg.save(network(), "x.ort")
    assert not Path("x.ort").exists()


def test_the_check_tells_another_model(here: Path) -> None:
    other = network()
    bias = next(tensor for tensor in other.graph.initializer if tensor.name == "b4")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.ones(3, np.float32), "b4"))
    ours, theirs = (ort_format.session_of(ort_format.native_session(m, 1)) for m in (network(), other))
    assert ort_format._difference(network(), ours, ours, 2) == ""
    assert "output 'y'" in ort_format._difference(network(), ours, theirs, 2)


# --- where a file comes from ------------------------------------------------------------------------


def test_a_pruned_file_says_what_cut_it(here: Path) -> None:
    model = network()
    model.metadata_props.add(key="author", value="me")
    onnx.save(model, "m.onnx")
    assert main(["prune", "m.onnx", "--target", "params=0.5", "-o", "p.onnx", "-q"]) == 0
    told = said("p.onnx")
    assert list(told) == ["author", *STAMPS]
    assert told["author"] == "me"
    assert told[TARGET] == "params=0.5"
    assert told[ORIGINAL] == hashlib.sha256(Path("m.onnx").read_bytes()).hexdigest()
    assert told[VERSION] == metadata.version("tgonnx")


def test_the_mask_is_hashed_as_the_file_has_it(here: Path) -> None:
    assert main(["apply", "m.onnx", "--mask", "k.json", "-o", "a.onnx", "-q"]) == 0
    kept = json.loads(Path("k.json").read_text())["initializers"]
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    told = said("a.onnx")
    assert told[MASK] == hashlib.sha256(text.encode()).hexdigest()
    assert TARGET not in told  # the mask was given
    assert {e.key: e.value for e in tg.apply("m.onnx", "k.json").metadata_props} == told


def test_nothing_is_said_where_nothing_was_cut_and_another_cut_says_it_anew(here: Path) -> None:
    assert main(["prune", "m.onnx", "--lossless", "-o", "same.onnx", "-q"]) in (0, 4)
    if Path("same.onnx").exists():
        assert not said("same.onnx")
    coupling = tg.analyze("m.onnx")
    assert not tg.apply(coupling, tg.Mask.all_open(coupling)).metadata_props
    assert main(["prune", "m.onnx", "--target", "params=0.6", "-o", "p.onnx", "-q"]) == 0
    assert main(["prune", "p.onnx", "--target", "params=0.5", "-o", "pp.onnx", "-q"]) == 0
    first, second = said("p.onnx"), said("pp.onnx")
    assert list(second) == list(STAMPS)
    assert first[TARGET] != second[TARGET]
    assert second[ORIGINAL] == hashlib.sha256(Path("p.onnx").read_bytes()).hexdigest()
    assert main(["tune", "p.onnx", "--data", "d.npz", *FAST]) == 0
    assert said("p.tuned.onnx") == first


@pytest.mark.parametrize(("given", "told"), [("flops=60%", "flops=0.6"), ({"size": 0.5}, "size=0.5")])
def test_a_target_has_one_form_however_it_was_written(given: str, told: str) -> None:
    pruned = tg.prune(network(), target=given, compensate=False, verify_seconds=1).model
    assert {entry.key: entry.value for entry in pruned.metadata_props}[TARGET] == told


def test_an_amount_is_told_as_it_was_asked_for() -> None:
    assert as_text(tg.Target(params="1M").as_share(tg.analyze(network()).cost_model)) == "params=1000000"
