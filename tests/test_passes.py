"""The passes before and after: what changes, and that the function computed does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from oracle import check_exact, difference, feeds_of, run
from random_graphs import random_model

from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.passes.normalize import (
    ConstantsToInitializers,
    InlineFunctions,
    ResolveInitializerAliases,
    UnshareConstants,
)
from tgonnx.passes.remove_channels import apply
from tgonnx.selection.budget import random_mask
from tgonnx.selection.mask import Mask


def parse(text: str, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """A model in ONNX text; declared values that no node makes become random weights."""
    head = f'<ir_version: {ir}, opset_import: ["" : {opset}, "local" : 1]>'
    model = parser.parse_model(head + text)
    rng, made = np.random.default_rng(0), {o for node in model.graph.node for o in node.output}
    for value in list(model.graph.value_info):
        if value.name not in made:
            shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
            model.graph.initializer.append(
                numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), value.name)
            )
            model.graph.value_info.remove(value)
    return model


def ops_of(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def same_function(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    onnx.checker.check_model(after)
    feeds = feeds_of(load(before))
    assert difference(run(before, feeds), run(after, feeds)) < 1e-6


def cut(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The model with half of every group removed at random."""
    coupling = analyze(load(model))
    assert coupling.units
    return apply(coupling, random_mask(coupling, 0.5, seed))


def values(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The integer initializers."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {name: a.tolist() for name, a in arrays.items() if a.dtype == np.int64}


def test_constants_become_initializers() -> None:
    before = parse("""g (float[2,3] x) => (float[2,3] y) {
        a = Constant <value = float[3] {1, 2, 3}> ()
        b = Constant <value_float = 2.0> ()
        h = Mul(x, a)  y = Add(h, b) }""")
    after = ConstantsToInitializers()(copy_of(before)).model
    assert ops_of(after) == ["Mul", "Add"]
    assert {t.name for t in after.graph.initializer} == {"a", "b"}
    same_function(before, after)


def test_a_constant_that_is_an_output_stays() -> None:
    before = parse("g (float[2] x) => (float[2] y, float[2] a) "
                   "{ a = Constant <value = float[2] {1, 2}> ()  y = Mul(x, a) }")  # fmt: skip
    assert not ConstantsToInitializers()(copy_of(before)).changed


def test_identities_of_initializers_go() -> None:
    before = parse("g (float[2,3] x) => (float[2,4] y) <float[3,4] w> "
                   "{ v = Identity(w)  u = Identity(v)  y = MatMul(x, u) }")  # fmt: skip
    after = ResolveInitializerAliases()(copy_of(before)).model
    assert ops_of(after) == ["MatMul"]
    assert after.graph.node[0].input[1] == "w"
    same_function(before, after)


def test_functions_are_inlined() -> None:
    before = parse("""g (float[2,3] x) => (float[2,4] y) <float[3,4] w>
        { h = local.Scaled(x, w)  y = Relu(h) }
        <domain: "local", opset_import: ["" : 17]>
        Scaled (a, b) => (c) { c = MatMul(a, b) }""")
    after = InlineFunctions()(copy_of(before)).model
    assert ops_of(after) == ["MatMul", "Relu"]
    same_function(before, after)


CONV = "Conv <kernel_shape = [1, 1]>"


def shared_zero(text: str) -> onnx.ModelProto:
    """A model with a shared bias `zero` [4] of zeros."""
    model = parse(text)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "zero"))
    return model


def test_equal_biases_are_unshared() -> None:
    before = shared_zero(f"""g (float[1,3,2,2] x) => (float[1,4,2,2] y) <float[4,3,1,1] v, float[4,4,1,1] w>
        {{ h = {CONV}(x, v, zero)  r = Relu(h)  y = {CONV}(r, w, zero) }}""")
    after = UnshareConstants()(copy_of(before)).model
    assert [n.input[2] for n in after.graph.node if n.op_type == "Conv"] == ["zero", "zero_1"]
    same_function(before, after)
    assert check_exact(before).units == 4


