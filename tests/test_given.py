"""What stays is given: `prune --mask` cuts that and trains on, `tune` cuts nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from small_task import network, samples

import tgonnx as tg
from tgonnx.cli.app import main
from tgonnx.io import toml

Capture = pytest.CaptureFixture[str]
QUICK: dict[str, Any] = {
    "epochs": 6,
    "batch": 32,
    "lr": 0.01,
    "threads": 1,
    "from_scratch": True,
    "verify_seconds": 1,
}
FLAGS = [
    part
    for name, value in QUICK.items()
    if name != "from_scratch"
    for part in (f"--{name.replace('_', '-')}", str(value))
]
FLAGS += ["--from-scratch"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    np.savez("d.npz", **samples(400))


def chosen() -> tg.Mask:
    return tg.select(tg.analyze(network()), 0.6, criterion="random", seed=4)


def test_a_mask_is_committed_and_trained_on() -> None:
    mask = chosen()
    result = tg.prune(network(), samples(400), mask=mask, **QUICK)
    assert np.array_equal(result.mask.open, mask.open)
    assert {record.phase for record in result.history} == {"commit", "fine-tune"}
    shapes = [list(tensor.dims) for tensor in tg.apply(network(), mask).graph.initializer]
    assert [list(tensor.dims) for tensor in result.model.graph.initializer] == shapes
    assert result.target_met
    assert result.before.metric is not None
    assert result.after.metric is not None
    assert result.after.metric > result.before.metric + 0.3


def test_without_data_a_mask_is_cut_and_made_up_for() -> None:
    mask = chosen()
    result = tg.prune(network(), mask=mask, verify_seconds=1)
    assert np.array_equal(result.mask.open, mask.open)
    assert any("the choice was given" in note for note in result.notes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("criterion", "l2"), ("gate_lr", 0.1), ("max_drop", 1), ("round_to", 4), ("freeze", "w1")],
)
def test_what_is_for_choosing_does_not_go_with_a_mask(name: str, value: Any) -> None:
    with pytest.raises(tg.UsageError, match=f"{name} is for choosing what stays, which is given"):
        tg.prune(network(), samples(40), mask=chosen(), **{name: value})


def test_a_mask_must_be_of_the_model(project: None) -> None:
    with pytest.raises(tg.UsageError, match="a target does not go with it"):
        tg.prune(network(), samples(40), 0.5, mask=chosen())
    with pytest.raises(tg.UsageError, match="nor a mask go with it"):
        tg.sweep(network(), samples(40), [0.5], mask=chosen())
    chosen().save("k.json")
    smaller = tg.apply(network(), chosen())
    with pytest.raises(tg.UsageError, match=r"k\.json: the mask belongs to another model"):
        tg.prune(smaller, samples(40), mask="k.json")


def test_tune_trains_and_cuts_nothing() -> None:
    result = tg.tune(network(), samples(400), **QUICK)
    before, after = network(), result.model
    assert [t.dims for t in after.graph.initializer] == [t.dims for t in before.graph.initializer]
    assert result.mask.open.all()
    assert result.before.metric is not None
    assert result.after.metric is not None
    assert result.after.metric > result.before.metric + 0.3
    with pytest.raises(tg.UsageError, match="tune has no option 'roundto'"):
        tg.tune(network(), samples(40), roundto=3)
    with pytest.raises(tg.UsageError, match="criterion is for choosing"):
        tg.tune(network(), samples(40), criterion="l2")


def test_what_has_nothing_to_prune_can_be_tuned() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 4] x) => (float[N, 2] y) { y = MatMul(x, w) }'
    )
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(4, 2)).astype(np.float32), "w"))
    x = rng.normal(size=(300, 4)).astype(np.float32)
    target = x @ rng.normal(size=(4, 2)).astype(np.float32)
    result = tg.tune(model, {"x": x, "target": target}, **QUICK | {"lr": 0.1, "epochs": 20})
    assert result.after.metric is not None
    assert result.before.metric is not None
    assert result.after.metric < result.before.metric / 100


def test_tuning_never_makes_it_worse() -> None:
    good = tg.tune(network(), samples(400), **QUICK).model
    again = tg.tune(
        good, samples(400), **QUICK | {"lr": 0.3, "epochs": 1, "from_scratch": False, "force": True}
    )
    for a, b in zip(good.graph.initializer, again.model.graph.initializer, strict=True):
        if a.name in ("w1", "w2", "w3"):
            np.testing.assert_allclose(numpy_helper.to_array(a), numpy_helper.to_array(b), rtol=1e-6)


def test_the_commands_say_and_keep_what_was_done(project: None, capsys: Capture) -> None:
    chosen().save("k.json")
    assert (
        main(["prune", "m.onnx", "--data", "d.npz", "--mask", "k.json", *FLAGS, "--json", "-o", "k.onnx"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["target_met"]
    assert toml.read("runs/m-1/recipe.toml")["mask"] == str(Path("k.json").absolute())
    assert main(["prune", "--recipe", "runs/m-1/recipe.toml", "-o", "again.onnx", "-q"]) == 0
    assert Path("again.onnx").read_bytes() == Path("k.onnx").read_bytes()
    assert main(["tune", "k.onnx", "--data", "d.npz", *FLAGS, "-q"]) == 0
    assert Path("k.tuned.onnx").exists()
    assert main(["tune", "--recipe", "runs/k-1/recipe.toml", "-o", "t.onnx", "-q"]) == 0
    assert Path("t.onnx").read_bytes() == Path("k.tuned.onnx").read_bytes()
    capsys.readouterr()
    assert main(["prune", "m.onnx", "--mask", "k.json", "--target", "flops=0.3", "-o", "x.onnx"]) == 2
    assert capsys.readouterr().err == "error: --mask says what stays: leave --target out\n"
    assert main(["tune", "m.onnx"]) == 2
    assert main(["tune", "m.onnx", "--data", "d.npz", "-o", "m.tflite"]) == 2
