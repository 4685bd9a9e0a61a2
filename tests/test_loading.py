"""The door: what is accepted, unchanged or fixed, and what external data may do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from tgonnx.errors import ModelError, UsageError
from tgonnx.loading import load, read

F = TensorProto.FLOAT


def mlp(**changes: object) -> onnx.ModelProto:
    """x (N x 8) -> MatMul -> Relu -> MatMul -> y (N x 4)."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (8, 64)), ("w2", (64, 4)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["a"], name="act"),
        helper.make_node("MatMul", ["a", "w2"], ["y"], name="last"),
    ]
    parts: dict[str, object] = {"nodes": nodes, "initializer": weights, "value_info": []}
    parts |= changes
    graph = helper.make_graph(
        parts["nodes"],
        "mlp",
        [helper.make_tensor_value_info("x", F, ["N", 8])],
        [helper.make_tensor_value_info("y", F, ["N", 4])],
        parts["initializer"],
        value_info=parts["value_info"],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def externalise(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    return path


def test_a_good_proto_comes_back_as_it_is() -> None:
    model = mlp()
    assert read(model) is model
    assert read(model.SerializeToString()) == model


def test_a_path_gives_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(mlp(), path)
    assert read(path) == read(str(path)) == mlp()


def test_external_data_is_loaded_into_the_model(tmp_path: Path) -> None:
    path = externalise(mlp(), tmp_path)
    loaded = read(path)
    for got, want in zip(loaded.graph.initializer, mlp().graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(got), numpy_helper.to_array(want))
    assert not any(tensor.external_data for tensor in loaded.graph.initializer)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hosts", "a/../../weights.bin", "C:\\x.bin", ""])
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = externalise(mlp(), folder)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"initializer 'w1': external data"):
        read(path)


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = externalise(mlp(), folder)
    (folder / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        read(path)


def test_short_external_data_is_refused(tmp_path: Path) -> None:
    path = externalise(mlp(), tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-4])
    with pytest.raises(ModelError, match=r"'w2': external bytes .* are not in 'weights.bin'"):
        read(path)


def test_external_data_without_a_folder_is_refused(tmp_path: Path) -> None:
    path = externalise(mlp(), tmp_path)
    with pytest.raises(ModelError, match="pass the path"):
        read(path.read_bytes())


def test_unsorted_nodes_are_sorted_and_the_argument_is_not_changed() -> None:
    model = mlp(nodes=list(reversed(mlp().graph.node)))
    before = model.SerializeToString()
    assert [node.name for node in read(model).graph.node] == ["first", "act", "last"]
    assert model.SerializeToString() == before


def test_wrong_shape_hints_are_dropped() -> None:
    model = mlp(value_info=[helper.make_tensor_value_info("h", F, [1, 3])])
    assert not read(model).graph.value_info
    assert model.graph.value_info


def test_an_unknown_custom_operator_is_accepted() -> None:
    nodes = list(mlp().graph.node)
    nodes[1] = helper.make_node("Magic", ["h"], ["a"], domain="my.domain")
    model = mlp(nodes=nodes)
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    assert read(model) is model


def test_infinite_masks_are_accepted_and_infinite_weights_are_not() -> None:
    mask = numpy_helper.from_array(np.array([-np.inf, 0, 0, 0], np.float32), "mask")
    nodes = [
        *mlp().graph.node[:2],
        helper.make_node("MatMul", ["a", "w2"], ["z"]),
        helper.make_node("Add", ["z", "mask"], ["y"]),
    ]
    read(mlp(nodes=nodes, initializer=[*mlp().graph.initializer, mask]))
    bad = numpy_helper.from_array(np.full((8, 64), np.inf, np.float32), "w1")
    with pytest.raises(ModelError, match=r"initializer 'w1' of node 'first' \(MatMul\) contains infinite"):
        read(mlp(initializer=[bad, mlp().graph.initializer[1]]))


def test_empty_optional_tensors_are_accepted() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (float[N,3,8,8] x) => (float[N,3,h,w] y)
        <float[0] roi = {}, float[4] scales = {1.0, 1.0, 2.0, 2.0}> { y = Resize(x, roi, scales) }"""
    )
    assert read(model) is model


def test_a_cycle_is_named() -> None:
    nodes = list(mlp().graph.node)
    nodes[1] = helper.make_node("Add", ["h", "b"], ["a"], name="act")
    nodes.insert(2, helper.make_node("Neg", ["a"], ["b"], name="back"))
    with pytest.raises(ModelError, match=r"cycle: node '(act|back)' .* -> node '(act|back)'"):
        read(mlp(nodes=nodes))


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "none.onnx")


def test_damaged_files_are_refused_or_read_but_never_crash() -> None:
    model = mlp()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.zeros((1, 1), np.float32), tensor.name))
    good, rng = model.SerializeToString(), np.random.default_rng(0)
    messages = []
    for _ in range(500):
        damaged = bytearray(good)
        for position in rng.integers(0, len(good), rng.integers(1, 4)):
            damaged[position] = rng.integers(0, 256)
        try:
            read(bytes(damaged))
        except ModelError as error:
            messages.append(str(error))
    assert len(messages) > 250
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_a_definition_that_needs_defaults_is_no_fault_of_the_model(opset: int) -> None:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2,3,4,4] x) => (float[2,3,4,4] y)'
    model = parser.parse_model(text + " { y = MeanVarianceNormalization(x) }")
    assert load(model).first.problems == {}


def test_layers_that_onnxruntime_keeps_in_the_standard_domain() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x, float[3] s) => (float[2,3] y)'
    model = parser.parse_model(text + " { y = SimplifiedLayerNormalization <axis=-1> (x, s) }")
    assert load(model).shapes["y"] == (2, 3)
