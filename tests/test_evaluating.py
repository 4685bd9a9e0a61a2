"""Models side by side: the figures are those that numpy makes of what onnxruntime says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_task import network, samples

import tgonnx as tg
from tgonnx.cli.app import main
from tgonnx.data.sources import open_dataset
from tgonnx.runtime.sessions import open_session

Capture = pytest.CaptureFixture[str]
QUICK: dict[str, Any] = {"repeats": 2, "threads": 1}


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The weights of convolutions and products in eight bits, as quantisers write them."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in [*other.graph.initializer]:
        if len(tensor.dims) < 2:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        scale = np.float32(np.abs(values).max() / 127)
        stored = (name + "_q", np.round(values / scale).astype(np.int8)), (name + "_s", scale)
        other.graph.initializer.remove(tensor)
        other.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in stored)
        other.graph.node.insert(0, helper.make_node("DequantizeLinear", [n for n, _ in stored], [name]))
    onnx.checker.check_model(other, full_check=True)
    return other


@pytest.fixture(scope="module")
def cut() -> onnx.ModelProto:
    return tg.apply(network(), tg.select(tg.analyze(network()), 0.6, criterion="random", seed=1))


def said(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(model).run({"x": x})["y"]).argmax(1)


def test_accuracy_agreement_and_size_are_those_of_each_model(cut: onnx.ModelProto) -> None:
    data = samples(301)
    models = [network(), cut, quantised(network())]
    found = tg.evaluate(models, data, **QUICK)
    assert (found.metric, found.agreement, found.samples, found.part) == (
        "accuracy",
        "top-1 agreement",
        301,
        "all",
    )
    first = said(models[0], data["x"])
    for model, measured in zip(models, found.models, strict=True):
        own = said(model, data["x"])
        assert measured.metric == pytest.approx((own == data["label"]).mean())
        assert measured.agreement == pytest.approx((own == first).mean())
        assert measured.file_bytes == model.ByteSize()
        assert measured.latency.runs == 2
        assert measured.latency.p50 > 0
    assert found.models[0].agreement == 1 > found.models[1].agreement


def test_samples_of_the_test_part_are_taken_where_there_are_some() -> None:
    train, test = samples(100), samples(40, seed=1)
    data = train | {f"test_{name}": values for name, values in test.items()}
    own = said(network(), test["x"])
    found = tg.evaluate(network(), data, **QUICK)
    assert (found.part, found.samples) == ("test", 40)
    assert found.models[0].metric == pytest.approx((own == test["label"]).mean())
    everything = tg.evaluate(network(), data, part="all", **QUICK)
    assert (everything.part, everything.samples) == ("all, nothing held out", 100)
    held_out = tg.evaluate(network(), train, part="test", **QUICK)
    assert (held_out.part, held_out.samples) == ("held out by prune", 10)
    with pytest.raises(tg.DataError, match="too few samples"):
        tg.evaluate(network(), samples(1), part="test", **QUICK)


def test_without_answers_there_is_agreement_alone(cut: onnx.ModelProto) -> None:
    x = samples(64)["x"]
    found = tg.evaluate([network(), cut], {"x": x}, **QUICK)
    assert (found.metric, found.agreement) == (None, "R2")
    a, b = (np.asarray(open_session(model).run({"x": x})["y"]) for model in (network(), cut))
    assert found.models[0].agreement == pytest.approx(1)
    learned = open_dataset({"x": x}, network()).train.indices  # whose spread is the measure
    expected = 1 - (((a - b) ** 2).mean(0) / a[learned].var(0)).mean()
    assert found.models[1].agreement == pytest.approx(expected, rel=1e-3)


def test_targets_are_held_against_the_model() -> None:
    data = {"x": samples(64)["x"], "target": np.zeros((64, 3), np.float32)}
    found = tg.evaluate([network()], data, metric="mae", **QUICK)
    said_of = np.asarray(open_session(network()).run({"x": data["x"]})["y"])
    assert found.metric == "absolute error"
    assert found.models[0].metric == pytest.approx(np.abs(said_of).mean())
    assert (found.agreement, found.models[0].agreement) == ("R2", pytest.approx(1))


def test_a_fixed_batch_is_filled() -> None:
    data = samples(11)
    fixed = tg.evaluate([network(), network(batch="4")], data, **QUICK)
    assert fixed.models[0].metric == fixed.models[1].metric


def test_what_cannot_be_compared_is_refused() -> None:
    other = network()
    other.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    cast = helper.make_node("Cast", ["x"], ["cast"], to=onnx.TensorProto.FLOAT)
    other.graph.node[0].input[0] = "cast"
    other.graph.node.insert(0, cast)
    with pytest.raises(tg.UsageError, match="model 2: input 'x' is float16, that of model 1 float"):
        tg.evaluate([network(), other], samples(8), **QUICK)
    other = network()
    other.graph.node[-1].output[0] = other.graph.output[0].name = "z"
    with pytest.raises(tg.UsageError, match="model 2: outputs are z, those of model 1 are y"):
        tg.evaluate([network(), other], samples(8), **QUICK)
    with pytest.raises(tg.UsageError, match="no model"):
        tg.evaluate([], samples(8))
    with pytest.raises(tg.UsageError, match="evaluate has no option 'repeat'; did you mean repeats"):
        tg.evaluate(network(), samples(8), repeat=3)
    with pytest.raises(tg.UsageError, match="unknown part 'tests'; there are test, "):
        tg.evaluate(network(), samples(8), part="tests")


def test_the_command_shows_a_row_for_each_model(
    cut: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "a.onnx")
    onnx.save(cut, "b.onnx")
    np.savez("d.npz", **samples(50))
    words = ["eval", "a.onnx", "b.onnx", "--data", "d.npz", "--repeats", "2", "--threads", "1"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert "measured on 50 samples (all); top-1 agreement is with a.onnx" in shown
    assert main([*words, "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["name"] for model in models] == ["a.onnx", "b.onnx"]
    assert models[0]["agreement"] == 1
    assert main([*words, "--part", "most"]) == 2
    assert main(["eval", "a.onnx", "--data", "none.npz"]) == 2
