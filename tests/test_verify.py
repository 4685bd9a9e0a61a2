"""Verification finds what differs, in contract and in numbers, and runs what runtimes are too old for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from tests.test_loading import mlp
from tgonnx.errors import ModelError, UsageError
from tgonnx.runtime.doctor import diagnose
from tgonnx.runtime.equivalence import describe_type, verify
from tgonnx.runtime.feeds import random_feeds
from tgonnx.runtime.latency import latency
from tgonnx.runtime.sequences import as_array
from tgonnx.runtime.sessions import open_session


def scaled(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The model with its last weight multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = copy.graph.initializer[1]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return copy


def parse(text: str, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {text}')


def test_a_model_equals_itself() -> None:
    check = verify(mlp(), mlp())
    assert check.ok
    assert check.max_abs == check.max_rel == 0
    assert check.sizes == ("x:1x8", "x:3x8", "x:2x8", "x:5x8")
    assert check.samples == 4


@pytest.mark.parametrize("factor", [1.5, 1.01, 1.001])
def test_the_relative_difference_is_that_of_the_channel(factor: float) -> None:
    check = verify(mlp(), scaled(mlp(), factor))
    assert check.max_rel == pytest.approx(factor - 1, rel=2e-2)
    assert not check.ok
    assert check.reasons == ("output 'y': differs by more than 1.0e-04 relative",)


def test_rounding_is_tolerated() -> None:
    check = verify(mlp(), scaled(mlp(), 1 + 1e-6))
    assert check.ok
    assert 0 < check.max_rel < 1e-5


def test_given_feeds_are_used() -> None:
    feeds = [{"x": np.ones((3, 8), np.float32)}]
    check = verify(mlp(), scaled(mlp(), 2), feeds=feeds)
    assert check.max_rel == pytest.approx(1, rel=1e-5)
    assert check.samples == 1
    assert check.sizes == ("x:3x8",)
    with pytest.raises(UsageError, match="no inputs"):
        verify(mlp(), mlp(), feeds=[])


def test_contract_differences_are_named() -> None:
    other = mlp()
    other.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    other.opset_import[0].version = 18
    assert verify(mlp(), other).reasons == (
        "output 'y' differs: float32[N, 4] against float32[batch, 4]",
        "opset differs: 17 against 18",
    )
    renamed = mlp()
    renamed.graph.input[0].name = renamed.graph.node[0].input[0] = "z"
    check = verify(mlp(), renamed)
    assert check.reasons == ("inputs differ: x against z",)
    assert check.max_abs == float("inf")


def test_a_model_that_fails_for_another_batch_differs() -> None:
    text = "g (float[N,2] x) => (float[N,2] y) <int64[2] s = {S,2}> { y = Reshape(x, s) }"
    check = verify(parse(text.replace("S", "-1")), parse(text.replace("S", "2")))
    assert len(check.reasons) == 1
    assert check.reasons[0].startswith("only the first runs: ")


def test_infinities_and_nans_are_compared_by_place() -> None:
    logarithm = parse("m (float[N,4] x) => (float[N,4] y) { y = Log(x) }")
    assert verify(logarithm, logarithm).ok
    other = parse("m (float[N,4] x) => (float[N,4] y) { z = Abs(x)\n y = Log(z) }")
    assert verify(logarithm, other).reasons == ("output 'y': infinite or NaN values differ",)


def test_outputs_without_any_finite_value_are_no_proof() -> None:
    nothing = parse(
        "m (float[N,4] x) => (float[N,4] y) { a = Abs(x)\n b = Neg(a)\n c = Neg(b)\n y = Log(b) }"
    )
    check = verify(nothing, nothing)
    assert not check.ok
    assert check.verdict == "inconclusive"
    assert "no finite value" in check.inconclusive[0]


@pytest.mark.parametrize(("opset", "ir"), [(17, 8), (17, 13), (22, 10), (25, 12)])
def test_newer_models_run_and_the_check_says_how(opset: int, ir: int) -> None:
    model = parse("m (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", opset, ir)
    check = verify(model, model)
    assert check.ok
    assert check.ran_by.startswith("onnxruntime ")


def test_the_reference_evaluator_is_the_last_resort() -> None:
    model = parse(
        "m (float[N,4] x, float[4] s) => (float[N,4] y) { y = RMSNormalization(x, s) }", opset=23, ir=10
    )
    session = open_session(model, portable=True)
    assert session.ran_by.endswith("reference evaluator")
    feeds = random_feeds(model, np.random.default_rng(0))
    want = feeds["x"] / np.sqrt((feeds["x"] ** 2).mean(-1, keepdims=True) + 1e-5) * feeds["s"]
    np.testing.assert_allclose(session.run(feeds)["y"], want, rtol=1e-5)


def test_token_ids_stay_inside_the_smallest_table() -> None:
    model = parse(
        """m (int64[N,T] ids, bool[N,T] mask, int32[N,T] attention_mask) => (float[N,T,k] y, float[a,b,c,d] z)
        {
            table = Constant<value = float[4,1] {0.0, 1.0, 2.0, 3.0}>()
            types = Constant<value = float[3,1] {0.0, 1.0, 2.0}>()
            y = Gather(table, ids)
            one = Constant<value_ints = [1]>()
            more = Unsqueeze(ids, one)
            z = Gather(types, more)
        }"""
    )
    feeds = random_feeds(model, np.random.default_rng(0), batch=5, sizes={"T": 100})
    assert feeds["ids"].shape == (5, 100)
    assert feeds["ids"].dtype == np.int64
    assert set(np.unique(feeds["ids"])) == {0, 1, 2}
    assert feeds["mask"].dtype == bool
    assert feeds["attention_mask"].all()


def test_images_get_an_image_size_and_equal_names_equal_sizes() -> None:
    model = parse("m (float[N,3,H,W] x, float[N,H] s) => (float[N,3,H,W] y) { y = Relu(x) }")
    feeds = random_feeds(model, np.random.default_rng(0))
    assert feeds["x"].shape == (2, 3, 64, 64)
    assert feeds["s"].shape == (2, 64)


def test_a_batch_fixed_inside_the_model_is_found_out() -> None:
    model = parse("m (float[N,8] x) => (float[a,b] y) <int64[2] target = {1, 8}> { y = Reshape(x, target) }")
    assert verify(model, model).ok


def test_a_model_that_cannot_run_says_why() -> None:
    model = parse("m (float[N,8] x) => (float[a,b] y) <int64[2] target = {7, 9}> { y = Reshape(x, target) }")
    with pytest.raises(ModelError, match="cannot run on these inputs"):
        verify(model, model)


def test_latency_of_models_side_by_side() -> None:
    feeds = random_feeds(mlp(), np.random.default_rng(0))
    results = latency([mlp(), mlp()], [feeds, feeds], repeats=5, threads=1)
    assert [result.runs for result in results] == [5, 5]
    assert all(0 < result.p50 <= result.p90 for result in results)


def test_the_doctor_finds_this_installation_working() -> None:
    diagnosis = diagnose()
    assert diagnosis.importable
    assert diagnosis.engine in ("ort-training", "portable")
    assert (diagnosis.engine == "ort-training") == diagnosis.can_train


def test_the_doctor_names_two_runtimes_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime-1.20.0", "onnxruntime_training_cpu-1.19.2"):
        info = tmp_path / f"{name}.dist-info"
        info.mkdir()
        package, version = name.replace("_", "-").rsplit("-", 1)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    diagnosis = diagnose()
    assert not diagnosis.ok
    assert "overwrite each other" in diagnosis.problems[0]
    assert diagnosis.remedy
    assert "pip uninstall -y onnxruntime onnxruntime-training-cpu && " in diagnosis.remedy


def test_types_are_described_as_users_write_them() -> None:
    assert describe_type(mlp().graph.input[0]) == "float32[N, 8]"


def test_maps_and_sequences_are_compared_number_by_number() -> None:
    assert as_array([{1: 0.5, 0: 0.25}, {0: 0.1, 1: 0.2}]).tolist() == [[0.25, 0.5], [0.1, 0.2]]
    assert as_array([np.zeros((2, 3)), np.ones((2, 3))]).shape == (2, 2, 3)
    assert as_array([np.zeros(2), np.ones((1, 3))]).tolist() == [0, 0, 1, 1, 1]
    assert as_array([]).shape == (0,)
    assert as_array(["a", "b"]).tolist() == ["a", "b"]
