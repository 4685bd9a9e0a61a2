"""Every output has a teacher: labels, targets, the original, or nothing where that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import tgonnx as tg
from tgonnx.cli.app import main
from tgonnx.data.sources import arrays, open_dataset
from tgonnx.engines.trainer import session
from tgonnx.errors import DataError, UnsupportedError, UsageError
from tgonnx.losses.asked import Asked
from tgonnx.losses.fit import Fit, distribution_axis, validate
from tgonnx.losses.nodes import ANSWER, TEACHER
from tgonnx.passes.add_objective import LOSS, add_objective
from tgonnx.runtime.sessions import open_session
from tgonnx.training.task import Teacher

Array = np.ndarray[Any, Any]


def heads() -> onnx.ModelProto:
    """Three heads on one trunk: classes, a number for each of two things, and boxes with a score in 0..1."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,4] kind, float[N,2] place, float[N,5] found, int64[N] best) {
            a = MatMul(x, w) r = Relu(a)
            kind = MatMul(r, k)
            place = MatMul(r, p)
            b = MatMul(r, q) boxes = Mul(b, large) s = MatMul(r, t) score = Sigmoid(s)
            found = Concat <axis = 1> (boxes, score)
            best = ArgMax <axis = 1, keepdims = 0> (kind)
        }"""
    )
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 32), "k": (32, 4), "p": (32, 2), "q": (32, 4), "t": (32, 1)}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) / np.sqrt(shape[0])
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(200, np.float32), "large"))
    return model


def data(count: int = 400) -> dict[str, Array]:
    x = np.random.default_rng(1).standard_normal((count, 8)).astype(np.float32)
    said = open_session(heads()).run({"x": x})
    return {"x": x, "label_kind": said["kind"].argmax(1), "target_place": said["place"]}


def fitted(values: dict[str, Array], **asked: Any) -> Fit:
    return validate(open_dataset(arrays(values), heads()), heads(), Asked(**asked))


def named(fit: Fit) -> list[tuple[str, str, float]]:
    return [(part.output, part.loss, part.weight) for part in fit.parts]


def test_what_each_output_learns_from() -> None:
    values = data()
    distilled = ("found", "distill", 1.0)
    assert named(fitted(values)) == [("kind", "ce", 1.0), ("place", "mse", 1.0), distilled]
    assert named(fitted(values, loss="l1", weights={"place": 0.25})) == [
        ("kind", "ce", 1.0), ("place", "l1", 0.25), distilled,
    ]  # fmt: skip
    del values["label_kind"]
    assert named(fitted(values)) == [("place", "mse", 1.0), ("kind", "distill", 1.0), distilled]
    assert named(fitted(values, free=("kind", "found"))) == [("place", "mse", 1.0)]
    everything = fitted(data(), loss="distill")
    assert named(everything) == [(name, "distill", 1.0) for name in ("kind", "place", "found")]
    assert [part.figure.title for part in everything.parts] == ["top-1 agreement", "R2", "R2"]
    assert [part.figure.title for part in fitted(data()).parts] == ["accuracy", "mse loss", "R2"]


def test_probabilities_are_known_by_what_they_are() -> None:
    """A softmax that is written out is no node; probabilities of classes that hardly vary drown no others."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,5,3] p) {
            a = MatMul(x, w) b = Reshape(a, shape) e = Exp(b)
            s = ReduceSum <keepdims = 1> (e, axis) p = Div(e, s)
        }"""
    )
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 15)).astype(np.float32)
    for name, value in (("w", weight), ("shape", np.array([-1, 5, 3])), ("axis", np.array([1]))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    x = rng.standard_normal((100, 8)).astype(np.float32)
    fit = validate(open_dataset(arrays({"x": x}), model), model)
    assert (fit.figure.title, fit.class_axis, fit.spread) == ("top-1 agreement", 1, None)


def test_what_does_not_add_up_to_one_is_no_distribution() -> None:
    even = np.full((4, 2, 2), 0.5, np.float32)
    assert distribution_axis([even]) == 2
    assert distribution_axis([even, even * np.array([1.2, 0.8], np.float32)]) == 2
    assert distribution_axis([even - np.array([2.0, -2.0], np.float32)]) is None
    assert distribution_axis([even * 2]) is None
    assert distribution_axis([np.ones((4, 1), np.float32)]) is None


@pytest.mark.parametrize(("asked", "error", "said"), [
    ({"free": ("knd",)}, UsageError, "free_output: the model has no output 'knd'; .*did you mean kind"),
    ({"weights": {"kinds": 1}}, UsageError, "loss_weight: the model has no output 'kinds'"),
    ({"free": ("found",), "weights": {"found": 2}}, UsageError, "output 'found' is free"),
    ({"free": ("kind",)}, DataError, "'label_kind' is for output 'kind', which free_output leaves without a loss"),
])  # fmt: skip
def test_wrong_outputs_are_named(asked: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        fitted(data(), **asked)
    with pytest.raises(UnsupportedError, match="no output of floats that can learn"):
        fitted({"x": data()["x"]}, free=("kind", "place", "found"))


def test_labels_of_every_output_are_checked() -> None:
    values = data()
    values["target_place"] = values["target_place"][:, :1]
    with pytest.raises(DataError, match=r"'target_place' has shape \(400, 1\), which does not fit"):
        fitted(values)
    with pytest.raises(DataError, match=r"label 4 of sample 0 is outside 0\.\.3"):
        fitted(data() | {"label_kind": np.full(400, 4)})


def test_the_objective_is_the_weighted_sum() -> None:
    values = data(64)
    fit = fitted(values, weights={"kind": 3.0, "found": 0.5}, smoothing=0.1)
    model = heads()
    batch = open_dataset(arrays(values), model).train.take(np.arange(16))
    feeds = Teacher(model, fit, 1, imitation=0.0).feeds(batch)
    assert set(feeds) == {"x", ANSWER + "kind", ANSWER + "place", TEACHER + "found"}
    rng = np.random.default_rng(2)
    feeds[TEACHER + "found"] = feeds[TEACHER + "found"] + rng.normal(size=(16, 5)).astype(np.float32)
    feeds[ANSWER + "place"] = feeds[ANSWER + "place"] + rng.normal(size=(16, 2)).astype(np.float32)
    shapes = [
        {n.removeprefix(s): v.shape for n, v in feeds.items() if n.startswith(s)} for s in (ANSWER, TEACHER)
    ]
    loss = session(add_objective(model, fit, *shapes)).run([LOSS], feeds)[0]
    said = {name: value.astype(np.float64) for name, value in open_session(model).run(batch.feeds).items()}
    logs = said["kind"] - np.log(np.exp(said["kind"]).sum(1, keepdims=True))
    entropy = -0.9 * logs[np.arange(16), feeds[ANSWER + "kind"]].mean() - 0.1 * logs.mean()
    squared = np.square(said["place"] - feeds[ANSWER + "place"]).mean()
    train = open_dataset(arrays(values), model).train
    spread = (
        open_session(model).run(train.take(np.arange(len(train))).feeds)["found"].astype(np.float64).var(0)
    )
    followed = (np.square(said["found"] - feeds[TEACHER + "found"]) / np.maximum(spread, 1e-4)).mean()
    assert loss == pytest.approx(3 * entropy + squared + 0.5 * followed, rel=1e-4)


def test_scores_beside_boxes_are_learned() -> None:
    """A loss over the whole output sees boxes in pixels alone; here half of the channels' errors are scores'."""
    model, values = heads(), data()
    fit = fitted({"x": values["x"]}, free=("kind", "place"))
    assert fit.spread is not None
    assert fit.spread.axis == 1
    assert fit.spread.variance[0] > 1e4
    assert fit.spread.variance[4] < 0.1
    says = open_session(model).run({"x": values["x"][:32]})["found"]
    objective = add_objective(model, fit, None, {"found": says.shape})

    def loss(channel: int, share: float) -> float:
        moved = says.copy()
        moved[:, channel] += share * np.sqrt(fit.spread.variance[channel])  # type: ignore[union-attr]
        return float(session(objective).run([LOSS], {"x": values["x"][:32], TEACHER + "found": moved})[0])

    assert loss(4, 0.5) == pytest.approx(loss(0, 0.5), rel=1e-3)
    assert loss(4, 0.5) == pytest.approx(0.25 / 5, rel=1e-3)


@pytest.mark.parametrize("engine", ["auto", "portable"])
def test_heads_learn_together(engine: str) -> None:
    values, model = data(), heads()
    result = tg.prune(model, values, "params=0.6", epochs=30, threads=1, engine=engine, verify_seconds=1)
    assert result.metric_name == "accuracy"
    assert list(result.after.others) == ["place: mse loss", "found: R2"]
    assert result.before.others == pytest.approx({"place: mse loss": 0.0, "found: R2": 1.0}, abs=1e-9)
    assert result.after.metric is not None
    majority = np.bincount(values["label_kind"]).max() / 400
    assert result.after.metric > majority + 0.3
    variance = float(values["target_place"].var())
    assert result.after.others["place: mse loss"] < 0.3 * variance
    assert result.after.others["found: R2"] > 0.6
    assert "found: R2" in str(result)


def test_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(heads(), "m.onnx")
    np.savez("d.npz", **data())
    options = [
        "--epochs=2",
        "--loss-weight=kind=0.5",
        "--loss-weight",
        "place=2",
        "--free-output=found",
        "--metric=mse",
    ]
    assert (
        main(["prune", "m.onnx", "--data=d.npz", "--no-run-dir", "--json", "--verify-seconds=1", *options])
        == 5
    )
    assert "metric mse needs an array 'target'" in capsys.readouterr().err
    options[-1] = "--metric=accuracy"
    assert (
        main(["prune", "m.onnx", "--data=d.npz", "--no-run-dir", "--json", "--verify-seconds=1", *options])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["metric"] == "accuracy"
    assert list(told["after"]["others"]) == ["place: mse loss"]
