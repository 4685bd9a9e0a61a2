"""The measure: a wrong model fails it, rounding passes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import tgonnx as tg
from tests.test_verify import parse
from tgonnx.runtime.measure import Array, Noise, channel_extent, measure
from tgonnx.runtime.noise import stepping_outputs, twin

RNG = np.random.default_rng(0)


def weighted(text: str, **arrays: Array) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in arrays.items())
    return model


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def with_constant(model: onnx.ModelProto, dtype: type) -> onnx.ModelProto:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype), "unused"))
    return model


def pair(text: str, right: str, wrong: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    assert text.count("HERE") == 1
    return parse(text.replace("HERE", right)), parse(text.replace("HERE", wrong))


WRONG = {
    "three channels beside one that dominates": pair(
        "m (float[N,4] x) => (float[N,4] y) <float[4] k = {HERE}> { y = Mul(x, k) }",
        "1000000.0, 1.0, 1.0, 1.0",
        "1000000.0, 1.0, 1.001, 1.0",
    ),
    "class scores beside boxes in pixels": pair(
        "m (float[N,4,8] b, float[N,5,8] s) => (float[N,9,8] y) <float pixels = {640.0}, float k = {HERE}> "
        "{ c = Mul(b, pixels)\n p = Sigmoid(s)\n q = Mul(p, k)\n y = Concat <axis = 1> (c, q) }",
        "1.0",
        "1.05",
    ),
    "class scores in the last axis": pair(
        "m (float[N,300,4] b, float[N,300,5] s) => (float[N,300,9] y) <float pixels = {640.0}, float k = {HERE}> "
        "{ c = Mul(b, pixels)\n p = Sigmoid(s)\n q = Mul(p, k)\n y = Concat <axis = 2> (c, q) }",
        "1.0",
        "1.05",
    ),
    "integers that are large": pair(
        "m (float[N,4] x) => (int64[N,4] y) <int64 k = {HERE}> { c = Cast <to = 7> (x)\n y = Add(c, k) }",
        "100000",
        "100009",
    ),
    "activations beyond 6": pair(
        "m (float[N,4] x) => (float[N,4] y) <float k = {HERE}, float z = {0.0}> { y = Clip(x, z, k) }",
        "1000.0",
        "6.0",
    ),
    "rows of a table behind an offset": pair(
        "m (int64[N,T] ids) => (float[N,T,k] y) <int64 one = {1}, float[6,1] t = {HERE}> "
        "{ i = Sub(ids, one)\n y = Gather(t, i) }",
        "0.0, 1.0, 2.0, 3.0, 4.0, 5.0",
        "0.0, 1.0, 2.0, 3.0, 4.0, 9.0",
    ),
    "pixels of an image": pair(
        "m (uint8[N,4] x) => (float[N,4] y) { z = Cast <to = HERE> (x)\n y = Cast <to = 1> (z) }", "6", "9"
    ),
    "a mask that is ignored": pair(
        "m (float[N,4] x, bool[N,4] mask) => (float[N,4] y) { z = HERE(x)\n y = Where(mask, x, z) }",
        "Neg",
        "Identity",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_models_differ(name: str) -> None:
    right, wrong = WRONG[name]
    assert tg.verify(right, right).ok
    assert tg.verify(right, wrong).verdict == "different"
    assert tg.verify(wrong, right).verdict == "different"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_constant_that_nothing_reads_loosens_nothing(dtype: type) -> None:
    right, wrong = pair(
        "m (float[N,4] x) => (float[N,4] y) <float k = {HERE}> { y = Mul(x, k) }", "1.0", "1.001"
    )
    check = tg.verify(with_constant(right, dtype), with_constant(wrong, dtype))
    assert check.verdict == "different"
    assert check.tolerance == 1e-4


def test_a_node_of_a_suspicious_name_loosens_nothing() -> None:
    right, wrong = pair(
        "m (float[N,4] x) => (float[N,4] y) <float k = {HERE}> { y = Mul(x, k) }", "1.0", "1.001"
    )
    for model in (right, wrong):
        model.graph.node[0].name = "QuantizeLinear_QLinearConv"
    assert tg.verify(right, wrong).verdict == "different"


def cut(model: onnx.ModelProto, seed: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    loaded = tg.load(model)
    coupling = tg.analyze(loaded)
    mask = tg.select(coupling, tg.Target(channels=0.5), "random", seed, round_to=1)
    return tg.gate(loaded, mask), tg.apply(loaded, mask)


@pytest.mark.parametrize("seed", range(3))
def test_a_sigmoid_near_zero_is_rounding(seed: int) -> None:
    model = weighted(
        "g (float[N,3,32,32] x) => (float[N,1,32,32] y) { a = Conv <pads = [1, 1, 1, 1]> (x, w1)\n b = Relu(a)\n "
        "c = Conv <pads = [1, 1, 1, 1]> (b, w2, bias)\n y = Sigmoid(c) }",
        w1=normal(64, 3, 3, 3),
        w2=normal(1, 64, 3, 3) / 20,
        bias=np.array([-16], np.float32),
    )
    check = tg.verify(*cut(model, seed))
    assert check.ok
    assert check.max_rel <= check.tolerance


def beside_one_half(weight: float) -> onnx.ModelProto:
    """A small number that is rounded like one half, as runtimes round what they make of a sigmoid."""
    return weighted(
        "g (float[1,1] x) => (float[1,1] y) { a = MatMul(x, w)\n b = Add(a, half)\n y = Sub(b, half) }",
        w=np.array([[weight]], np.float32),
        half=np.array([0.5], np.float32),
    )


def test_a_number_that_last_bits_do_not_move_may_be_a_step_off() -> None:
    step, ones = 2.0**-24, [{"x": np.ones((1, 1), np.float32)}]
    edge = 1700.5 * step  # a step is a 1700th of the number, far more than is tolerated
    below, above = beside_one_half(edge * (1 - 1e-6)), beside_one_half(edge * (1 + 1e-6))
    check = tg.verify(below, above, ones)
    assert check.ok
    assert check.max_abs == step
    for steps in (10, 100, 1000):
        assert tg.verify(below, beside_one_half(edge + steps * step), ones).verdict == "different"


@pytest.mark.parametrize("seed", range(3))
def test_half_precision_is_held_to_its_own_rounding(seed: int) -> None:
    text = "g (float16[N,8] x) => (float16[N,5] y) { a = MatMul(x, w1)\n b = Relu(a)\n y = MatMul(b, w2) }"
    first, second = (normal(8, 64) / 3).astype(np.float16), (normal(64, 5) / 8).astype(np.float16)
    assert tg.verify(*cut(weighted(text, w1=first, w2=second), seed)).ok
    wrong = weighted(text, w1=first, w2=(second * np.float16(1.05)).astype(np.float16))
    assert tg.verify(weighted(text, w1=first, w2=second), wrong).verdict == "different"


QUANTISED = """g (float[N,4,16,16] x) => (float[N,3,16,16] y)
    <float s1 = {0.02}, float s2 = {0.05}, int8 zero = {0}> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        n = InstanceNormalization(a, scale, bias)
        q = QuantizeLinear(n, s1, zero)
        d = DequantizeLinear(q, s1, zero)
        c = Conv(d, w2)
        r = QuantizeLinear(c, s2, zero)
        y = DequantizeLinear(r, s2, zero)
    }"""


def quantised(factor: float = 1.0) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    return weighted(
        QUANTISED,
        w1=rng.standard_normal((16, 4, 3, 3)).astype(np.float32),
        w2=(rng.standard_normal((3, 16, 1, 1)) / 4 * factor).astype(np.float32),
        scale=np.ones(16, np.float32),
        bias=np.zeros(16, np.float32),
    )


@pytest.mark.parametrize("seed", range(3))
def test_single_steps_of_a_quantised_model_are_rounding(seed: int) -> None:
    assert tg.verify(*cut(quantised(), seed)).ok


def test_a_quantised_model_of_other_weights_differs() -> None:
    assert tg.verify(quantised(), quantised(1.03)).verdict == "different"


def test_one_step_in_a_thousand_values_is_accepted_and_one_in_ten_is_not() -> None:
    values = np.round(RNG.standard_normal((2, 8, 32, 32)) * 20) / 20
    coarse = np.where(RNG.random(values.shape) < 0.5, 0.05, 0.0)
    noise = [Noise(np.zeros(values.shape), coarse)]
    for share, fine in ((1e-3, True), (1e-1, False)):
        other = values + np.where(RNG.random(values.shape) < share, 0.05, 0.0)
        assert bool(measure(values, other, 1e-4, noise).reason) != fine
    jump = values.copy()
    jump[0, 0, 0, 0] += 0.5  # ten steps at once
    assert measure(values, jump, 1e-4, noise).reason


def test_the_scale_is_that_of_the_smallest_channel() -> None:
    values = np.array([[100.0, 1.0], [300.0, 2.0]])
    np.testing.assert_array_equal(channel_extent(values), [[100, 2], [300, 2]])


def test_an_ill_conditioned_function_has_rare_large_noise() -> None:
    values, noise = np.full((2, 4), 100.0, np.float32), [Noise(np.full((2, 4), 0.05))]
    near, far = values + np.float32(1.0), values + np.float32(2.0)
    assert not measure(values, near, 1e-4, noise).reason
    assert measure(values, far, 1e-4, noise).reason
    usual = [Noise(np.full((2, 4), 0.005))]
    assert measure(values, values + np.float32(0.05), 1e-4, usual).reason


def test_random_numbers_are_no_proof() -> None:
    model = parse("m (float[N,4] x) => (float[N,4] y) { r = RandomNormalLike(x)\n y = Add(x, r) }")
    check = tg.verify(model, model)
    assert not check.ok
    assert any("another each time" in doubt for doubt in check.inconclusive)


def test_outputs_that_are_always_zero_are_no_proof() -> None:
    model = parse("m (float[N,4] x) => (float[N,4] y) <float k = {100.0}> { z = Sub(x, k)\n y = Relu(z) }")
    check = tg.verify(model, model)
    assert check.inconclusive == ("output 'y' of the first is 0 on all inputs tried",)
    assert check.complaint.endswith("give real inputs with --data")


def test_behind_classes_that_are_equally_likely_their_scores_are_compared() -> None:
    """Weights that are all alike, as in files that only show an architecture."""
    right, wrong = pair(
        "m (float[N,4] x) => (float[N,5] y) <float[4,5] w = {HERE}> { s = MatMul(x, w)\n y = Softmax(s) }",
        ", ".join(["0.5"] * 20),
        ", ".join(["0.6"] * 20),
    )
    assert tg.verify(right, right).ok
    assert tg.verify(right, wrong).reasons[0].startswith("output 's': differs")


def test_an_output_that_depends_on_sizes_only_may_be_constant() -> None:
    model = parse(
        "m (float[N,4] x) => (float[N,4] y, int64[1] width) { y = Neg(x)\n width = Shape <start = 1> (x) }"
    )
    assert tg.verify(model, model).ok


def test_an_input_that_changes_nothing_is_no_proof() -> None:
    model = parse(
        "m (float[N,4] x, int64[N,4] at) => (float[N,4] y) <float far = {1.0e7}> "
        "{ f = Cast <to = 1> (at)\n s = Sqrt(f)\n c = Greater(s, far)\n z = Neg(x)\n y = Where(c, z, x) }"
    )
    assert tg.verify(model, model).inconclusive == (
        "input 'at' of the first changes nothing at the values tried",
    )


@pytest.mark.parametrize("comparison", ["Equal", "Greater", "LessOrEqual"])
def test_what_an_integer_is_compared_with_is_met(comparison: str) -> None:
    text = (
        "m (float[N,4] x, int64 rate) => (float[N,4] y) <int64 known = {1000000}, int64 two = {2}> "
        f"{{ d = Mul(rate, two)\n c = {comparison}(d, known)\n z = HERE(x)\n y = Where(c, z, x) }}"
    )
    right, wrong = pair(text, "Neg", "Abs")
    assert tg.verify(right, right).ok
    assert tg.verify(right, wrong).verdict == "different"


def test_an_input_times_a_stored_zero_changes_nothing_and_that_is_known() -> None:
    """As an exporter is made to keep an input that nothing needs."""
    right, wrong = pair(
        "m (float[N,4] x, int64 rate) => (float[N,4] y) <int64 none = {HERE}> "
        "{ m = Mul(rate, none)\n f = Cast <to = 1> (m)\n y = Add(x, f) }",
        "0",
        "1",
    )
    assert tg.verify(right, right).ok
    assert tg.verify(right, wrong).verdict == "different"


def test_twins_leave_settings_alone() -> None:
    model = weighted(
        "g (float[N,1,4,4] x) => (float[N,1,h,w] y) { p = Pow(x, two)\n z = Mul(p, k)\n y = Resize(z, , scales) }",
        two=np.array(2, np.float32),
        k=np.array([3], np.float32),
        scales=np.array([1, 1, 2, 2], np.float32),
    )
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in twin(model, 0).graph.initializer}
    assert values["two"] == 2
    assert values["scales"].tolist() == [1, 1, 2, 2]
    assert 0 < abs(values["k"][0] - 3) < 1e-5


def test_casts_of_ids_are_no_steps() -> None:
    model = parse(
        "m (int32[N,T] ids, float[N,4] x) => (float[N,T,1] y, float[N,4] z) <float[2,1] t = {1.0, 2.0}> "
        "{ i = Cast <to = 7> (ids)\n y = Gather(t, i)\n h = Cast <to = 10> (x)\n z = Cast <to = 1> (h) }"
    )
    assert stepping_outputs(model) == {"z"}
