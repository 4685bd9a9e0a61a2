"""Numbers that stand for the length of an axis follow a cut: statistics of what is left, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from oracle import check_exact, run
from test_operators import model

from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.passes.insert_gates import gate, insert_gates
from tgonnx.passes.remove_channels import apply
from tgonnx.pipeline import embed
from tgonnx.selection.budget import random_mask

N = 8
SIGNATURE = "(float[M,5] x) => (float[M,3] y)"
WEIGHTS = "float[5,8] a, float[8,3] b"
Array = np.ndarray


def built(body: str, opset: int = 17, **numbers: float | list[float]) -> onnx.ModelProto:
    """h = x a, then `body` makes n of it, then y = n b. Integers are axes."""
    proto = model(opset, SIGNATURE, WEIGHTS, f"h = MatMul(x, a) {body} y = MatMul(n, b)")
    axes, eps = np.array([-1]), np.array(1e-3, np.float32)
    for name, array in {"ax": axes, "e": eps, "two": np.float32(2), "half": np.float32(0.5)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    for name, number in numbers.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), name))
    return proto


def check(proto: onnx.ModelProto, normalise: Callable[[Array], Array], keep: float = 0.5) -> None:
    """Gated and pruned model compute what numpy computes with the weights that are left."""
    coupling = analyze(load(proto))
    assert [group.size for group in coupling.groups] == [N]
    mask = random_mask(coupling, keep, 1)
    pruned = apply(coupling, mask)
    stored = {t.name: numpy_helper.to_array(t) for t in pruned.graph.initializer}
    x = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    wanted = normalise(x @ stored["a"]) @ stored["b"]
    assert stored["a"].shape[1] == mask.open.sum() < N
    for cut in (pruned, gate(coupling, mask)):
        np.testing.assert_allclose(run(cut, {"x": x})[0], wanted, rtol=2e-4, atol=2e-5)


def layer_norm(h: Array) -> Array:
    d = h - h.mean(-1, keepdims=True)
    return np.asarray(d / np.sqrt((d * d).mean(-1, keepdims=True) + 1e-3))


def unbiased(h: Array) -> Array:
    return np.asarray((h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, ddof=1, keepdims=True) + 1e-3))


def rms_norm(h: Array) -> Array:
    return np.asarray(h / np.sqrt((h * h).mean(-1, keepdims=True)))


CENTRE = "s = ReduceSum(h, ax) m = Mul(s, c) d = Sub(h, m) "
TAIL = " w = Add(v, e) r = Sqrt(w) n = Div(d, r)"
MEAN = "m = ReduceMean <axes=[-1]> (h) d = Sub(h, m) q = Mul(d, d) "


@pytest.mark.parametrize(("body", "numbers", "normalise"), [
    (CENTRE + "q = Mul(d, d) t = ReduceSum(q, ax) v = Mul(t, c)" + TAIL, {"c": 1 / N}, layer_norm),
    (CENTRE + "q = Mul(d, d) t = ReduceSum(q, ax) v = Mul(c, t)" + TAIL, {"c": [1 / N]}, layer_norm),
    ("s = ReduceSum(h, ax) m = Div(s, c) d = Sub(h, m) q = Pow(d, two) t = ReduceSum(q, ax) v = Div(t, c)" + TAIL,
     {"c": [[N]]}, layer_norm),
    (CENTRE + "t = ReduceSumSquare <axes=[-1]> (d) v = Mul(t, c)" + TAIL, {"c": 1 / N}, layer_norm),
    ("i = Reciprocal(c) s = ReduceSum(h, ax) m = Mul(s, i) d = Sub(h, m) q = Mul(d, d) t = ReduceSum(q, ax) "
     "v = Mul(t, i)" + TAIL, {"c": N}, layer_norm),
    ("z = Shape <start=-1> (h) f = Cast <to=1> (z) s = ReduceSum(h, ax) m = Div(s, f) d = Sub(h, m) q = Mul(d, d) "
     "t = ReduceSum(q, ax) v = Div(t, f)" + TAIL, {}, layer_norm),
    ("s = ReduceSum <keepdims=0> (h, ax) u = Unsqueeze(s, ax) m = Mul(u, c) d = Sub(h, m) q = Mul(d, d) "
     "t = ReduceSum(q, ax) v = Mul(t, c)" + TAIL, {"c": 1 / N}, layer_norm),
    ("p = Mul(h, c) m = ReduceSum(p, ax) d = Sub(h, m) q = Mul(d, d) k = Mul(q, c) v = ReduceSum(k, ax)" + TAIL,
     {"c": 1 / N}, layer_norm),
    ("m = MatMul(h, o) d = Sub(h, m) q = Mul(d, d) v = MatMul(q, o)" + TAIL, {"o": [[1 / N]] * N}, layer_norm),
    ("m = MatMul(h, o) d = Sub(h, m) q = Mul(d, d) v = MatMul(q, o)" + TAIL, {"o": [[1 / N] * N] * N}, layer_norm),
    ("s = MatMul(h, o) m = Mul(s, c) d = Sub(h, m) q = Mul(d, d) t = MatMul(q, o) v = Mul(t, c)" + TAIL,
     {"o": [[1.0]] * N, "c": 1 / N}, layer_norm),
    ("s = ReduceSum(h, ax) m = Mul(s, c) p = Mul(h, h) t = ReduceSum(p, ax) g = Mul(t, c) k = Mul(m, m) v = Sub(g, k) "
     "d = Sub(h, m)" + TAIL, {"c": 1 / N}, layer_norm),
    ('s = Einsum <equation = "mc -> m"> (h) u = Unsqueeze(s, ax) m = Mul(u, c) d = Sub(h, m) q = Mul(d, d) '
     "t = ReduceSum(q, ax) v = Mul(t, c)" + TAIL, {"c": 1 / N}, layer_norm),
    (MEAN + "t = ReduceSum(q, ax) v = Div(t, c)" + TAIL, {"c": N - 1}, unbiased),
    (MEAN + "t = ReduceMean <axes=[-1]> (q) v = Mul(t, c)" + TAIL, {"c": N / (N - 1)}, unbiased),
    (MEAN + "t = ReduceMean <axes=[-1]> (q) g = Mul(t, c) v = Div(g, k)" + TAIL, {"c": N, "k": N - 1}, unbiased),
    (MEAN + "t = ReduceMean <axes=[-1]> (q) g = Div(t, k) v = Mul(g, c)" + TAIL, {"c": N, "k": N - 1}, unbiased),
    (MEAN + "t = ReduceMean <axes=[-1]> (q) z = Shape(h) i = Constant <value = int64[1] {1}> () u = Gather(z, i) "
     "p = ReduceProd(u) f = Cast <to=1> (p) g = Mul(t, f) k = Sub(f, c) v = Div(g, k)" + TAIL, {"c": 1}, unbiased),
    ("l = ReduceL2 <axes=[-1]> (h) r = Div(l, c) n = Div(h, r)", {"c": N**0.5}, rms_norm),
    ("l = ReduceL2 <axes=[-1]> (h) r = Mul(l, c) n = Div(h, r)", {"c": N**-0.5}, rms_norm),
    ("l = ReduceL2 <axes=[-1]> (h) g = Div(h, l) n = Mul(g, c)", {"c": N**0.5}, rms_norm),
    ("l = ReduceL2 <axes=[-1]> (h) k = Clip(l, t) z = Shape(h) o = Expand(k, z) g = Div(h, o) n = Mul(g, c)",
     {"c": N**0.5, "t": 1e-12}, rms_norm),
    ("g = LpNormalization <axis=-1> (h) n = Mul(g, c)", {"c": N**0.5}, rms_norm),
    ("p = Pow(h, two) t = ReduceSum(p, ax) l = Pow(t, half) g = Div(h, l) n = Mul(g, c)", {"c": N**0.5}, rms_norm),
    ("p = Mul(h, h) t = ReduceSum(p, ax) l = Sqrt(t) i = Reciprocal(l) k = Mul(i, c) n = Mul(h, k)",
     {"c": N**0.5}, rms_norm),
    ("p = Mul(h, h) t = ReduceSum(p, ax) l = Sqrt(t) k = Div(c, l) n = Mul(h, k)", {"c": N**0.5}, rms_norm),
    ("t = ReduceL1 <axes=[-1]> (h) l = Mul(t, c) n = Div(h, l)", {"c": 1 / N},
     lambda h: h / np.abs(h).mean(-1, keepdims=True)),
    ("l = ReduceL2 <axes=[-1]> (h) n = Div(h, l)", {}, lambda h: h / np.linalg.norm(h, axis=-1, keepdims=True)),
    ("s = ReduceSum(h, ax) m = Mul(s, c) n = Sub(h, m)", {"c": 0.3}, lambda h: h - 0.3 * h.sum(-1, keepdims=True)),
    ("s = ReduceSum(h, ax) m = Mul(s, c) d = Sub(h, m) g = Sigmoid(s) n = Mul(d, g)", {"c": 1 / N},
     lambda h: (h - h.mean(-1, keepdims=True)) / (1 + np.exp(-h.sum(-1, keepdims=True)))),
])  # fmt: skip
def test_statistics_of_what_is_left(
    body: str, numbers: dict[str, float | list[float]], normalise: Callable[[Array], Array]
) -> None:
    check(built(body, **numbers), normalise)
    for seed in range(2):
        check_exact(built(body, **numbers), seed)


def test_one_channel_has_no_variance() -> None:
    body = MEAN + "t = ReduceSum(q, ax) v = Div(t, c)" + TAIL
    check(built(body, c=N - 1), lambda h: np.zeros_like(h), keep=0.0)


def test_a_number_of_other_use_is_left_alone() -> None:
    """1/8 is the mean's, and also a factor of something else."""
    proto = built("s = ReduceSum(h, ax) m = Mul(s, c) d = Sub(h, m) n = Mul(d, c)", c=1 / N)
    check(proto, lambda h: (h - h.mean(-1, keepdims=True)) / N)


