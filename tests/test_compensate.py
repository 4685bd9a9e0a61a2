"""Least squares make up for what a cut takes away, as far as what stays can."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import model_of, normal

import tgonnx as tg
from tgonnx.passes import compensate as module
from tgonnx.passes.compensate import Refit, compensate
from tgonnx.passes.insert_gates import insert_gates
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.pipeline import embed
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.least_squares import KeptRows, Moments, fitted


def in_pairs(array: np.ndarray, axis: int = 0) -> np.ndarray:
    """Indices 2k and 2k + 1 alike: what one of them says, the other says, too."""
    return np.repeat(np.take(array, range(0, array.shape[axis], 2), axis), 2, axis)


def node(op_type: str, *inputs: str, out: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [out], name=out, **attributes)


def batches(*shape: int, count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def error(a: onnx.ModelProto, b: onnx.ModelProto, shape: tuple[int, ...]) -> float:
    """How far b is from a on new inputs, as a share of a's spread."""
    x = np.random.default_rng(99).standard_normal(shape).astype(np.float32)
    ours, theirs = (next(iter(open_session(m).run({"x": x}).values())) for m in (a, b))
    return float(np.square(ours - theirs).mean() / ours.var())


def cut_odd(model: onnx.ModelProto, size: int = 8) -> tuple[tg.Coupling, tg.Mask, onnx.ModelProto]:
    """Close every second unit of all groups that have the given size."""
    coupling = tg.analyze(model)
    closed = np.ones(coupling.units, bool)
    for group in coupling.groups:
        if group.size == size:
            closed[group.units[1::2]] = False
    assert not closed.all()
    mask = tg.Mask.of(coupling, closed)
    return coupling, mask, remove_channels(coupling.model.proto, coupling, mask)


IMAGE = ("n", 3, 9, 7)
FIRST = [node("Conv", "x", "w0", "b0", out="h", pads=[1, 1, 1, 1]), node("Relu", "h", out="r")]
FIRST_STORED = {"w0": in_pairs(normal(8, 3, 3, 3)), "b0": in_pairs(normal(8))}
SEQUENCE = ("n", 5, 6)
ROWS = [node("MatMul", "x", "w0", out="h"), node("Relu", "h", out="r")]
ROWS_STORED = {"w0": in_pairs(normal(6, 8), 1)}
POOLED = [*FIRST, node("GlobalAveragePool", "r", out="p"), node("Flatten", "p", out="f")]
LSTM = helper.make_node("LSTM", ["r", "w1", "w2", "b1"], ["y"], hidden_size=3, direction="bidirectional")
Case = tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[Any, ...]]


def of_image(*nodes: onnx.NodeProto, **stored: np.ndarray) -> Case:
    return [*FIRST, *nodes], FIRST_STORED | stored, IMAGE


def of_rows(*nodes: onnx.NodeProto, **stored: np.ndarray) -> Case:
    return [*ROWS, *nodes], ROWS_STORED | stored, SEQUENCE


CONSUMERS: dict[str, Case] = {
    "convolution": of_image(node("Conv", "r", "w1", out="y", strides=[2, 1]), w1=normal(5, 8, 3, 2)),
    "dilated": of_image(node("Conv", "r", "w1", out="y", dilations=[2, 3]), w1=normal(5, 8, 3, 2)),
    "grouped": of_image(node("Conv", "r", "w1", out="y", group=2), w1=normal(6, 4, 3, 3)),
    "transposed": of_image(
        node("ConvTranspose", "r", "w1", "b1", out="y", strides=[2, 2]),
        w1=normal(8, 5, 3, 3),
        b1=normal(5),
    ),
    "gemm": (
        [*POOLED, node("Gemm", "f", "w1", "b1", out="y", transB=1)],
        FIRST_STORED | {"w1": normal(5, 8), "b1": normal(5)},
        IMAGE,
    ),
    "flattened": of_image(
        node("Flatten", "r", out="f"), node("Gemm", "f", "w1", out="y"), w1=normal(8 * 63, 5)
    ),
    "matmul": of_rows(node("MatMul", "r", "w1", out="y"), w1=normal(8, 5)),
    "weight on the left": of_rows(
        node("Transpose", "r", out="t", perm=[0, 2, 1]), node("MatMul", "w1", "t", out="y"), w1=normal(5, 8)
    ),
    "turned weight": of_rows(
        node("Transpose", "w1", out="v", perm=[1, 0]), node("MatMul", "r", "v", out="y"), w1=normal(5, 8)
    ),
    "used twice": of_rows(
        node("MatMul", "x", "w2", out="h2"),
        node("Relu", "h2", out="r2"),
        node("MatMul", "r", "w1", out="y1"),
        node("MatMul", "r2", "w1", out="y2"),
        node("Add", "y1", "y2", out="y"),
        w1=normal(8, 5),
        w2=in_pairs(normal(6, 8), 1) * 2,
    ),
    "lstm": of_rows(LSTM, w1=normal(2, 12, 8) * 0.2, w2=normal(2, 12, 3) * 0.2, b1=normal(2, 24)),
    "recurrent weights": (
        [
            helper.make_node("LSTM", ["x", "w0", "w2", "b1"], ["h"], name="h", hidden_size=8),
            node("Squeeze", "h", "one", out="s"),
            node("MatMul", "s", "w1", out="y"),
        ],
        {
            "w0": np.tile(in_pairs(normal(8, 6)), (4, 1))[None] * 0.3,
            "w2": np.tile(in_pairs(normal(8, 8)), (4, 1))[None] * 0.3,
            "b1": np.tile(in_pairs(normal(8)), 8)[None],
            "w1": normal(8, 5),
            "one": np.array([1], np.int64),
        },
        (5, "n", 6),
    ),
}