def test_siamese_weights_stay_shared() -> None:
    before = shared_zero(f"""g (float[1,3,2,2] x, float[1,3,2,2] z) => (float[1,2,2,2] y)
        <float[4,3,1,1] v, float[2,4,1,1] w>
        {{ a = {CONV}(x, v, zero)  b = {CONV}(z, v, zero)  s = Sub(a, b)  y = {CONV}(s, w) }}""")
    after = UnshareConstants()(copy_of(before)).model
    assert [n.input[2] for n in after.graph.node[:2]] == ["zero", "zero"]
    assert check_exact(before).units == 4


def test_a_computed_target_becomes_a_plain_one() -> None:
    before = parse("""g (float[N,3,4,4] x) => (float[N,2] y)
        <float[6,3,1,1] v, float[96,2] w, int64[1] tail = {-1}, int64 zero = {0}, int64[1] front = {0}>
        { h = Conv(x, v)  s = Shape(h)  n = Gather(s, zero)  m = Unsqueeze(n, front)
          t = Concat <axis = 0> (m, tail)  f = Reshape(h, t)  y = MatMul(f, w) }""")
    after = load(before).proto
    assert ops_of(after) == ["Conv", "Reshape", "MatMul"]
    assert values(after)[after.graph.node[1].input[1]] in ([-1, 96], [0, 96], [0, -1])
    same_function(before, after)
    pruned = cut(before)
    for batch in (1, 3):
        x = np.random.default_rng(0).standard_normal((batch, 3, 4, 4)).astype(np.float32)
        assert run(pruned, {"x": x})[0].shape == (batch, 2)


def test_a_static_if_becomes_its_branch() -> None:
    before = parse("""g (float[2,3] x) => (float[2,2] y) <float[3,6] v, float[6,2] w, int64 two = {2}>
        { h = MatMul(x, v)  s = Shape(h)  r = Size(s)  c = Equal(r, two)
          k = If (c) <then_branch = t () => (float[2,6] p) { p = Relu(h) },
                      else_branch = e () => (float[2,6] q) { q = Neg(h) }>
          y = MatMul(k, w) }""")
    after = load(before).proto
    assert "If" not in ops_of(after)
    assert "Relu" in ops_of(after)
    same_function(before, after)
    assert check_exact(before).units == 6


def test_a_gather_in_order_becomes_a_reshape() -> None:
    before = parse("""g (float[2,3] x) => (float[2,2] y) <float[3,6] v, float[6,2] w, int64[1] flat = {-1},
        int64[2,6] table = {0,1,2,3,4,5,6,7,8,9,10,11}>
        { h = MatMul(x, v)  f = Reshape(h, flat)  k = Gather(f, table)  y = MatMul(k, w) }""")
    after = load(before).proto
    assert "Gather" not in ops_of(after)
    same_function(before, after)
    assert check_exact(before).units == 6


SURGERY = {
    "Reshape": ("""{ h = MatMul(x, v)  r = Reshape(h, t)  s = ReduceSum <keepdims = 0> (r, axis)
        y = MatMul(s, w) }""", "float[3,12] v, float[4,2] w, int64[3] t = {2,3,4}, int64[1] axis = {1}"),
    "Split": ("{ h = MatMul(x, v)  a, b = Split <axis = 1> (h, t)  k = Relu(a)  p = MatMul(k, w) "
              "q = MatMul(b, u)  y = Add(p, q) }",
              "float[3,12] v, float[5,2] w, float[7,2] u, int64[2] t = {5,7}"),
    "Slice": ("{ h = MatMul(x, v)  a = Slice(h, low, high, axis)  y = MatMul(a, w) }",
              "float[3,12] v, float[8,2] w, int64[1] low = {2}, int64[1] high = {10}, int64[1] axis = {1}"),
    "Pad": ("{ h = MatMul(x, v)  a = Pad(h, t)  y = MatMul(a, w) }",
            "float[3,12] v, float[15,2] w, int64[4] t = {0,1,0,2}"),
}  # fmt: skip


