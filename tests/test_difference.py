"""What was lost, layer by layer: the shapes of both files, whoever cut and named them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_task import network

import tgonnx as tg
from tgonnx.cli.app import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def cut() -> onnx.ModelProto:
    return tg.apply(network(), tg.select(tg.analyze(network()), 0.5, criterion="random", seed=3))


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network as an exporter writes that counts names up, and folds nothing."""
    names = {t.name: f"onnx::Any_{500 + place}" for place, t in enumerate(model.graph.initializer)}
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        tensor.name = names[tensor.name]
    for node in other.graph.node:
        node.name = ""
        node.input[:] = [names.get(name, name) for name in node.input]
    return other


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


@pytest.mark.parametrize("rename", [False, True])
def test_every_weight_is_shown_with_both_of_its_shapes(cut: onnx.ModelProto, rename: bool) -> None:
    found = tg.diff(network(), renamed(cut) if rename else cut)
    before, after = shapes(network()), shapes(cut)
    told = {weight.name: weight for layer in found.layers for weight in layer.weights}
    assert told.keys() == before.keys()
    assert {name: weight.before for name, weight in told.items()} == before
    assert {name: weight.after for name, weight in told.items()} == after
    assert before != after
    assert (found.before.params, found.after.params) == tuple(
        sum(map(math.prod, each.values())) for each in (before, after)
    )
    assert sum(layer.params[1] for layer in found.layers) == found.after.params
    assert math.isclose(sum(layer.flops[1] for layer in found.layers), found.after.flops)


def test_channels_are_told_by_axis(cut: onnx.ModelProto) -> None:
    weights = {w.name: w for layer in tg.diff(network(), cut).layers for w in layer.weights}
    for weight in weights.values():
        assert weight.before is not None
        assert weight.after is not None
        pairs = enumerate(zip(weight.before, weight.after, strict=True))
        assert weight.channels == tuple((axis, a, b) for axis, (a, b) in pairs if a != b)
    assert weights["w2"].channels
    assert weights["b4"].channels == ()


def test_a_model_does_not_differ_from_itself() -> None:
    found = tg.diff(network(), renamed(network()))
    assert not any(layer.changed for layer in found.layers)
    assert f"0 of {len(found.layers)} layers changed" in repr(found)


def test_layers_that_are_gone_or_new_are_told(cut: onnx.ModelProto) -> None:
    longer = network()
    longer.graph.node[-1].CopyFrom(onnx.helper.make_node("Mul", ["s", "more"], ["y"]))
    longer.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "more"))
    gone, new = tg.diff(longer, network()), tg.diff(network(), longer)
    assert [(w.name, w.after) for layer in gone.layers for w in layer.weights if w.changed] == [
        ("more", None)
    ]
    assert [(w.other, w.before) for layer in new.layers for w in layer.weights if w.changed] == [
        ("more", None)
    ]
    assert new.layers[-1].name == "more"


def test_the_command_shows_the_table_and_the_same_as_json(
    cut: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "a.onnx")
    onnx.save(cut, "b.onnx")
    assert main(["diff", "a.onnx", "b.onnx"]) == 0
    text = capsys.readouterr().out
    old, new = ("x".join(map(str, shapes(model)["w2"])) for model in (network(), cut))
    line = next(line.split() for line in text.splitlines() if line.startswith("w2"))
    assert line[:3] == ["w2", old, new]
    assert "scale" not in text
    assert main(["diff", "a.onnx", "b.onnx", "-v"]) == 0
    assert "scale" in capsys.readouterr().out
    assert main(["diff", "a.onnx", "b.onnx", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["after"]["params"] == sum(map(math.prod, shapes(cut).values()))
    layer = next(layer for layer in data["layers"] if layer["name"] == "w2")
    assert tuple(layer["weights"][0]["after"]) == shapes(cut)["w2"]
    assert main(["diff", "a.onnx", "nothing.onnx"]) == 2
