"""Valid models in unusual forms: read, cut, gated and written in the form that they came in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

import tgonnx as tg
from tgonnx.graph.declared import is_placeholder, model_inputs
from tgonnx.io.save import save
from tgonnx.passes.remove_channels import RemoveChannels
from tgonnx.pipeline import PruneResult
from tgonnx.runtime.equivalence import contract_differences
from tgonnx.runtime.sessions import open_session

Floats = NDArray[np.float32]
LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
CONVOLUTIONS = """<ir_version: 8, opset_import: ["": 12]>
g (float[N,3,8,8] x) => (float[N,8,8,8] y) {
  a = Conv<pads=[1,1,1,1]>(x, w1, b1)
  r = Relu(a)
  y = Conv<pads=[1,1,1,1]>(r, w2)
}"""
LAYERS = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,32] x) => (float[N,5] y) {
  a = Gemm<transB=1>(x, w1)
  r = Relu(a)
  b = MatMul(r, sw)
  s = Relu(b)
  y = Gemm<transB=1>(s, w3)
}"""


def floats(*shape: int) -> Floats:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def build(text: str, **arrays: tuple[int, ...] | NDArray[np.int64]) -> onnx.ModelProto:
    """A model from ONNX text; a shape becomes random weights."""
    model = parser.parse_model(text)
    for name, array in arrays.items():
        values = floats(*array) if isinstance(array, tuple) else array
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def convolutions() -> onnx.ModelProto:
    return build(CONVOLUTIONS, w1=(16, 3, 3, 3), b1=(16,), w2=(8, 16, 3, 3))


def listed(ir_version: int) -> onnx.ModelProto:
    model = convolutions()
    model.ir_version = ir_version
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    return model


def halved(model: onnx.ModelProto) -> tuple[tg.Model, onnx.ModelProto, onnx.ModelProto]:
    """The loaded model, and it gated and pruned by one mask; all three agree and can be written and read."""
    loaded = tg.load(model)
    coupling = tg.analyze(loaded)
    mask = tg.select(coupling, target=tg.Target(channels=0.5))
    gated, pruned = tg.gate(loaded, mask), tg.apply(loaded, mask)
    assert tg.verify(gated, pruned).ok
    assert tg.verify(loaded.original, tg.gate(loaded, tg.Mask.all_open(coupling))).ok
    for other in (gated, pruned):
        assert contract_differences(loaded.original, other) == ()
        tg.load(other)
    return loaded, gated, pruned


def trained(model: onnx.ModelProto, *shape: int, **more: Any) -> PruneResult:
    data = tg.data.arrays({"x": floats(*shape)})
    how = {"epochs": 1, "engine": "portable", "seed": 0} | more
    return tg.prune(model, data=data, target=tg.Target(params=0.6), **how)


# --- weights listed as inputs ------------------------------------------------------------------------


@pytest.mark.parametrize("ir_version", [3, 8])
def test_listed_weights_are_cut_and_stay_listed(ir_version: int) -> None:
    model = listed(ir_version)
    loaded, gated, pruned = halved(model)
    assert loaded.original == model
    for made in (gated, pruned):
        assert made.ir_version == ir_version
        assert [value.name for value in made.graph.input][:4] == ["x", "w1", "b1", "w2"]
        assert [value.name for value in model_inputs(made)] == ["x"]
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in pruned.graph.input}
    assert (sizes["w1"], sizes["b1"], sizes["w2"]) == ([8, 3, 3, 3], [8], [8, 8, 3, 3])
    names = {tensor.name for tensor in gated.graph.initializer}
    assert (names <= {value.name for value in gated.graph.input}) == (ir_version == 3)


@pytest.mark.parametrize("ir_version", [3, 8])
def test_listed_weights_are_trained(ir_version: int) -> None:
    result = trained(listed(ir_version), 24, 3, 8, 8)
    assert result.check.ok
    assert [value.name for value in result.model.graph.input] == ["x", "w1", "b1", "w2"]
    assert result.model.ir_version == ir_version
    assert not np.allclose(numpy_helper.to_array(result.model.graph.initializer[1]), 0)