@pytest.mark.parametrize("op_type", SURGERY)
def test_stored_sizes_follow_the_cut(op_type: str) -> None:
    body, weights = SURGERY[op_type]
    before = parse(f"g (float[2,3] x) => (float[2,2] y) <{weights}> {body}")
    assert check_exact(before).units >= 4
    after = cut(before)
    old = next(n for n in before.graph.node if n.op_type == op_type)
    new = next(n for n in after.graph.node if n.op_type == op_type)
    assert [values(after)[n] for n in new.input[1:]] != [values(before)[n] for n in old.input[1:]]


@pytest.mark.parametrize("group", [1, 2, 6])
def test_groups_of_a_convolution_follow_the_cut(group: int) -> None:
    before = parse(f"""g (float[2,3,4,4] x) => (float[2,2,4,4] y)
        <float[6,3,1,1] v, float[6,{6 // group},3,3] w, float[2,6,1,1] u>
        {{ h = Conv(x, v)  k = Conv <group = {group}, pads = [1, 1, 1, 1]> (h, w)  y = Conv(k, u) }}""")
    assert check_exact(before).units
    node = cut(before).graph.node[1]
    kept = next((a.i for a in node.attribute if a.name == "group"), 1)
    assert kept == {1: 1, 6: 3}.get(group, kept)


def test_heads_are_cut_behind_a_computed_reshape() -> None:
    before = parse("""g (float[N,T,6] x) => (float[N,T,2] y)
        <float[6,12] v, float[12,2] w, int64[2] tail = {4,3}, int64[1] all = {-1}, int64 zero = {0},
         int64 one = {1}, int64[1] front = {0}>
        { h = MatMul(x, v)  s = Shape(h)
          a = Gather(s, zero)  b = Gather(s, one)  n = Unsqueeze(a, front)  t = Unsqueeze(b, front)
          wide = Concat <axis = 0> (n, t, tail)  r = Reshape(h, wide)
          e = Transpose <perm = [0, 2, 1, 3]> (r)  q = Softmax <axis = 2> (e)
          f = Transpose <perm = [0, 2, 1, 3]> (q)
          flat = Concat <axis = 0> (n, t, all)  z = Reshape(f, flat)  y = MatMul(z, w) }""")
    assert check_exact(before).units
    pruned = cut(before)
    x = np.random.default_rng(0).standard_normal((5, 7, 6)).astype(np.float32)
    assert run(pruned, {"x": x})[0].shape == (5, 7, 2)


def test_a_table_is_repeated_as_often_as_there_are_samples() -> None:
    before = parse("""g (float[N,4,6] x) => (float[N,4,2] y)
        <float[6,8] v, float[4,6] p, float[6,8] u, float[8,2] w, int64[4] parts = {0,4,2,4}, int64[3] flat = {-1,4,4},
         int64[4] table = {1,4,2,4}, int64[4] back = {-1,2,4,4}, int64[3] joined = {0,4,-1},
         int64 heads = {2}, int64 zero = {0}, int64[1] front = {0}, int64[2] once = {1,1}>
        { a = MatMul(x, v)  b = Reshape(a, parts)  c = Transpose <perm = [0, 2, 1, 3]> (b)  q = Reshape(c, flat)
          d = MatMul(p, u)  e = Reshape(d, table)  f = Transpose <perm = [0, 2, 3, 1]> (e)  k = Reshape(f, flat)
          s = Shape(q)  m = Gather(s, zero)  n = Div(m, heads)  r = Unsqueeze(n, front)
          repeats = Concat <axis = 0> (r, once)  t = Tile(k, repeats)
          g0 = MatMul(q, t)  g = MatMul(g0, q)  h = Reshape(g, back)  i = Transpose <perm = [0, 2, 1, 3]> (h)
          j = Reshape(i, joined)  y = MatMul(j, w) }""")
    assert check_exact(before).units
    pruned, x = cut(before), np.random.default_rng(0).standard_normal((5, 4, 6)).astype(np.float32)
    whole = run(pruned, {"x": x})[0]
    parts = [run(pruned, {"x": part})[0] for part in (x[:1], x[1:3], x[3:])]
    assert difference([whole], [np.concatenate(parts)]) < 1e-6


