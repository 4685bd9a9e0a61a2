"""Sizes that a file stores: a cut changes those of the axes it cuts and leaves the others as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from oracle import check_exact, run
from test_operators import model, units_of

from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.selection.budget import random_mask

FAR = 2**31 - 1


def stored(proto: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def halved(proto: onnx.ModelProto, *shapes: tuple[int, ...]) -> onnx.ModelProto:
    """Half of the channels removed; the numbers agree with the gated model's for inputs of each shape."""
    coupling = analyze(load(proto))
    mask = random_mask(coupling, 0.5, 0)
    pruned, gated = apply(coupling, mask), gate(coupling, mask)
    assert not mask.open.all()
    for shape in shapes:
        feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        (wanted,), (found,) = run(gated, feeds), run(pruned, feeds)
        assert found.shape == wanted.shape == run(proto, feeds)[0].shape
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    return pruned


def array_of(proto: onnx.ModelProto, op_type: str, index: int) -> list[int]:
    """What input `index` of the only node of this type stores."""
    (node,) = (n for n in proto.graph.node if n.op_type == op_type)
    return next(
        numpy_helper.to_array(t).tolist() for t in proto.graph.initializer if t.name == node.input[index]
    )


CONVS = "float[16,3,3,3] a, float[4,16,1,1] b"
ANY = "(float[N,3,H,W] x) => (float[M,4,K,L] y)"
SHAPES = (1, 3, 8, 8), (5, 3, 7, 12)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_a_slice_over_all_axes_keeps_the_ends_of_those_that_are_not_cut(kind: type) -> None:
    proto = model(17, ANY, CONVS, "h = Conv <pads=[1,1,1,1]> (x, a) s = Slice(h, st, en) y = Conv(s, b)")
    stored(proto, st=np.zeros(4, kind), en=np.array([FAR, 16, FAR, -1], kind))
    pruned = halved(proto, *SHAPES)
    assert array_of(pruned, "Slice", 2) == [FAR, 8, FAR, -1]
    assert all(t.data_type == helper.np_dtype_to_tensor_dtype(np.dtype(kind))
               for t in pruned.graph.initializer if t.name.startswith(("st", "en")))  # fmt: skip


def test_a_slice_of_older_opsets_likewise() -> None:
    body = f"s = Slice <starts=[0,0,0,-5], ends=[{FAR},{FAR},-1,{FAR}]> (h) y = Conv(s, b)"
    pruned = halved(model(9, ANY, CONVS, "h = Conv <pads=[1,1,1,1]> (x, a) " + body, ir=8), *SHAPES)
    (node,) = (n for n in pruned.graph.node if n.op_type == "Slice")
    found = {a.name: list(a.ints) for a in node.attribute}
    assert found == {"starts": [0, 0, 0, -5], "ends": [FAR, 8, -1, FAR]}


def test_a_slice_with_one_computed_end_leaves_channels_prunable() -> None:
    """end = (16, H - 2): the file keeps computing the second."""
    body = (
        "h = Conv <pads=[1,1,1,1]> (x, a) n = Shape <start=2, end=3> (x) m = Sub(n, two) en = Concat <axis=0> (c, m) "
        "s = Slice(h, st, en, ax) y = Conv(s, b)"
    )
    proto = stored(
        model(17, ANY, CONVS, body), two=np.array([2]), c=np.array([16]), st=np.zeros(2, np.int64), ax=np.array([1, 2])
    )  # fmt: skip
    halved(proto, *SHAPES)


def test_padding_to_a_multiple_of_eight_leaves_channels_prunable() -> None:
    body = (
        "h = Conv <pads=[1,1,1,1]> (x, a) n = Shape <start=2> (x) r = Mod(n, e) d = Sub(e, r) p = Mod(d, e) "
        "pads = Concat <axis=0> (z, z, z, p) q = Pad(h, pads) y = Conv(q, b)"
    )
    proto = stored(model(17, ANY, CONVS, body), e=np.array([8, 8]), z=np.zeros(2, np.int64))
    halved(proto, (1, 3, 8, 8), (5, 3, 13, 24), (2, 3, 7, 9))


@pytest.mark.parametrize(("body", "arrays", "op_type", "place", "wanted"), [
    ("e = Expand(h, t) y = Conv(e, b)", {"t": np.array([1, 16, 1, 1])}, "Expand", 1, [1, 8, 1, 1]),
    ("g = Unsqueeze(h, l) i = Tile(g, t) j = ReduceMean <axes=[1], keepdims=0> (i) y = Conv(j, b)",
     {"t": np.array([1, 3, 1, 1, 1]), "l": np.array([1])}, "Tile", 1, [1, 3, 1, 1, 1]),
    ("p = Pad(h, t) y = Conv(p, c)", {"t": np.array([0, -8, 0, 1, 0, 0, 0, -1])}, "Pad", 1, [0, -4, 0, 1, 0, 0, 0, -1]),
    ("p, q = Split <axis=1> (h, t) m = Mul(p, q) y = Conv(m, c)", {"t": np.array([8, 8])}, "Split", 1, [4, 4]),
    ("r = Reshape(h, t) y = Conv(r, b)", {"t": np.array([0, 16, 0, -1])}, "Reshape", 1, [0, 8, 0, -1]),
])  # fmt: skip
def test_untouched_elements_stay(
    body: str, arrays: dict[str, np.ndarray], op_type: str, place: int, wanted: list[int]
) -> None:
    weights = "float[16,3,3,3] a, " + ("float[4,8,1,1] c" if "c)" in body else "float[4,16,1,1] b")
    proto = stored(model(17, ANY, weights, "h = Conv <pads=[1,1,1,1]> (x, a) " + body), **arrays)
    assert array_of(halved(proto, *SHAPES), op_type, place) == wanted