def test_a_listed_size_that_is_folded_leaves_no_input_behind() -> None:
    model = build(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,4] x, int64[1] a, int64[1] b) => (float[2,3] y) {
          s = Concat<axis=0>(a, b)
          h = MatMul(x, w1)
          r = Relu(h)
          q = Reshape(r, s)
          y = MatMul(q, w2)
        }""",
        w1=(4, 8),
        w2=(8, 3),
        a=np.array([2]),
        b=np.array([8]),
    )
    _, gated, pruned = halved(model)
    for made in (gated, pruned):
        assert [value.name for value in made.graph.input] == ["x"]


def test_weights_made_of_listed_shapes() -> None:
    """As in onnx's own light models: what is cut are sizes in initializers that are inputs, too."""
    text = CONVOLUTIONS.replace(
        "a = Conv", "w1 = ConstantOfShape<value: tensor = float[1] {0.1}>(n)\n  a = Conv"
    )
    model = build(text, n=np.array([16, 3, 3, 3]), b1=(16,), w2=(8, 16, 3, 3))
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    _, _, pruned = halved(model)
    shapes = {tensor.name: list(tensor.dims) for tensor in pruned.graph.initializer}
    assert (shapes["w2"], shapes["b1"]) == ([8, 8, 3, 3], [8])


@pytest.mark.parametrize("path", [p for p in LIGHT if "squeezenet" in p.name], ids=lambda path: path.stem)
def test_the_light_models_of_onnx(path: Path) -> None:
    loaded = tg.load(path)
    mask = tg.select(tg.analyze(loaded), target=tg.Target(channels=0.6))
    gated, pruned = tg.gate(loaded, mask), tg.apply(loaded, mask)
    assert contract_differences(loaded.original, pruned) == contract_differences(loaded.original, gated) == ()
    assert [v.name for v in model_inputs(pruned)] == ["data_0"]
    assert {v.name for v in pruned.graph.input} >= {t.name for t in pruned.graph.initializer}
    assert pruned.ir_version == loaded.original.ir_version == 3
    # all weights are one number, so the output is the same for every input: what stands before it is compared
    assert tg.verify(gated, pruned, samples=1).ok


# --- declarations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 0])
def test_a_size_below_one_is_unknown_and_stays_as_it_was_declared(size: int) -> None:
    model = convolutions()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = size
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [size, 16, 8, 8]))
    _, gated, pruned = halved(model)
    for made in (gated, pruned):
        assert made.graph.input[0] == model.graph.input[0]
        assert made.graph.output[0] == model.graph.output[0]
        outputs = [open_session(made).run({"x": floats(n, 3, 8, 8)})["y"].shape for n in (1, 4)]
        assert outputs == [(1, 8, 8, 8), (4, 8, 8, 8)]
    assert trained(model, 24, 3, 8, 8).model.graph.input[0] == model.graph.input[0]


def without_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def without_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].ClearField("type")