def test_groups_times_space_is_a_length() -> None:
    """GroupNormalization by hand: the mean over channels of a group and space, of static size."""
    body = (
        "h = Conv(x, a) g = Reshape(h, sh) s = ReduceSum(g, ax) m = Mul(s, c) d = Sub(g, m) k = Reshape(d, back) "
        "y = Conv(k, b)"
    )
    proto = model(
        17, "(float[2,3,4,4] x) => (float[2,4,4,4] y)", "float[12,3,1,1] a, float[4,12,1,1] b", body
    )
    arrays = {"sh": [0, 2, 6, 4, 4], "ax": [2, 3, 4], "back": [0, 12, 4, 4]}
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(array), name))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 96), "c"))
    coupling = check_exact(proto, 0)
    assert [(length.full, length.exponents) for length in coupling.lengths] == [(96, (-1.0, 0.0))]
    mask = random_mask(coupling, 0.5, 0)
    pruned = apply(coupling, mask)
    stored = {t.name: numpy_helper.to_array(t) for t in pruned.graph.initializer}
    kept = stored["a"].shape[0]
    assert kept == 6
    (number,) = (v for v in stored.values() if v.dtype == np.float32 and v.size == 1)
    np.testing.assert_allclose(number, 1 / (kept * 8), rtol=1e-6)


