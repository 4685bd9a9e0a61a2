"""Random inputs follow the model: ranges of tables, sizes it accepts, images in either layout."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

import tgonnx as tg
from tests.test_verify import parse
from tgonnx.errors import ModelError
from tgonnx.graph.declared import model_inputs
from tgonnx.runtime.equivalence import runnable_feeds
from tgonnx.runtime.feeds import Drawer
from tgonnx.runtime.sessions import open_session
from tgonnx.runtime.trial_sizes import Size, Trials, shapes_at


def drawn(model: onnx.ModelProto, name: str, style: str = "normal") -> set[int]:
    """The integers that are drawn for an input of many elements."""
    feeds = Drawer(model).draw(Size(batch=50, length=40), np.random.default_rng(0), style)
    return set(np.unique(feeds[name]).tolist())


TABLE = "float[5,1] t = {0.0, 1.0, 2.0, 3.0, 4.0}"
RANGES = {
    "as it is": ("y = Gather(t, ids)", range(5)),
    "cast": ("i = Cast <to = 7> (ids)\n y = Gather(t, i)", range(5)),
    "behind an offset": ("i = Sub(ids, two)\n y = Gather(t, i)", range(2, 7)),
    "behind a reversal": ("i = Sub(two, ids)\n y = Gather(t, i)", range(-2, 3)),
    "doubled": ("i = Mul(ids, two)\n y = Gather(t, i)", range(3)),
    "one way of two": ("c = Equal(ids, two)\n i = Where(c, two, ids)\n y = Gather(t, i)", range(5)),
    "of a table that is cast": ("h = Cast <to = 10> (t)\n y = Gather(h, ids)", range(5)),
    "of a table that is turned": (
        "h = Transpose <perm = [1, 0]> (t)\n y = Gather <axis = 1> (h, ids)",
        range(5),
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_ids_fill_the_range_of_their_table(name: str) -> None:
    body, wanted = RANGES[name]
    model = parse(f"m (int64[N,T] ids) => (float[a,b,c] y) <{TABLE}, int64 two = {{2}}> {{ {body} }}")
    assert drawn(model, "ids") == set(wanted)


def test_each_row_of_a_table_is_met_before_any_is_met_again() -> None:
    model = parse(f"m (int64[N] ids) => (float[N,k] y) <{TABLE}> {{ y = Gather(t, ids) }}")
    drawer, rng = Drawer(model), np.random.default_rng(0)
    values = [int(drawer.draw(Size(batch=1), rng)["ids"][0]) for _ in range(10)]
    assert sorted(values[:5]) == sorted(values[5:]) == list(range(5))


@pytest.mark.parametrize(("kind", "low", "high"), [("uint8", 0, 255), ("int8", -128, 127)])
def test_integers_of_8_bits_fill_their_range(kind: str, low: int, high: int) -> None:
    model = parse(f"m ({kind}[N,T] x) => (float[N,T] y) {{ y = Cast <to = 1> (x) }}")
    values = drawn(model, "x")
    assert min(values) == low
    assert max(values) == high


def test_numbers_that_an_input_is_compared_with_are_tried() -> None:
    model = parse(
        "m (int64[N,T] rate) => (float[N,T] y) <int64 known = {16000}> "
        "{ e = Equal(rate, known)\n y = Cast <to = 1> (e) }"
    )
    assert 16000 in drawn(model, "rate")


def test_masks_are_ones_and_then_a_mix_that_leaves_something() -> None:
    model = parse("m (int64[N,T] attention_mask) => (float[N,T] y) { y = Cast <to = 1> (attention_mask) }")
    assert drawn(model, "attention_mask") == {1}
    assert drawn(model, "attention_mask", "unit") == {0, 1}
    feeds = Drawer(model).draw(Size(3, length=5), np.random.default_rng(0), "unit")
    assert feeds["attention_mask"][:, 0].all()


def test_integers_without_a_table_go_as_far_as_the_model_takes_them() -> None:
    """The table is an input: nothing in the graph says how long it is."""
    model = parse("m (float[7,2] t, int64[N] at) => (float[N,2] y) { y = Gather(t, at) }")
    other = parse(
        "m (float[7,2] t, int64[N] at) => (float[N,2] y) <int64 five = {5}> "
        "{ i = Min(at, five)\n y = Gather(t, i) }"
    )
    assert tg.verify(model, model).ok
    assert tg.verify(model, other).verdict == "different"


def test_images_with_channels_last() -> None:
    model = parse("m (float[N,M1,M2,3] x) => (float[N,a,b,3] y) { y = Relu(x) }")
    assert shapes_at(model_inputs(model), Size(2, (40, 50))) == {"x": (2, 40, 50, 3)}


def test_the_axis_of_samples_is_known_by_its_name() -> None:
    model = parse(
        "m (float[2,N,4] state, float[N,T] x) => (float[2,N,4] y, float[N,T] z) { y = Relu(state) z = Relu(x) }"
    )
    assert shapes_at(model_inputs(model), Size(3, length=7)) == {"state": (2, 3, 4), "x": (3, 7)}


def test_sequences_of_different_names_differ_in_length() -> None:
    model = parse(
        "m (float[N,S,4] a, float[N,T,4] b, float[N,S] c) => (float[N,S,T] y, float[N,S] z) "
        "{ t = Transpose <perm = [0, 2, 1]> (b)\n y = MatMul(a, t)\n z = Relu(c) }"
    )
    shapes = shapes_at(model_inputs(model), Size(2, length=8, apart=True))
    assert shapes == {"a": (2, 8, 4), "b": (2, 11, 4), "c": (2, 8)}
    assert "a:1x8x4, b:1x11x4, c:1x8" in tg.verify(model, model).sizes


def sizes_of(text: str) -> list[tuple[int, ...]]:
    """The shapes of input x at which a model is verified."""
    model = parse(text)
    check = tg.verify(model, model)
    assert check.ok
    return [tuple(map(int, size.removeprefix("x:").split("x"))) for size in check.sizes]


def test_images_of_several_sizes_and_batches_are_tried_smallest_first() -> None:
    tried = sizes_of("m (float[N,3,H,W] x) => (float[N,3,a,b] y) { y = Relu(x) }")
    assert tried[:2] == [(1, 3, 32, 32), (3, 3, 32, 32)]
    assert {shape[0] for shape in tried} == {1, 2, 3, 5}
    assert any(height < width for _, _, height, width in tried)
    assert any(height > width for _, _, height, width in tried)
    assert any(height % 2 and width % 2 for _, _, height, width in tried)


def test_lengths_are_tried_short_odd_and_long() -> None:
    lengths = {shape[1] for shape in sizes_of("m (float[N,T] x) => (float[N,T] y) { y = Relu(x) }")}
    assert {1, 5, 8} <= lengths
    assert max(lengths) > 100


def test_sizes_that_a_net_needs_are_found() -> None:
    """Forty pixels are the least; channels come last."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    m (float[N,M1,M2,3] x) => (float[N,a,b,3] y) <int64[1] low = {39}, int64[1] high = {40}, int64[1] axis = {1}> {
        s = Slice(x, low, high, axis)
        i = Squeeze(s, axis)
        j = Unsqueeze(i, axis)
        y = Mul(x, j)
    }""")
    feeds = runnable_feeds(model, open_session(model), batch=2)[0]
    assert feeds["x"].shape == (2, 64, 64, 3)
    assert tg.verify(model, model).sizes[0] == "x:1x64x64x3"


def test_a_model_that_runs_at_other_sizes_only_is_found_out() -> None:
    """A target stored for one size: what the original runs at, the other must run at."""
    model = parse("m (float[N,T,4] x) => (float[N,k] y) <int64[2] t = {0, -1}> { y = Reshape(x, t) }")
    other = parse("m (float[N,T,4] x) => (float[N,k] y) <int64[2] t = {-1, 32}> { y = Reshape(x, t) }")
    check = tg.verify(model, other)
    assert check.verdict == "different"


def test_a_branch_on_the_batch_is_found_out() -> None:
    """squeeze(0) as exporters write it, and the same with the branch for larger batches alone."""
    then, otherwise = (f"{op} () => (float[m,k] {op}y) {{ {op}y = {op}(x) }}" for op in ("Neg", "Identity"))
    text = (
        "m (float[N,4] x) => (float[m,k] y) <int64[1] one = {1}> { n = Shape <end = 1> (x)\n e = Equal(n, one)\n "
        f"q = Squeeze(e)\n y = If (q) <then_branch = {then}, else_branch = {otherwise}> }}"
    )
    model, other = parse(text), parse("m (float[N,4] x) => (float[m,k] y) { y = Identity(x) }")
    assert tg.verify(model, model).ok
    assert tg.verify(model, other).verdict == "different"


def test_time_bounds_the_list_but_for_batches_of_1_and_3() -> None:
    model = parse("m (float[N,3,H,W] x) => (float[N,3,a,b] y) { y = Relu(x) }")
    check = tg.verify(model, model, seconds=0)
    assert check.sizes == ("x:1x3x32x32", "x:3x3x32x32")
    assert len(check.skipped) > 5
    assert {"x:2x3x32x32", "x:5x3x32x32"} <= set(check.skipped)
    assert not set(check.skipped) & set(check.sizes)
    assert check.ok


def test_trials_say_why_nothing_works() -> None:
    def fails(size: Size) -> None:
        raise ModelError(f"no {size.batch}")

    model = parse("m (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match="no 1"):
        next(Trials(model_inputs(model), fails, Size()).sizes())


def test_sizes_that_are_inputs_get_values_that_fit() -> None:
    """A target that is an input, and the same with the target that the file states stored."""
    text = (
        "m (float[1,4,6] x, int64[3] shape) => (float[a,b,c] y) <float[1,4,6] u> { u = TARGET\n y = Relu(u) }"
    )
    model = parse(text.replace("TARGET", "Reshape(x, shape)"))
    model.graph.value_info[0].type.tensor_type.shape.dim[1].dim_value = 3
    model.graph.value_info[0].type.tensor_type.shape.dim[2].dim_value = 8
    other = onnx.ModelProto()
    other.CopyFrom(model)
    assert tg.verify(model, other).ok
    other.graph.node[0].input[1] = "stored"
    other.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3, 8]), "stored"))
    assert tg.verify(model, other).verdict == "different"