@pytest.mark.parametrize("kind", CONSUMERS)
def test_what_stays_takes_over_what_it_knows(kind: str) -> None:
    """Half of the channels say what the other half says: nothing need be lost."""
    nodes, stored, declared = CONSUMERS[kind]
    model = model_of(nodes, declared, stored, ["y"])
    shape = tuple(64 if isinstance(size, str) else size for size in declared)
    coupling, mask, cut = cut_odd(model, 4 if kind == "grouped" else 8)
    new, refits = compensate(coupling.model.proto, cut, coupling, mask, batches(*shape))
    assert error(model, cut, shape) > 0.01
    assert error(model, new, shape) < 1e-5
    assert all(refit.after <= refit.before for refit in refits)
    gated = insert_gates(embed(coupling.model.proto, new, coupling, mask), coupling, mask)
    assert error(gated, new, shape) < 1e-9


def test_the_mean_goes_into_what_is_behind() -> None:
    """A closed channel that is constant is made up for by a bias, an addition, the mean of a normalization."""
    w0, b0 = normal(8, 3, 3, 3), normal(8)
    w0[1::2], b0[1::2] = 0, 3.0
    spread = {"s": normal(5) ** 2 + 1, "b": normal(5), "m": normal(5), "v": normal(5) ** 2 + 1}
    ends: list[tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = [
        ([node("Conv", "r", "w1", "b1", out="y")], {"b1": normal(5)}),
        ([node("Conv", "r", "w1", out="c"), node("Add", "c", "a", out="y")], {"a": normal(5, 1, 1)}),
        (
            [node("Conv", "r", "w1", out="c"), node("BatchNormalization", "c", "s", "b", "m", "v", out="y")],
            spread,
        ),
    ]
    for nodes, more in ends:
        stored = {"w0": w0, "b0": b0, "w1": normal(5, 8, 3, 3), **more}
        model = model_of([*FIRST, *nodes], IMAGE, stored, ["y"])
        coupling, mask, cut = cut_odd(model)
        new, _ = compensate(coupling.model.proto, cut, coupling, mask, batches(16, 3, 9, 7))
        assert error(model, cut, (16, 3, 9, 7)) > 0.1
        # at the border the constant channel is padded with zeros by FIRST, not by the consumer: nothing is lost
        assert error(model, new, (16, 3, 9, 7)) < 1e-5


def test_depthwise_convolutions_see_the_cut_model() -> None:
    """Each channel by itself: what an earlier cut changed is refitted in its own kernel."""
    stored = FIRST_STORED | {"w1": normal(8, 8, 1, 1), "w2": normal(8, 1, 3, 3), "w3": normal(5, 8, 1, 1)}
    depthwise = node("Conv", "c", "w2", out="d", group=8)
    nodes = [*FIRST, node("Conv", "r", "w1", out="c"), depthwise, node("Conv", "d", "w3", out="y")]
    model = model_of(nodes, IMAGE, stored, ["y"])
    coupling, mask, cut = cut_odd(model)
    new, refits = compensate(coupling.model.proto, cut, coupling, mask, batches(16, 3, 9, 7))
    assert {refit.weight for refit in refits} == {"w1", "w2", "w3"}
    assert all(refit.after < refit.before for refit in refits)
    assert error(model, new, (16, 3, 9, 7)) < error(model, cut, (16, 3, 9, 7))


def test_half_precision_stays_half() -> None:
    stored = {name: value.astype(np.float16) for name, value in (ROWS_STORED | {"w1": normal(8, 5)}).items()}
    model = model_of([*ROWS, node("MatMul", "r", "w1", out="y")], SEQUENCE, stored, ["y"])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    coupling, mask, cut = cut_odd(model)
    given = [{"x": feeds["x"].astype(np.float16)} for feeds in batches(16, 5, 6)]
    new, (refit,) = compensate(coupling.model.proto, cut, coupling, mask, given)
    assert new.graph.initializer[1].data_type == TensorProto.FLOAT16
    assert refit.before > 0.1
    assert refit.after < 1e-4


def test_a_weight_that_gets_no_better_stays() -> None:
    """With fewer rows than terms, what fits the rows at hand may be worse on others."""
    rng = np.random.default_rng(1)
    x, truth = rng.standard_normal((1, 4000, 6)).astype(np.float32), rng.standard_normal((1, 6, 3))
    learnt, held_out = Moments(), Moments()
    noise = 50 * rng.standard_normal((1, 8, 3)).astype(np.float32)
    learnt.add(x[:, :8], (x[:, :8] @ truth).astype(np.float32) + noise)
    held_out.add(x[:, 8:], (x[:, 8:] @ truth).astype(np.float32))
    start = np.concatenate([truth, np.zeros((1, 1, 3))], 1)
    found = fitted(learnt, held_out, start, True)
    assert np.array_equal(found.weights, start)
    assert found.after == found.before < 1e-9


def test_what_only_inputs_of_one_kind_bear_out_is_not_learnt() -> None:
    """Of one kind the first term says what the lost one did, of the other its opposite."""
    rng = np.random.default_rng(1)
    learnt, held_out = Moments(), Moments()
    for sums, sign in ((learnt, 1.0), (held_out, -1.0)):
        x = rng.standard_normal((1, 200, 2)).astype(np.float32)
        sums.add(x, x[:, :, 1:] + np.float32(sign) * x[:, :, :1])
    start = np.array([[[0.0], [1.0], [0.0]]])
    assert fitted(learnt, learnt, start, True).after < 1e-3
    crossed = fitted(learnt, held_out, start, True, crossed=True)
    assert np.array_equal(crossed.weights, start)


@pytest.mark.parametrize("shifted", [True, False])
def test_rows_and_their_sums_give_the_same_weights(shifted: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 40, 60)).astype(np.float32)
    y = (x @ rng.standard_normal((2, 60, 3)) + 2 + rng.standard_normal((2, 40, 3))).astype(np.float32)
    start = np.concatenate([rng.standard_normal((2, 60, 3)), np.zeros((2, 1, 3))], 1)
    sums, kept = Moments(), KeptRows()
    for part in (slice(25), slice(25, None)):
        sums.add(x[:, part], y[:, part])
        kept.add(x[:, part], y[:, part])
    solved = sums.solve(start, 1e-2, shifted)
    np.testing.assert_allclose(kept.solve(start, 1e-2, shifted), solved, rtol=1e-3, atol=1e-3)
    assert kept.error(solved) == pytest.approx(sums.error(solved), rel=1e-4)
    assert kept.count == sums.count == 40