def test_a_sum_over_one_axis_after_the_other() -> None:
    """A sum over space, then over channels, divided by the number of both."""
    body = (
        "h = Conv(x, a) s = ReduceSum <keepdims=0> (h, space) t = ReduceSum(s, channels) m = Div(t, c) "
        "u = Unsqueeze(m, space) d = Sub(h, u) y = Conv(d, b)"
    )
    proto = model(17, "(float[2,3,4,4] x) => (float[2,4,4,4] y)", "float[6,3,1,1] a, float[4,6,1,1] b", body)
    for name, array in {"space": [2, 3], "channels": [1]}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(array), name))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(96), "c"))
    coupling = check_exact(proto, 0)
    pruned = apply(coupling, random_mask(coupling, 0.5, 0))
    stored = {t.name: numpy_helper.to_array(t) for t in pruned.graph.initializer}
    assert stored["a"].shape[0] == 3
    assert stored["c"] == 48


@pytest.mark.parametrize(("body", "numbers"), [
    (CENTRE + "q = Mul(d, d) t = ReduceSum(q, ax) v = Mul(t, c)" + TAIL, {"c": 1 / N}),
    ("m = MatMul(h, o) d = Sub(h, m) q = Mul(d, d) v = MatMul(q, o)" + TAIL, {"o": [[1 / N]] * N}),
])  # fmt: skip
def test_what_was_trained_after_the_cut_fits_the_gated_model(body: str, numbers: dict[str, Any]) -> None:
    proto = built(body, **numbers)
    coupling = analyze(load(proto))
    mask = random_mask(coupling, 0.5, 1)
    pruned = apply(coupling, mask)
    for tensor in pruned.graph.initializer:
        if len(tensor.dims) > 1:
            trained = numpy_helper.to_array(tensor) * np.float32(1.1)
            tensor.CopyFrom(numpy_helper.from_array(trained, tensor.name))
    gated = insert_gates(embed(coupling.model.proto, pruned, coupling, mask), coupling, mask)
    feeds = {"x": np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)}
    np.testing.assert_allclose(run(gated, feeds)[0], run(pruned, feeds)[0], rtol=1e-4, atol=1e-5)


def test_the_scale_of_attention_is_no_length() -> None:
    body = (
        "q = MatMul(x, a) k = MatMul(x, b) t = Transpose <perm=[0,2,1]> (k) s = MatMul(q, t) z = Mul(s, c) "
        "w = Softmax(z) v = MatMul(x, d) u = MatMul(w, v) y = MatMul(u, o)"
    )
    weights = "float[7,16] a, float[7,16] b, float[7,8] d, float[8,4] o"
    proto = model(17, "(float[2,5,7] x) => (float[2,5,4] y)", weights, body)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.25), "c"))
    assert check_exact(proto, 0).lengths == ()