def test_behind_an_unknown_operator_the_file_is_trusted() -> None:
    before = parse("""g (float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[6,3,1,1] a, float[6,6,3,3] b, float[2,6,1,1] c, float[N,6,4,4] k>
        { h = Conv(x, a)  k = local.Strange(h)  m = Conv <pads = [1, 1, 1, 1]> (k, b)  y = Conv(m, c) }""")
    shapes = {tensor.name: list(tensor.dims) for tensor in cut(before).graph.initializer}
    assert shapes == {"a": [6, 3, 1, 1], "b": [3, 6, 3, 3], "c": [2, 3, 1, 1]}


def residual(opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    return parse(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[6,3,1,1] a, float[6,6,3,3] b, float[2,6,1,1] c>
        { h = Conv(x, a)  k = Conv <pads = [1, 1, 1, 1]> (h, b)  r = Relu(k)  s = Add(h, r)  y = Conv(s, c) }""",
        opset,
        ir,
    )


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (8, 3), (9, 4), (21, 10)])
def test_old_and_new_models(opset: int, ir: int) -> None:
    model = residual(opset, ir)
    if ir < 4:
        for tensor in model.graph.initializer:
            model.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    assert check_exact(model).units == 6
    pruned = cut(model)
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in pruned.graph.input}
    for tensor in pruned.graph.initializer if ir < 4 else ():
        assert sizes[tensor.name] == list(tensor.dims)


def typed(kind: int, opset: int = 17) -> onnx.ModelProto:
    """The residual model with another float type."""
    model = residual(opset, 10)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = kind
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


@pytest.mark.parametrize(("kind", "tolerance"), [(TensorProto.DOUBLE, 1e-6), (TensorProto.FLOAT16, 2e-3)])
def test_other_float_types(kind: int, tolerance: float) -> None:
    assert check_exact(typed(kind), tolerance=tolerance).units == 6


def test_bfloat16_keeps_its_type() -> None:
    pruned = cut(typed(TensorProto.BFLOAT16, 22))
    onnx.shape_inference.infer_shapes(pruned, check_type=True, strict_mode=True)
    assert {t.data_type for t in pruned.graph.initializer} == {TensorProto.BFLOAT16}
    assert list(pruned.graph.initializer[0].dims) == [3, 3, 1, 1]


def test_keeping_all_returns_the_original() -> None:
    model = residual()
    coupling = analyze(load(model))
    assert apply(coupling, Mask.all_open(coupling)).SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("seed", range(5))
def test_pruning_twice_composes(seed: int) -> None:
    once = cut(random_model(seed, 17, 3), seed)
    check_exact(once, seed + 1)


def test_what_is_said_about_the_model_survives() -> None:
    model = residual()
    model.producer_name, model.model_version, model.doc_string = "maker", 7, "a model"
    model.graph.doc_string = "a graph"
    model.metadata_props.add(key="author", value="me")
    for i, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"layer{i}", f"about {i}"
    model.graph.initializer[0].doc_string = "the stem"
    pruned = cut(model)
    assert (pruned.producer_name, pruned.model_version, pruned.doc_string) == ("maker", 7, "a model")
    assert [(p.key, p.value) for p in pruned.metadata_props] == [("author", "me")]
    assert pruned.graph.name == model.graph.name
    assert pruned.graph.doc_string == "a graph"
    assert [(n.name, n.doc_string) for n in pruned.graph.node] == [
        (n.name, n.doc_string) for n in model.graph.node
    ]
    assert [t.name for t in pruned.graph.initializer] == ["a", "b", "c"]
    assert pruned.graph.initializer[0].doc_string == "the stem"
    assert pruned.graph.input == model.graph.input
    assert pruned.graph.output == model.graph.output