def test_many_terms_are_fitted_from_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, stored, declared = CONSUMERS["flattened"]
    model = model_of(nodes, declared, stored, ["y"])
    coupling, mask, cut = cut_odd(model)
    monkeypatch.setattr(module, "MOST_TERMS", 200)
    new, _ = compensate(coupling.model.proto, cut, coupling, mask, batches(64, 3, 9, 7))
    assert error(model, new, (64, 3, 9, 7)) < 1e-5 < 0.01 < error(model, cut, (64, 3, 9, 7))


def test_what_is_kept_on_the_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for activations every piece starts from the inputs, and the outcome is the same."""
    nodes, stored, declared = CONSUMERS["used twice"]
    model = model_of(nodes, declared, stored, ["y"])
    coupling, mask, cut = cut_odd(model)
    given = batches(16, 5, 6)
    with_room, _ = compensate(coupling.model.proto, cut, coupling, mask, given)
    monkeypatch.setattr(module, "ROOM", 0)
    without, _ = compensate(coupling.model.proto, cut, coupling, mask, given)
    assert with_room == without


def test_refits_say_what_they_are_of() -> None:
    nodes, stored, declared = CONSUMERS["convolution"]
    coupling, mask, cut = cut_odd(model_of(nodes, declared, stored, ["y"]))
    _, refits = compensate(coupling.model.proto, cut, coupling, mask, batches(16, 3, 9, 7))
    assert refits == [Refit("w1", refits[0].before, refits[0].after)]
