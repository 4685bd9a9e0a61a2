"""Sizes that depend on dynamic axes: what is proved, what is rewritten, and that nothing that was tried is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from independent import run, session
from onnx import helper, numpy_helper, parser

import tgonnx as tg
from tgonnx.analysis.input_shapes import parse_shapes
from tgonnx.errors import UsageError
from tgonnx.graph.algebra import Algebra, Size
from tgonnx.loading import load

Feeds = dict[str, np.ndarray]

HEAD = '<ir_version: 8, opset_import: ["" : 17]> '


def filled(text: str, weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A model in ONNX text, with random weights of these shapes."""
    model, rng = parser.parse_model(text), np.random.default_rng(0)
    for name, shape in weights.items():
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


def run_plain(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    return run(session(model), feeds)


def test_polynomials_decide_what_holds_for_all_sizes() -> None:
    algebra = Algebra()
    n, h = algebra.atom("n"), algebra.atom("h")
    assert algebra.subtract(algebra.add(n, 3), n) == 3
    assert algebra.divide(
        algebra.multiply(algebra.multiply(n, 12), h), algebra.multiply(h, 4)
    ) == algebra.multiply(n, 3)
    assert isinstance(algebra.divide(n, 2), Size)
    assert algebra.divide(n, 2) == algebra.divide(n, 2)
    assert algebra.divide(-7, 2) == -3  # towards zero, as Div
    assert algebra.sign(algebra.add(n, 1)) == 1
    assert algebra.sign(n) is None  # it may be zero
    assert algebra.sign(algebra.subtract(n, h)) is None


# A model of dynamic sizes, its inputs, and shapes of these that analysis does not choose.
CASES = {
    "heights are not widths": (
        "g (float[N,3,H,W] x) => (float[n,3,h,w,7] y) { a = Conv<pads = [1,1,1,1], strides = [4,4]>(x, w1) b = Relu(a) "
        "c = Conv(b, w2) n = Shape<start = 0, end = 1>(c) s = Shape<start = 2, end = 4>(c) "
        "k = Constant<value_ints = [3,7]>() t = Concat<axis = 0>(n, k, s) r = Reshape(c, t) "
        "y = Transpose<perm = [0,1,3,4,2]>(r) }",
        {"w1": (32, 3, 3, 3), "w2": (21, 32, 1, 1)},
        [{"x": (1, 3, 64, 96)}, {"x": (3, 3, 96, 64)}, {"x": (2, 3, 20, 12)}],
    ),
    "two sequences of different lengths": (
        "g (float[N,T,16] x, float[N,S,16] z) => (float[N,t,5] y) { q = MatMul(x, w1) k = MatMul(z, w2) "
        "p = Transpose<perm = [0,2,1]>(k) a = MatMul(q, p) s = Softmax(a) v = MatMul(s, k) c = MatMul(v, w3) "
        "n = Shape(c) y = Reshape(c, n) }",
        {"w1": (16, 24), "w2": (16, 24), "w3": (24, 5)},
        [{"x": (1, 7, 16), "z": (1, 3, 16)}, {"x": (3, 2, 16), "z": (3, 9, 16)}],
    ),
    "squeezed if it is one": (
        "g (float[N,8] x) => (float[] y) { h = MatMul(x, w1) r = Relu(h) z = MatMul(r, w2) s = Shape<end = 1>(z) "
        "one = Constant<value_ints = [1]>() e = Equal(s, one) q = Squeeze(e) zero = Constant<value_ints = [0]>() "
        "y = If(q) <then_branch = t () => (float[] u) { u = Squeeze(z, zero) }, "
        "else_branch = f () => (float[] v) { v = Identity(z) }> }",
        {"w1": (8, 24), "w2": (24, 5)},
        [{"x": (1, 8)}, {"x": (2, 8)}, {"x": (5, 8)}],
    ),
    "padded to a multiple": (
        "g (float[N,3,H,W] x) => (float[N,12,h,w] y) { s = Shape<start = 2>(x) m = Constant<value_int = 8>() "
        "a = Mod(s, m) b = Sub(m, a) c = Mod(b, m) z = Constant<value_ints = [0,0,0,0,0,0]>() "
        "p = Concat<axis = 0>(z, c) x2 = Pad(x, p) d = SpaceToDepth<blocksize = 2>(x2) e = Conv(d, w1) r = Relu(e) "
        "y = Conv(r, w2) }",
        {"w1": (24, 12, 1, 1), "w2": (12, 24, 1, 1)},
        [{"x": (1, 3, 60, 64)}, {"x": (3, 3, 33, 50)}],
    ),
    "at most so many": (
        "g (float[N,L,8] x) => (float[N,k,5] y) { h = MatMul(x, w1) r = Relu(h) c = MatMul(r, w2) "
        "s = Shape<start = 1, end = 2>(c) m = Constant<value_ints = [10]>() k = Min(s, m) "
        "v, i = TopK<axis = 1>(c, k) y = Identity(v) }",
        {"w1": (8, 24), "w2": (24, 5)},
        [{"x": (1, 4, 8)}, {"x": (2, 9, 8)}, {"x": (1, 30, 8)}],
    ),
    "a branch on the length": (
        "g (float[N,L,8] x) => (float[N,L,5] y) { h = MatMul(x, w1) r = Relu(h) s = Shape<start = 1, end = 2>(r) "
        "m = Constant<value_ints = [12]>() g = Greater(s, m) q = Squeeze(g) c = MatMul(r, w2) "
        "y = If(q) <then_branch = t () => (float[N,L,5] u) { u = Neg(c) }, "
        "else_branch = f () => (float[N,L,5] v) { v = Tanh(c) }> }",
        {"w1": (8, 24), "w2": (24, 5)},
        [{"x": (1, 4, 8)}, {"x": (2, 13, 8)}],
    ),
    "an end that is clamped": (
        "g (float[N,L,8] x) => (float[N,l,5] y) { h = MatMul(x, w1) r = Relu(h) z = Constant<value_ints = [0]>() "
        "e = Constant<value_ints = [20]>() a = Constant<value_ints = [1]>() c = Slice(r, z, e, a) "
        "s = Shape(c) k = MatMul(c, w2) n = Gather(s, a) b = Gather(s, z) f = Constant<value_ints = [5]>() "
        "t = Concat<axis = 0>(b, n, f) y = Reshape(k, t) }",
        {"w1": (8, 24), "w2": (24, 5)},
        [{"x": (1, 4, 8)}, {"x": (2, 21, 8)}, {"x": (3, 40, 8)}],
    ),
    "a part that may be empty": (
        "g (float[N,L,M,8] x) => (float[N,k,l,5] y) { h = MatMul(x, w1) r = Relu(h) a = Constant<value_ints = [1,2]>() "
        "z = Constant<value_ints = [0,-7]>() e = Constant<value_ints = [-7,-3]>() c = Slice(r, z, e, a) "
        "d = MatMul(c, w2) s = Shape(d) f = Neg(d) y = Reshape(f, s) }",
        {"w1": (8, 24), "w2": (24, 5)},
        [{"x": (1, 4, 9, 8)}, {"x": (2, 5, 5, 8)}, {"x": (3, 12, 11, 8)}],
    ),
    "heads folded into the batch": (
        "g (float[N,L,16] x) => (float[N,L,5] y) { q = MatMul(x, w1) s = Shape(x) z = Constant<value_int = 0>() "
        "o = Constant<value_int = 1>() n = Gather(s, z) l = Gather(s, o) h = Constant<value_int = 4>() m = Mul(n, h) "
        "ax = Constant<value_ints = [0]>() n1 = Unsqueeze(n, ax) l1 = Unsqueeze(l, ax) m1 = Unsqueeze(m, ax) "
        "hd = Constant<value_ints = [4,8]>() d = Constant<value_ints = [8]>() hs = Constant<value_ints = [32]>() "
        "t4 = Concat<axis = 0>(n1, l1, hd) a = Reshape(q, t4) p = Transpose<perm = [0,2,1,3]>(a) "
        "t3 = Concat<axis = 0>(m1, l1, d) b = Reshape(p, t3) e = Tanh(b) "
        "hl = Constant<value_ints = [4]>() u4 = Concat<axis = 0>(n1, hl, l1, d) c = Reshape(e, u4) "
        "w = Transpose<perm = [0,2,1,3]>(c) u3 = Concat<axis = 0>(n1, l1, hs) f = Reshape(w, u3) y = MatMul(f, w2) }",
        {"w1": (16, 32), "w2": (32, 5)},
        [{"x": (1, 3, 16)}, {"x": (3, 7, 16)}],
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("anonymous", [False, True], ids=["named", "anonymous"])
def test_other_sizes_than_those_tried(name: str, anonymous: bool) -> None:
    graph, weights, trials = CASES[name]
    model = filled(HEAD + graph, weights)
    if anonymous:
        for value in model.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = "?"
    coupling = tg.analyze(load(model))
    assert coupling.units > 1
    mask = tg.select(coupling, tg.Target(channels=0.6), criterion="random", seed=1)
    opened, gated = (tg.gate(coupling.model, m) for m in (tg.Mask.all_open(coupling), mask))
    pruned = tg.apply(coupling.model, mask)
    rng = np.random.default_rng(0)
    for shapes in trials:
        feeds = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
        expected, same, closed, cut = (run_plain(m, feeds) for m in (model, opened, gated, pruned))
        for a, b, c, d in zip(expected, same, closed, cut, strict=True):
            assert a.shape == b.shape == c.shape == d.shape
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(c, d, rtol=1e-4, atol=1e-5)


def test_no_claim_is_contradicted_by_what_was_swept() -> None:
    for graph, weights, _ in CASES.values():
        assert load(filled(HEAD + graph, weights)).symbols.dropped == []


def test_hints_are_no_values() -> None:
    """What the file states of an inner shape helps analysis, and is not stored; no dynamic axis becomes a number."""
    text = (
        "g (float[N,3,8,8] x, int64[4] shape) => (float[] y) "
        "<float[1,16,4,16] u, float[N,16,8,8] a> { a = Conv<pads = [1,1,1,1]>(x, w1) r = Relu(a) u = Reshape(r, shape) "
        "y = ReduceMax<axes = [3], keepdims = 0>(u) }"
    )
    model = filled(HEAD + text, {"w1": (16, 3, 3, 3)})
    opened = tg.gate(model, tg.Mask.all_open(tg.analyze(load(model))))
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    for shape in ([1, 16, 16, 4], [1, 16, 8, 8], [2, 8, 8, 8]):
        feeds = {"x": x, "shape": np.array(shape)}
        np.testing.assert_allclose(run_plain(model, feeds)[0], run_plain(opened, feeds)[0], rtol=1e-5)


def test_stated_sizes_follow_the_cut_and_open_ones_stay_open() -> None:
    text = (
        "g (float[N,8] x) => (float[N,5] y) <float[N,24] h, float[B,24] r> "
        "{ h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
    )
    coupling = tg.analyze(load(filled(HEAD + text, {"w1": (8, 24), "w2": (24, 5)})))
    pruned = tg.apply(coupling.model, tg.select(coupling, tg.Target(channels=0.5), criterion="random"))
    stated = {v.name: v.type.tensor_type.shape.dim for v in pruned.graph.value_info}
    assert {name: [d.dim_value or d.dim_param for d in dims] for name, dims in stated.items()} == {
        "h": ["N", 12],
        "r": ["B", 12],
    }


def test_a_shape_pins_only_the_axes_that_are_read() -> None:
    text = (
        "g (float[N,3,H,8] x) => (float[N,4] y) { a = Conv<pads = [1,1,1,1]>(x, w1) s = Shape(a) "
        "i = Constant<value_int = 2>() h = Gather(s, i) f = Cast<to = 1>(h) "
        "m = ReduceMean<axes = [2,3], keepdims = 0>(a) k = Mul(m, f) y = MatMul(k, w2) }"
    )
    assert tg.analyze(load(filled(HEAD + text, {"w1": (16, 3, 3, 3), "w2": (16, 4)}))).units == 16


def test_sizes_that_depend_on_data_leave_the_rest_prunable() -> None:
    text = (
        "g (float[N,8] x, bool[N] keep) => (float[k,5] y) { h = MatMul(x, w1) r = Relu(h) "
        "c = Compress<axis = 0>(r, keep) d = MatMul(c, w2) e = Relu(d) y = MatMul(e, w3) }"
    )
    model = filled(HEAD + text, {"w1": (8, 24), "w2": (24, 12), "w3": (12, 5)})
    coupling = tg.analyze(load(model))
    assert coupling.units == 36
    pruned = tg.apply(coupling.model, tg.select(coupling, tg.Target(channels=0.5), criterion="random"))
    feeds = {"x": np.ones((4, 8), np.float32), "keep": np.array([True, False, True, True])}
    assert run_plain(pruned, feeds)[0].shape == (3, 5)


def test_an_open_channel_axis_is_what_the_weight_says() -> None:
    text = "g (float[A,B,C,D] x) => (float[a,b,c,d] y) { h = Conv(x, w1) r = Relu(h) y = Conv(r, w2) }"
    loaded = load(filled(HEAD + text, {"w1": (16, 3, 1, 1), "w2": (5, 16, 1, 1)}))
    assert loaded.shapes["x"][1] == 3
    assert tg.analyze(loaded).units == 16
    assert tg.prune(loaded).check.ok


def test_shapes_that_are_asked_for_are_counted_and_narrow_nothing() -> None:
    text = "g (float[N,3,H,W] x) => (float[n,5,h,w] y) { h = Conv(x, w1) r = Relu(h) y = Conv(r, w2) }"
    model = filled(HEAD + text, {"w1": (16, 3, 1, 1), "w2": (5, 16, 1, 1)})
    wide, square = load(model, {"x": (1, 3, 40, 60)}), load(model, {"x": (1, 3, 20, 20)})
    flops = [tg.analyze(m).cost_model.cost().flops for m in (wide, square)]
    assert flops[0] == 6 * flops[1]
    result = tg.prune(wide)
    assert result.counted_at == {"x": (1, 3, 40, 60)}
    assert [d.dim_param for d in result.model.graph.input[0].type.tensor_type.shape.dim] == [
        "N",
        "",
        "H",
        "W",
    ]


@pytest.mark.parametrize(
    "asked", [{"z": (1, 3, 8, 8)}, {"x": (1, 3, 8)}, {"x": (1, 4, 8, 8)}, {"x": (1, 3, 0, 8)}]
)
def test_shapes_that_cannot_be_are_refused(asked: dict[str, tuple[int, ...]]) -> None:
    text = "g (float[N,3,H,W] x) => (float[n,5,h,w] y) { y = Conv(x, w1) }"
    with pytest.raises(UsageError, match=r"named .z|it cannot be"):
        load(filled(HEAD + text, {"w1": (5, 3, 1, 1)}), asked)


def test_shapes_are_written_with_their_input() -> None:
    assert parse_shapes(["x:1,3,8,9", "a:0:2x4"]) == {"x": (1, 3, 8, 9), "a:0": (2, 4)}
    with pytest.raises(UsageError, match="as in x:1,3,224,320"):
        parse_shapes(["x=1,3"])


def test_a_shape_can_be_fixed(tmp_path: Path) -> None:
    from tgonnx.cli.app import main

    text = "g (float[N,3,H,W] x) => (float[N,5,H,W] y) { h = Conv(x, w1) r = Relu(h) y = Conv(r, w2) }"
    source, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(filled(HEAD + text, {"w1": (16, 3, 1, 1), "w2": (5, 16, 1, 1)}), source)
    assert main(["prune", str(source), "-o", str(out), "--fix-shape", "x:1,3,24,32", "-q"]) == 0
    graph = onnx.load(out).graph
    for value in (graph.input[0], graph.output[0]):
        assert [d.dim_value for d in value.type.tensor_type.shape.dim][2:] == [24, 32]


def test_a_branch_that_is_inlined_brings_known_constants() -> None:
    branch = helper.make_graph(
        [
            helper.make_node("Constant", [], ["ax"], value=numpy_helper.from_array(np.array([2]))),
            helper.make_node("Squeeze", ["r", "ax"], ["s"]),
        ],
        "t",
        [],
        [helper.make_tensor_value_info("s", 1, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["r"], ["i"])], "e", [], [helper.make_tensor_value_info("i", 1, None)]
    )
    text = (
        "g (float[N,3,4,32] x) => (float[N,5,32] y) { a = Conv<strides = [4,1], pads = [1,1,1,1]>(x, w1) r = Relu(a) "
        "n = Shape<start = 2, end = 3>(r) one = Constant<value_ints = [1]>() q0 = Equal(n, one) q = Squeeze(q0) "
        "t = Identity(r) c = Conv<pads = [1,1]>(t, w2) d = Relu(c) y = Conv(d, w3) }"
    )
    model = filled(HEAD + text, {"w1": (16, 3, 3, 3), "w2": (24, 16, 3), "w3": (5, 24, 1)})
    node = next(n for n in model.graph.node if n.output[0] == "t")
    node.CopyFrom(helper.make_node("If", ["q"], ["t"], then_branch=branch, else_branch=other))
    assert tg.analyze(load(model)).units == 40


def test_a_length_that_the_trace_fixed_is_found() -> None:
    """Declared open, but only one length runs: it stands in a reshape target."""
    text = (
        "g (float[N,T,6] x) => (float[N,t,5] y) { h = MatMul(x, w1) r = Relu(h) "
        "a = Constant<value_ints = [-1,11,24]>() c = Reshape(r, a) d = Add(c, p) y = MatMul(d, w2) }"
    )
    loaded = load(filled(HEAD + text, {"w1": (6, 24), "p": (1, 11, 24), "w2": (24, 5)}))
    assert loaded.shapes["x"] == (2, 11, 6)
    assert tg.analyze(loaded).units == 24
    assert tg.prune(loaded).check.ok