@pytest.mark.parametrize("damage", [without_shape, without_type])
def test_an_output_may_leave_its_shape_open(
    damage: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    model = convolutions()
    damage(model)
    _, gated, pruned = halved(model)
    for name, made in (("gated", gated), ("pruned", pruned)):
        assert made.graph.output[0] == model.graph.output[0]
        save(made, tmp_path / name)
        assert tg.load(tmp_path / name).original == made
    assert trained(model, 24, 3, 8, 8).check.ok


def test_a_tail_that_inference_does_not_know() -> None:
    text = CONVOLUTIONS.replace("y = Conv", "z = Conv").replace(
        "(r, w2)", "(r, w2)\n n = NonZero(z)\n i = Transpose(n)\n y = GatherND(z, i)"
    )
    model = build(text, w1=(16, 3, 3, 3), b1=(16,), w2=(8, 16, 3, 3))
    without_shape(model)
    _, _, pruned = halved(model)
    assert [t.dims[0] for t in pruned.graph.initializer if t.name == "w1"] == [8]


def test_an_input_without_a_shape_is_read_and_one_without_a_type_is_named() -> None:
    model = convolutions()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert tg.analyze(tg.load(model)).units == 0
    model.graph.input[0].ClearField("type")
    with pytest.raises(tg.ModelError, match="input 'x' has no type"):
        tg.load(model)


@pytest.mark.parametrize("name", ["", "?", " ", "-1", "0", "None", "none", "unk", "Unknown", "_", "*", "???"])
def test_names_of_no_axis(name: str) -> None:
    assert is_placeholder(name)


@pytest.mark.parametrize(
    "name", ["N", "batch", "unk__12", "x_dynamic_axes_1", "s0", "p2o.DynamicDimension.0"]
)
def test_names_of_an_axis(name: str) -> None:
    assert not is_placeholder(name)


# --- sparse constants, and nothing lost in gating ------------------------------------------------------------


def sparse(by_axis: bool, shape: tuple[int, int] = (48, 24), count: int = 200) -> onnx.SparseTensorProto:
    rng = np.random.default_rng(0)
    places = np.sort(rng.choice(shape[0] * shape[1], count, replace=False)).astype(np.int64)
    indices = np.stack(np.unravel_index(places, shape), 1).astype(np.int64) if by_axis else places
    return helper.make_sparse_tensor(
        numpy_helper.from_array(rng.standard_normal(count).astype(np.float32), "sw"),
        numpy_helper.from_array(indices, "indices"),
        list(shape),
    )


def with_sparse(by_axis: bool, as_node: bool) -> onnx.ModelProto:
    model = build(LAYERS, w1=(48, 32), w3=(5, 24))
    if as_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["sw"], sparse_value=sparse(by_axis)))
    else:
        model.graph.sparse_initializer.append(sparse(by_axis))
    return model


@pytest.mark.parametrize("by_axis", [False, True])
@pytest.mark.parametrize("as_node", [False, True])
def test_sparse_weights_are_cut_and_stay_sparse(
    by_axis: bool, as_node: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    model = with_sparse(by_axis, as_node)
    assert tg.analyze(tg.load(model)).units == 48 + 24
    _, gated, pruned = halved(model)
    assert [(s.values.name, list(s.dims)) for s in pruned.graph.sparse_initializer] == [("sw", [24, 12])]
    assert [(s.values.name, list(s.dims)) for s in gated.graph.sparse_initializer] == [("sw", [48, 24])]
    assert capfd.readouterr().out == ""


def test_sparse_weights_are_trained() -> None:
    assert trained(with_sparse(False, True), 24, 32).check.ok


def test_gating_touches_no_other_node() -> None:
    model = convolutions()
    model.graph.node.extend(
        parser.parse_graph("""g (float[N,8,8,8] y, bool c) => (z) {
        z = If (c) <then_branch = t () => (p) { p = Relu(y) }, else_branch = e () => (q) { q = Tanh(y) }>
    }""").node
    )
    branch = model.graph.node[-1].attribute[0].g
    small = sparse(False, (3, 3), 2)
    branch.node.append(helper.make_node("Constant", [], ["unused"], sparse_value=small))
    branch.doc_string = "then"
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 8, 8, 8]))
    annotation = model.graph.quantization_annotation.add(tensor_name="a")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b1")
    for node in model.graph.node:
        node.name, node.doc_string = "same", "doc"
        node.metadata_props.add(key="from", value=node.op_type)
    loaded = tg.load(model)
    mask = tg.select(tg.analyze(loaded), target=tg.Target(channels=0.5))
    gated = tg.gate(loaded, mask)
    ours = [node for node in gated.graph.node if not node.name.startswith("tgonnx.")]
    assert [node.op_type for node in ours] == ["Conv", "Relu", "Conv", "If"]
    assert [ours[0], ours[1], ours[3]] == [model.graph.node[0], model.graph.node[1], model.graph.node[3]]
    assert ours[2].attribute == model.graph.node[2].attribute
    assert ours[2].metadata_props == model.graph.node[2].metadata_props
    assert gated.graph.quantization_annotation == model.graph.quantization_annotation


