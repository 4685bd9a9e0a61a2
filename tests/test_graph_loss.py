"""A loss given as an ONNX graph: its value and gradient, frozen networks inside, what it is refused for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from test_outputs import data, heads

import tgonnx as tg
from tgonnx.cli.app import main
from tgonnx.data.sources import arrays, open_dataset
from tgonnx.engines import choose, gradients
from tgonnx.engines.trainer import session
from tgonnx.errors import DataError, ModelError, TgonnxError, UnsupportedError, UsageError
from tgonnx.losses.asked import Asked
from tgonnx.losses.fit import validate
from tgonnx.losses.metric import Metric
from tgonnx.losses.nodes import ANSWER, TEACHER
from tgonnx.losses.own_metric import metric_of
from tgonnx.passes.add_objective import LOSS, add_objective
from tgonnx.passes.prepare_training import prepare_training
from tgonnx.runtime.sessions import open_session
from tgonnx.training.task import Teacher

Array = np.ndarray[Any, Any]
ENGINES = dict.fromkeys([choose(), "portable"])


def saved(folder: Path, text: str, opset: int = 18, **values: Array) -> str:
    """The path of a graph."""
    graph = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    for name, value in values.items():
        graph.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    onnx.save(graph, folder / "loss.onnx")
    return str(folder / "loss.onnx")


SQUARED = (
    "l (float[N,2] place, float[N,2] target_place) => (float loss) "
    "{ d = Sub (place, target_place) s = Mul (d, d) loss = ReduceMean <keepdims = 0> (s) }"
)
MIXED = (  # of two outputs, with integers, a reduction of one axis, and a result of shape [1]
    "l (float[N,4] kind, int64[N] label, float[N,5] found, float[N,5] original_found) => (float[1] loss) {"
    " e = SoftmaxCrossEntropyLoss (kind, label) d = Sub (found, original_found) h = Constant <value = float {0.001}> ()"
    " m = Mul (d, h) a = Abs (m) s = ReduceSum <keepdims = 1> (a) t = Add (s, e) i = Constant <value_ints = [1]> ()"
    " loss = Reshape (t, i) }"
)


def test_a_graph_of_the_squared_error_is_mse(tmp_path: Path) -> None:
    values, model = data(), heads()
    path = saved(tmp_path, SQUARED)
    options: dict[str, Any] = {"epochs": 3, "threads": 1, "verify_seconds": 1}
    results = [
        tg.prune(model, values, 0.6, loss=loss, loss_weight={"kind": 0.5}, **options)
        for loss in (path, "mse")
    ]
    for found, wanted in zip(
        results[0].model.graph.initializer, results[1].model.graph.initializer, strict=True
    ):
        np.testing.assert_allclose(numpy_helper.to_array(found), numpy_helper.to_array(wanted), atol=2e-3)
    assert results[0].metric_name == "loss.onnx loss"
    assert list(results[0].after.others) == ["kind: accuracy", "place: mse loss", "found: R2"]
    assert results[0].after.metric == pytest.approx(results[0].after.others["place: mse loss"], rel=1e-5)


def test_value_and_gradient_of_a_graph_of_two_outputs(tmp_path: Path) -> None:
    values, model = data(64), heads()
    values["label"] = values.pop("label_kind")
    path = saved(tmp_path, MIXED, 13)
    dataset = open_dataset(arrays(values), model)
    fit = validate(dataset, model, path)
    assert [(p.output, p.weight) for p in fit.parts] == [
        ("kind", 1.0),
        ("kind", 0.0),
        ("place", 1.0),
        ("found", 0.0),
    ]
    batch = dataset.train.take(np.arange(16))
    feeds = Teacher(model, fit, 1).feeds(batch)
    assert set(feeds) == {"x", ANSWER + "kind", ANSWER + "place", TEACHER + "found"}
    feeds[TEACHER + "found"] = feeds[TEACHER + "found"] + 1000  # far from the bend of |x|
    shapes = [
        {n.removeprefix(s): v.shape for n, v in feeds.items() if n.startswith(s)} for s in (ANSWER, TEACHER)
    ]
    copy = prepare_training(model, {"x": (16, 8)}).model
    objective = add_objective(copy, fit, *shapes)
    names = ["w", "k", "p", "q", "t"]

    def wanted(step: float, name: str, direction: Array) -> float:
        moved = onnx.ModelProto()
        moved.CopyFrom(model)
        for tensor in moved.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(
                    numpy_helper.from_array(
                        (numpy_helper.to_array(tensor) + step * direction).astype(np.float32), name
                    )
                )
        said = {n: v.astype(np.float64) for n, v in open_session(moved).run({"x": feeds["x"]}).items()}
        logs = said["kind"] - np.log(np.exp(said["kind"]).sum(1, keepdims=True))
        entropy = -logs[np.arange(16), feeds[ANSWER + "kind"]].mean()
        squared = np.square(said["place"] - feeds[ANSWER + "place"]).mean()
        return float(entropy + 1e-3 * np.abs(said["found"] - feeds[TEACHER + "found"]).sum() + squared)

    assert session(objective).run([LOSS], feeds)[0] == pytest.approx(wanted(0, "", np.zeros(1)), rel=1e-5)
    for engine in ENGINES:
        found = gradients(objective, names, feeds, engine)
        for name in ("w", "k", "q"):
            slope = (wanted(1e-3, name, found[name]) - wanted(-1e-3, name, found[name])) / 2e-3
            assert np.square(found[name]).sum() == pytest.approx(slope, rel=0.02), (engine, name)


def denoiser() -> onnx.ModelProto:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> m (float[N,1,8,8] x) => (float[N,1,8,8] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1) r = Relu (a) y = Conv <pads = [1,1,1,1]> (r, w2)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (12, 1, 3, 3), "w2": (1, 12, 3, 3)}.items():
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


WITH_INPUTS = """l (float[N,3,8] y, float[N,3,8] x, int64[N] kind) => (float loss) {
    r = Gather <axis = 0> (table, kind) i = Constant <value_ints = [1]> () r3 = Unsqueeze (r, i)
    w = Mul (x, r3) d = Sub (y, w) q = Mul (d, d) loss = ReduceMean <keepdims = 0> (q)
}"""


def two_inputs(samples: str) -> onnx.ModelProto:
    """A model whose loss needs what it is given: `kind`, which it reads itself, says what becomes of `x`."""
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        m (float[{samples},3,8] x, int64[{samples}] kind) => (float[{samples},3,8] y) {{
            e = Gather (rows, kind) i = Constant <value_ints = [1]> () e3 = Unsqueeze (e, i)
            a = Mul (x, e3) h = MatMul (a, w1) r = Tanh (h) y = MatMul (r, w2)
        }}"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"rows": (3, 8), "w1": (8, 24), "w2": (24, 8)}.items():
        values = rng.normal(size=shape).astype(np.float32) / 4
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("samples", ["N", "8"])
def test_a_graph_reads_what_the_model_is_given(samples: str, engine: str, tmp_path: Path) -> None:
    table = np.array([[1.0] * 8, [-1.0] * 8, [0.0] * 8])
    path = saved(tmp_path, WITH_INPUTS, table=table)
    rng = np.random.default_rng(1)
    values: dict[str, Array] = {
        "x": rng.normal(size=(300, 3, 8)).astype(np.float32),
        "kind": rng.integers(0, 3, 300),
    }
    values |= {f"test_{name}": array[:30] for name, array in values.items()}
    options: dict[str, Any] = {"epochs": 20, "batch": 8, "lr": 0.02, "threads": 1, "verify_seconds": 1}
    result = tg.tune(two_inputs(samples), values, loss=path, from_scratch=True, engine=engine, **options)
    said = open_session(two_inputs("N")).run({"x": values["test_x"], "kind": values["test_kind"]})["y"]
    wanted = values["test_x"] * table[values["test_kind"]][:, None]
    assert result.before.metric == pytest.approx(float(np.square(said - wanted).mean()), rel=1e-3)
    assert result.after.metric is not None
    assert result.after.metric < 0.5 * float(np.square(wanted).mean())


PERCEPTUAL = """l (float[N,1,8,8] y, float[N,1,8,8] original_y) => (float loss) {
    a = Conv <pads = [1,1,1,1]> (y, w1) b = BatchNormalization (a, s, c, m, v) r = Relu (b)
    a2 = Conv <pads = [1,1,1,1]> (original_y, w1) b2 = BatchNormalization (a2, s, c, m, v) r2 = Relu (b2)
    d = Sub (r, r2) q = Mul (d, d) loss = ReduceMean <keepdims = 0> (q)
}"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_perceptual_loss_trains_through_its_frozen_network(engine: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = saved(
        tmp_path, PERCEPTUAL, 11, w1=rng.normal(size=(6, 1, 3, 3)) / 3, s=np.ones(6), c=np.zeros(6), m=np.zeros(6),
        v=np.ones(6),
    )  # fmt: skip
    x = rng.normal(size=(240, 1, 8, 8)).astype(np.float32)
    result = tg.prune(
        denoiser(),
        {"x": x},
        "params=0.6",
        loss=path,
        epochs=15,
        lr=5e-3,
        threads=1,
        engine=engine,
        verify_seconds=1,
    )
    names = {tensor.name for tensor in result.model.graph.initializer}
    assert names == {"w1", "w2"}  # nothing of the loss is in the model
    assert result.before.metric == 0.0
    assert result.metric_name == "loss.onnx loss"
    committed = next(record.metric for record in result.history if record.phase == "commit")
    assert result.after.metric is not None
    assert committed is not None
    assert result.after.metric < 0.9 * committed
    assert result.after.others["y: R2"] > 0.5