def test_a_squeeze_without_axes_keeps_an_axis_that_is_cut_to_one() -> None:
    proto = model(
        17, "(float[2,3,1,1] x) => (float[2,4] y)", "float[2,3,1,1] a, float[2,4] b",
        "h = Conv(x, a) s = Squeeze(h) y = MatMul(s, b)",
    )  # fmt: skip
    assert units_of(proto) == [2]


INTERLEAVED = "(float[2,12] x) => (float[2,5] y)"


@pytest.mark.parametrize(("channels", "slices", "out", "groups"), [
    (32, ["0 far 2", "1 far 2"], 16, [16]),
    (32, ["0 far 4", "1 far 4", "2 far 4", "3 far 4"], 8, [8]),
    (33, ["0 far 3", "1 far 3", "2 far 3"], 11, [11]),
    (34, ["0 32 4", "1 32 4"], 8, [8]),  # the last two channels are no whole block
    (17, ["0 -1 2", "1 far 2"], 8, [8]),
    (32, ["-1 -100 -2", "-2 -100 -2"], 16, [16]),
    (32, ["6 22 2", "7 23 2"], 8, [8]),  # starts and ends inside
    (32, ["0 16 2", "17 far 2"], 8, [8]),  # the halves go in pairs
    (14, ["1 far 4", "13 far 4"], 0, []),
])  # fmt: skip
def test_deinterleaving(channels: int, slices: list[str], out: int, groups: list[int]) -> None:
    """A product of `x[:, a::n]` and `x[:, b::n]`: blocks of n channels are the units."""
    if not groups:
        slices, out = slices[:1], 4
    body, arrays = "h = MatMul(x, a) ", {"ax": np.array([1])}
    for i, text in enumerate(slices):
        start, end, step = (FAR if n == "far" else int(n) for n in text.split())
        arrays |= {f"s{i}": np.array([start]), f"e{i}": np.array([end]), f"t{i}": np.array([step])}
        body += f"p{i} = Slice(h, s{i}, e{i}, ax, t{i}) "
    body += "m = Sigmoid(p0) " + " ".join(
        f"m{i} = Mul({'m' if i == 1 else f'm{i - 1}'}, p{i})" for i in range(1, len(slices))
    )
    last = "m" if len(slices) == 1 else f"m{len(slices) - 1}"
    weights = f"float[12,{channels}] a, float[{out},5] b"
    proto = stored(model(17, INTERLEAVED, weights, f"{body} y = MatMul({last}, b)"), **arrays)
    for seed in range(4):
        coupling = check_exact(proto, seed, keep=0.4)
    if groups:
        assert [g.size for g in coupling.groups if g.width > 1 or channels == out] == groups


def test_interleaved_rotation_is_cut_by_pairs() -> None:
    """x[.., ::2] and x[.., 1::2] rotated against each other and interleaved again."""
    body = (
        "h = MatMul(x, a) e = Slice(h, zero, far, ax, two) o = Slice(h, one, far, ax, two) "
        "eu = Mul(e, u) ov = Mul(o, v) ev = Mul(e, v) ou = Mul(o, u) p = Sub(eu, ov) q = Add(ev, ou) "
        "p1 = Unsqueeze(p, new) q1 = Unsqueeze(q, new) s = Concat <axis=3> (p1, q1) r = Reshape(s, t) y = MatMul(r, b)"
    )
    weights = "float[12,16] a, float[5,8] u, float[5,8] v, float[16,4] b"
    proto = model(17, "(float[2,5,12] x) => (float[2,5,4] y)", weights, body)
    numbers = {"zero": [0], "one": [1], "far": [FAR], "ax": [-1], "two": [2], "new": [-1], "t": [0, 0, -1]}
    assert units_of(stored(proto, **{k: np.array(v) for k, v in numbers.items()})) == [8]


HINTED = "(float[1,3,8,8] x, int64[{rank}] n) => (float[1,4,k,l] y)"