def test_a_gated_model_can_be_gated_again_but_not_trained() -> None:
    _, gated, _ = halved(build(CONVOLUTIONS, w1=(40, 3, 3, 3), b1=(40,), w2=(8, 40, 3, 3)))
    halved(gated)
    with pytest.raises(tg.UnsupportedError, match="holds gates already"):
        trained(gated, 24, 3, 8, 8, criterion="gates")


# --- operands of unknown shape -----------------------------------------------------------------------------


def test_an_initial_state_of_unknown_shape_is_not_taken_for_none() -> None:
    """Its hidden axis would stay as it is while the rest is cut."""
    model = build(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[T,N,6] x, bool c) => (float[N,5] y) {
          s = Shape(x)
          n = Gather<axis=0>(s, one)
          hs = Concat<axis=0>(one, n, hidden)
          h0 = If (c) <then_branch = t () => (p) { p = ConstantOfShape(hs) },
                       else_branch = e () => (q) { q = Expand(w0, hs) }>
          a, last = GRU<hidden_size=16>(x, w, r, b, "", h0)
          l = Squeeze(last, zero)
          y = Gemm<transB=1>(l, w3)
        }""",
        **{"w": (1, 48, 6), "r": (1, 48, 16), "b": (1, 96), "w3": (5, 16), "w0": (1, 1, 1)},
        **{"one": np.array([1]), "hidden": np.array([16]), "zero": np.array([0])},
    )
    loaded = tg.load(model)
    coupling = tg.analyze(loaded)
    mask = tg.Mask.all_open(coupling)
    mask.open[: coupling.units // 2] = False
    pruned = RemoveChannels(coupling, mask)(loaded.proto).model
    for choice in (True, False):
        feeds = {"x": floats(4, 3, 6), "c": np.array(choice)}
        assert open_session(pruned).run(feeds)["y"].shape == (3, 5)


# --- operators that only some runtime knows ------------------------------------------------------------------


def test_a_file_compiled_for_one_cpu_is_recognised() -> None:
    model = convolutions()
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    model.graph.node[0].domain = "com.microsoft.nchwc"
    with pytest.raises(tg.UnsupportedError, match="prune the model it was made from"):
        tg.analyze(tg.load(model))


def detector(op_type: str, domain: str = "") -> onnx.ModelProto:
    model = convolutions()
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node(op_type, ["z"], ["n"], domain=domain))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("n", TensorProto.INT32, ["N", 1]))
    return model


@pytest.mark.parametrize("domain", ["", "TRT"])
def test_a_custom_operator_at_the_end_is_kept(domain: str, tmp_path: Path) -> None:
    loaded = tg.load(detector("EfficientNMS_TRT", domain))
    coupling = tg.analyze(loaded)
    assert coupling.units == 16
    pruned = tg.apply(loaded, tg.select(coupling, target=tg.Target(channels=0.5)))
    save(pruned, tmp_path / "pruned.onnx")
    assert pruned.graph.node[-1] == loaded.original.graph.node[-1]
    assert tg.load(tmp_path / "pruned.onnx").original == pruned


def test_an_operator_of_another_opset_is_no_custom_operator() -> None:
    with pytest.raises(tg.ModelError, match=r"\(Gelu\): opset 12 has no such operator"):
        tg.load(detector("Gelu"))


# --- spellings -----------------------------------------------------------------------------------------------


def other_name_in_nodes(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.domain = "ai.onnx"


def other_name_in_import(model: onnx.ModelProto) -> None:
    model.opset_import[0].domain = "ai.onnx"


def nameless_graph(model: onnx.ModelProto) -> None:
    model.graph.name = ""


def listed_without_shape(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, None))


@pytest.mark.parametrize(
    "spell", [other_name_in_nodes, other_name_in_import, nameless_graph, listed_without_shape]
)
def test_spellings_that_runtimes_take(spell: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model = convolutions()
    spell(model)
    _, gated, pruned = halved(model)
    for name, made in (("gated", gated), ("pruned", pruned)):
        save(made, tmp_path / name)
        assert open_session(onnx.load(tmp_path / name)).run({"x": floats(3, 3, 8, 8)})["y"].shape == (
            3,
            8,
            8,
            8,
        )
    assert trained(model, 24, 3, 8, 8).check.ok
