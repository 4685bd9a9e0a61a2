"""The table of training graphs: a right graph, a broken file, a crash."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_task import network

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import train_coverage

from tgonnx import engines


def test_a_gated_network_is_right(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    onnx.save(network(), file)
    row = train_coverage.measure(file, "net")
    assert row.faults == []
    assert row.batch == 8  # of samples, as there is BatchNormalization
    assert set(row.slopes) == {engines.choose(), "portable"}
    if len(row.slopes) == 2:
        assert row.apart < train_coverage.AGREE
    assert "right" in train_coverage.cells(row)


def test_a_broken_file_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"no model")
    row = train_coverage.in_a_process(file, "broken", 60)
    assert "ModelError" in row.faults[0]
    assert "1 graphs, 0 right" in train_coverage.summary([row])


def test_a_crash_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "crash.py"
    script.write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(train_coverage, "__file__", str(script))
    assert train_coverage.in_a_process(tmp_path, "x", 60).faults == ["crashed with signal 11"]


def test_difference_is_relative_and_names_the_worst() -> None:
    a = {"w": np.array([1.0, 0.0]), "b": np.array([0.5])}
    b = {"w": np.array([1.0, 0.0]), "b": np.array([0.51])}
    apart, worst = train_coverage.difference(a, b)
    assert worst == "b"
    assert apart == pytest.approx(0.02)


def test_the_slope_in_float64_tells_right_from_wrong() -> None:
    from double_precision import slope
    from onnx import numpy_helper, parser

    from tgonnx.engines import ParameterGroup, StepSpec, first_step

    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[4, 3] x) => (float loss)'
        "{ a = MatMul(x, w) b = Softplus(a) loss = ReduceMean <keepdims = 0> (b) }"
    )
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 2)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    spec, feeds = (
        StepSpec(model, (ParameterGroup(("w",)),)),
        {"x": rng.normal(size=(4, 3)).astype(np.float32)},
    )
    gradients, _ = first_step(spec, feeds | {"lr": np.zeros((), np.float32)}, "portable", 1)
    predicted, measured = slope(spec, gradients, feeds)
    assert measured == pytest.approx(predicted, rel=1e-5)
    predicted, measured = slope(spec, {"w": gradients["w"] * 2}, feeds)
    assert measured == pytest.approx(predicted / 2, rel=1e-5)


def test_the_order_of_the_batch_is_rounding_alone() -> None:
    from onnx import numpy_helper, parser

    from tgonnx.engines import ParameterGroup, StepSpec

    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[64, 3] x) => (float loss)'
        "{ a = MatMul(x, w) b = Exp(a) loss = ReduceMean <keepdims = 0> (b) }"
    )
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(3, 2)).astype(np.float32), "w"))
    feeds = {"x": rng.normal(size=(64, 3)).astype(np.float32), "lr": np.zeros((), np.float32)}
    found = train_coverage.rounding(StepSpec(model, (ParameterGroup(("w",)),)), feeds, "w")
    assert 0 < found < 1e-5