@pytest.mark.parametrize(("node", "rank", "shape"), [
    ("Resize(h, , , n)", 4, (1, 16, 12, 12)), ("Reshape(h, n)", 4, (1, 16, 16, 4)), ("Expand(h, n)", 4, (1, 16, 8, 8)),
    ("Tile(h, n)", 4, (1, 16, 8, 8)), ("CenterCropPad(h, n)", 4, (1, 16, 6, 6)), ("Pad(h, n)", 8, (1, 16, 9, 9)),
])  # fmt: skip
def test_a_size_that_the_user_gives_keeps_the_channels(node: str, rank: int, shape: tuple[int, ...]) -> None:
    """The file only remarks what shape comes out; what the user says of channels would not follow a cut."""
    proto = model(
        18, HINTED.format(rank=rank), CONVS, f"h = Conv <pads=[1,1,1,1]> (x, a) u = {node} y = Conv(u, b)"
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, shape))
    coupling = analyze(load(proto))
    assert coupling.units == 0
    (pin,) = (p for p in coupling.pinned if (p.value, p.axis) == ("a", 0))
    assert pin.op_type == node.split("(")[0]


@pytest.mark.parametrize(("shape", "groups"), [((2, 6, 4, 4), [6]), ((2, 6, 5, 5), [])])
def test_unpooling_to_a_given_size(shape: tuple[int, ...], groups: list[int]) -> None:
    """Indices count through all channels: those of 4 x 4 do not fit images of 5 x 5."""
    body = (
        "h = Conv(x, a) p, i = MaxPool <kernel_shape=[2,2], strides=[2,2]> (h) "
        "u = MaxUnpool <kernel_shape=[2,2], strides=[2,2]> (p, i, n) y = Conv(u, b)"
    )
    proto = model(18, f"(float[2,3,6,6] x) => (float[2,4,{shape[2]},{shape[3]}] y)",
                  "float[6,3,3,3] a, float[4,6,1,1] b", body)  # fmt: skip
    stored(proto, n=np.array(shape))
    coupling = check_exact(proto, 0)
    assert [group.size for group in coupling.groups] == groups


def test_an_axis_that_is_empty_at_the_usual_length_is_measured_at_a_longer_one() -> None:
    proto = model(
        17,
        "(float[N,3,T] x) => (float[M,4] y)",
        "float[16,3,9] a, float[16,4] b, int64[1] last = {2}, float one = {1.0}",
        "h = Conv(x, a) sizes = Shape(h) t = Gather(sizes, last) n = ReduceProd <keepdims=0> (t)"
        "m = ReduceMean <axes=[2]> (h) d = Sub(h, m) q = Mul(d, d) v = ReduceMean <axes=[2], keepdims=0> (q)"
        "f = Cast <to=1> (n) p = Mul(v, f) e = Sub(f, one) u = Div(p, e) y = MatMul(u, b)",
    )
    assert units_of(proto) == [16]
    halved(proto, (1, 3, 16), (3, 3, 41))


def test_a_reshape_that_fixes_the_side_of_images_finds_that_side() -> None:
    """An axis is declared free, but the trace wrote down what it came to; inference lets any other size pass."""
    proto = model(
        17,
        "(float[N,3,H,W] x) => (float[M,4,K,L] y)",
        "float[16,3,1,1] a, float[4,16,1,1] b, int64[6] six = {0,16,8,2,8,2}, int64[4] four = {0,16,16,16}",
        "h = Conv(x, a) s = Reshape(h, six) t = Transpose <perm=[0,1,3,2,5,4]> (s) u = Reshape(t, four) y = Conv(u, b)",
    )
    assert units_of(proto) == [16]
    halved(proto, (1, 3, 16, 16), (2, 3, 32, 8))


@pytest.mark.parametrize(("order", "units"), [((0, 2, -1), [3]), ((0, 1, -1), [6])])
def test_statistics_over_channels_times_space_of_any_size(order: tuple[int, ...], units: list[int]) -> None:
    """GroupNormalization as exporters write it."""
    proto = model(
        17,
        ANY,
        f"float[6,3,1,1] a, float[4,6,1,1] b, int64[3] to = {{{','.join(map(str, order))}}}, "
        f"float[{order[1]}] one = {{{','.join(['1.0'] * order[1])}}}, "
        f"float[{order[1]}] no = {{{','.join(['0.0'] * order[1])}}}",
        "h = Conv(x, a) s = Shape(h) r = Reshape(h, to) i = InstanceNormalization(r, one, no) k = Reshape(i, s) "
        "y = Conv(k, b)",
    )
    assert units_of(proto) == units
    halved(proto, *SHAPES, (2, 3, 1, 5))


def test_a_sum_over_space_times_channels_of_any_size() -> None:
    """The channels are the inner factor of the axis that is summed over."""
    proto = model(
        17,
        "(float[N,3,H,W] x) => (float[M,K] y)",
        "float[6,3,1,1] a, int64[2] to = {0,-1}",
        "h = Conv(x, a) t = Transpose <perm=[0,2,3,1]> (h) r = Reshape(t, to) y = ReduceMean <axes=[1]> (r)",
    )
    assert units_of(proto) == [6]
    halved(proto, *SHAPES, (2, 3, 1, 5))