def test_its_figure_is_the_loss_or_what_is_asked_for(tmp_path: Path) -> None:
    values, model = data(50), heads()
    values |= {f"test_{name}": array + (name == "target_place") for name, array in values.items()}
    dataset = open_dataset(arrays(values), model)
    path = saved(tmp_path, SQUARED)
    metric = Metric(validate(dataset, model, path), dataset.held_out, model)  # type: ignore[arg-type]
    assert not metric.higher_is_better
    assert metric(model) == pytest.approx(1.0)
    asked = Asked(loss=path, metric=metric_of("mae"))
    metric = Metric(validate(dataset, model, asked), dataset.held_out, model)  # type: ignore[arg-type]
    assert metric.name == "absolute error"
    assert metric(model) == pytest.approx(1.0)
    assert list(metric.others(model)) == ["kind: accuracy", "found: R2"]


WRONG: dict[str, tuple[str, type[TgonnxError], str]] = {
    "a name of nothing": (
        SQUARED.replace("target_place", "target_plce"), DataError, r"input 'target_plce' is neither.*mean target_place",
    ),
    "no output": (
        "l (float[N,2] target_place) => (float loss) { loss = ReduceMean <keepdims = 0> (target_place) }",
        UsageError, "no input is called like an output of the model: kind, place, found, best",
    ),
    "no number": ("l (float[N,2] place) => (float[N,2] loss) { loss = Abs (place) }", UnsupportedError, r"of shape \("),
    "nan": (
        "l (float[N,2] place) => (float loss) { a = Abs (place) b = Neg (a) c = Sqrt (b) "
        "loss = ReduceMean <keepdims = 0> (c) }", UnsupportedError, "its output is nan, not a finite number",
    ),
    "two outputs": (
        "l (float[N,2] place) => (float[N,2] a, float[N,2] b) { a = Abs (place) b = Neg (place) }",
        UsageError, "has 2 outputs; a loss has one",
    ),
    "integers": (
        "l (float[N,2] place) => (int64 loss) { a = Shape (place) loss = ReduceSum <keepdims = 0> (a) }",
        UsageError, "a number of a floating-point type",
    ),
    "another shape": (SQUARED.replace("[N,2]", "[N,3]"), UnsupportedError, "loss .*loss.onnx: "),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_graphs_are_refused(case: str, tmp_path: Path) -> None:
    text, error, said = WRONG[case]
    with pytest.raises(error, match=said):
        validate(open_dataset(arrays(data(40)), heads()), heads(), saved(tmp_path, text))


def test_files_that_are_no_graphs_are_refused(tmp_path: Path) -> None:
    dataset = open_dataset(arrays(data(40)), heads())
    with pytest.raises(UsageError, match=r"nothing\.onnx"):
        validate(dataset, heads(), str(tmp_path / "nothing.onnx"))
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    with pytest.raises(ModelError, match=r"text\.onnx"):
        validate(dataset, heads(), str(tmp_path / "text.onnx"))
    for asked in ({"free": ("place",)}, {"weights": {"place": 2.0}}):
        with pytest.raises(UsageError, match="output 'place' learns from the loss"):
            validate(dataset, heads(), Asked(loss=saved(tmp_path, SQUARED), **asked))  # type: ignore[arg-type]


DETERMINANT = (
    "l (float[N,2] place) => (float loss) { i = Constant <value_ints = [-1, 2, 2]> () r = Reshape (place, i) "
    "d = Det (r) loss = ReduceMean <keepdims = 0> (d) }"
)


def test_a_graph_without_a_gradient_names_the_operator(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        "l (float[N,2] place) => (float loss) { i = Constant <value_ints = [-1, 2, 1]> () r = Reshape (place, i) "
        "d = DFT <axis = 1> (r) a = Abs (d) loss = ReduceMean <keepdims = 0> (a) }",
    )
    with pytest.raises(UnsupportedError, match="no gradient is known for DFT"):
        tg.prune(heads(), data(40), loss=path, batch=8, epochs=1, threads=1, verify_seconds=1)


def test_a_graph_that_does_not_fit_the_batch_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, DETERMINANT)
    with pytest.raises(UnsupportedError, match=r"loss .*loss\.onnx: .*Reshape"):
        tg.prune(heads(), data(40), loss=path, batch=9, epochs=1, threads=1, verify_seconds=1)


def test_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(heads(), "m.onnx")
    np.savez("d.npz", **data())
    saved(tmp_path, SQUARED)
    options = ["--epochs=2", "--loss=loss.onnx", "--json", "--verify-seconds=1", "--run-dir=run"]
    assert main(["prune", "m.onnx", "--data=d.npz", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metric"] == "loss.onnx loss"
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["recipe"]["loss"] == "loss.onnx"
    assert len(run["identity"]["loss"]) == 64
