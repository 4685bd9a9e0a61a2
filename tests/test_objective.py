"""The objective's nodes against the formulas: cost, penalty, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, parser
from small_task import network

from tgonnx.analysis.cost import CostModel
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import KINDS, Kind
from tgonnx.analysis.solver import analyze
from tgonnx.data.answers import IGNORED
from tgonnx.engines import choose, gradients
from tgonnx.engines.trainer import session
from tgonnx.errors import UnsupportedError
from tgonnx.loading import load
from tgonnx.losses.fit import Fit
from tgonnx.losses.nodes import ANSWER, TEACHER
from tgonnx.ops import trainable_gate as gates
from tgonnx.passes.add_objective import (
    COST,
    HYSTERESIS,
    LOSS,
    MU,
    RHO,
    TASK,
    Penalty,
    add_objective,
)
from tgonnx.passes.insert_gates import GATES, insert_gates
from tgonnx.passes.prepare_training import LOGITS, prepare_training

Array = np.ndarray[Any, Any]
LABELS = np.array([1, 0, 2, 1])
ENGINES = dict.fromkeys([choose(), "portable"])


@pytest.fixture(scope="module")
def coupling() -> Coupling:
    return analyze(load(network()))


def penalised(coupling: Coupling, kind: Kind, strength: float = 3.0) -> onnx.ModelProto:
    gated = insert_gates(coupling.model.proto, coupling, None)
    penalty = Penalty(CostModel(coupling), kind, strength)
    return add_objective(gated, Fit("ce", "y", 1), {"y": (4,)}, None, penalty)


def run(model: onnx.ModelProto, feeds: dict[str, Array], output: str) -> float:
    return float(session(model).run([output], feeds)[0])


def feeds_for(
    coupling: Coupling, values: Array, mu: float, rho: float, hysteresis: float = 0.6
) -> dict[str, Array]:
    x = np.random.default_rng(1).normal(size=(4, 2, 6, 6)).astype(np.float32)
    scalars = {MU: mu, RHO: rho, HYSTERESIS: hysteresis}
    feeds = {name: np.array(value, np.float32) for name, value in scalars.items()}
    return {"x": x, ANSWER + "y": LABELS, GATES: values.astype(np.float32), **feeds}


COUNTED = [
    kind for kind in KINDS if kind != "latency"
]  # which is a ramp here, and stairs there: test_latency.py


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(COUNTED))
def test_the_nodes_count_what_the_report_counts(seed: int, kind: Kind) -> None:
    coupling = analyze(load(network()))
    mask = np.random.default_rng(seed).random(coupling.units) < 0.6
    found = run(penalised(coupling, kind), feeds_for(coupling, mask, 0.0, 0.0), COST)
    assert found == pytest.approx(CostModel(coupling).ratio(mask, kind), rel=1e-5, abs=1e-7)


def test_the_penalty_is_equation_7_and_its_lagrangian(coupling: Coupling) -> None:
    model = penalised(coupling, "flops", strength=3.0)
    feeds = feeds_for(coupling, np.ones(coupling.units), 0.7, 0.4)
    loss, task, cost = session(model).run([LOSS, TASK, COST], feeds)
    assert cost == pytest.approx(1.0, rel=1e-6)
    assert loss - task == pytest.approx(0.7 * 0.6 + 3.0 * 0.6**2, rel=1e-5)


@pytest.mark.parametrize("kind", COUNTED)
def test_gradient_of_the_penalty_by_finite_differences(coupling: Coupling, kind: Kind) -> None:
    rng = np.random.default_rng(3)
    values = rng.uniform(0.2, 1.0, coupling.units).astype(np.float32)
    model = penalised(coupling, kind)
    penalty = onnx.ModelProto()
    penalty.CopyFrom(model)
    # what is left after the task: the first output is what is differentiated
    penalty.graph.node.append(helper.make_node("Sub", [LOSS, TASK], ["penalty"]))
    penalty.graph.output.insert(0, helper.make_tensor_value_info("penalty", TensorProto.FLOAT, []))
    relaxed = next(v for v in penalty.graph.input if v.name == GATES)
    penalty.graph.input.remove(relaxed)
    penalty.graph.initializer.append(onnx.numpy_helper.from_array(values, GATES))
    feeds = feeds_for(coupling, values, 0.5, 0.3)
    del feeds[GATES]
    found = gradients(penalty, [GATES], feeds)[GATES]
    for unit in range(coupling.units):
        ends = []
        for sign in (1, -1):
            moved = values.astype(np.float64)
            moved[unit] += sign * 1e-4
            ratio = relaxed_ratio(CostModel(coupling), kind, moved + 0.6 * (moved - moved**2))
            ends.append(0.5 * (ratio - 0.3) + 3.0 * (ratio - 0.3) ** 2)
        assert found[unit] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-6)


def relaxed_ratio(cost: CostModel, kind: Kind, values: Array) -> float:
    counts = np.bincount(cost.kind_of, weights=values, minlength=len(cost.sizes))
    return cost.count(kind, counts) / cost.total(kind)


@pytest.mark.parametrize("ending", ["y = Identity(s)", "y = Softmax <axis = 1> (s)"])
def test_cross_entropy_takes_a_softmax_off(ending: str) -> None:
    model = network(ending)
    x = np.random.default_rng(1).normal(size=(4, 2, 6, 6)).astype(np.float32)
    scores = session(network()).run(["y"], {"x": x})[0].astype(np.float64)
    wanted = -np.log(np.exp(scores) / np.exp(scores).sum(1, keepdims=True))[np.arange(4), LABELS].mean()
    loss = run(add_objective(model, Fit("ce", "y", 1), {"y": (4,)}), {"x": x, ANSWER + "y": LABELS}, LOSS)
    assert loss == pytest.approx(wanted, rel=1e-5)


# Behind the Softmax the values move, and before opset 13 it stands between reshapes of the conversion
MOVED = {
    "maps": ("axes = Constant <value_ints = [2, 3]> () u = Unsqueeze(s, axes)"
             "p = Softmax <axis = 1> (u) y = Flatten(p)", 17),
    "turned": ("t = Transpose(s) p = Softmax <axis = 0> (t) y = Transpose(p)", 17),
    "old": ("u = Unsqueeze <axes = [2, 3]> (s) p = Softmax (u) y = Squeeze <axes = [2, 3]> (p)", 11),
}  # fmt: skip


@pytest.mark.parametrize("form", MOVED)
@pytest.mark.parametrize("imitation", [0.0, 0.5])
def test_a_softmax_is_found_behind_moves_and_in_old_opsets(form: str, imitation: float) -> None:
    ending, opset = MOVED[form]
    x = np.random.default_rng(1).normal(size=(4, 2, 6, 6)).astype(np.float32)
    model = network(ending, opset=opset)
    copy = prepare_training(model, {"x": x.shape}).model
    plain = prepare_training(network("y = Softmax <axis = 1> (s)"), {"x": x.shape}).model
    teacher = np.roll(session(model).run(["y"], {"x": x})[0], 1, axis=1)
    for fit, extra in ((Fit("ce", "y", 1), {ANSWER + "y": LABELS}), (Fit("distill", "y"), {})):
        shapes = {"y": (4, 3)} if imitation or fit.loss == "distill" else None
        feeds = {"x": x, **extra, **({TEACHER + "y": teacher} if shapes else {})}
        answer = {"y": (4,)} if fit.loss == "ce" else None
        losses = [
            run(add_objective(m, fit, answer, shapes, imitation=imitation), feeds, LOSS)
            for m in (copy, plain)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_sigmoid_is_found_behind_moves() -> None:
    ending = "t = Transpose(s) p = Sigmoid(t) y = Transpose(p)"
    x = np.random.default_rng(1).normal(size=(4, 2, 6, 6)).astype(np.float32) * 1e3  # where sigmoids saturate
    feeds = {"x": x, ANSWER + "y": np.full((4, 3), 0.5, np.float32)}
    found = [
        run(add_objective(network(e), Fit("bce", "y"), {"y": (4, 3)}), feeds, LOSS)
        for e in (ending, "y = Sigmoid(s)")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "l1", "bce"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_losses_on_targets(loss: str, sigmoid: bool) -> None:
    model = network("y = Sigmoid(s)" if sigmoid else "y = Identity(s)")
    rng = np.random.default_rng(1)
    x, target = rng.normal(size=(4, 2, 6, 6)).astype(np.float32), rng.random((4, 3)).astype(np.float32)
    output = session(model).run(["y"], {"x": x})[0].astype(np.float64)
    p = 1 / (1 + np.exp(-session(network()).run(["y"], {"x": x})[0].astype(np.float64)))
    wanted = {
        "mse": np.square(output - target),
        "l1": np.abs(output - target),
        "bce": -(target * np.log(p) + (1 - target) * np.log(1 - p)),
    }[loss].mean()
    found = run(add_objective(model, Fit(loss, "y"), {"y": (4, 3)}), {"x": x, ANSWER + "y": target}, LOSS)
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("ending", ["y = Identity(s)", "y = Softmax <axis = 1> (s)"])
def test_the_teacher_has_nothing_to_learn_from_itself(ending: str) -> None:
    model = network(ending)
    x = np.random.default_rng(1).normal(size=(4, 2, 6, 6)).astype(np.float32)
    says = session(model).run(["y"], {"x": x})[0]
    objective = add_objective(model, Fit("distill", "y"), None, {"y": (4, 3)})
    assert run(objective, {"x": x, TEACHER + "y": says}, LOSS) == pytest.approx(0.0, abs=1e-5)
    other = np.roll(says, 1, axis=1)
    assert run(objective, {"x": x, TEACHER + "y": other}, LOSS) > 0.01


def test_nothing_to_distill_is_said() -> None:
    with pytest.raises(UnsupportedError, match="no output of floats"):
        add_objective(network(), Fit("distill", "y"))


def test_the_training_copy_has_gates_statistics_and_weights(coupling: Coupling) -> None:
    copy = prepare_training(insert_gates(coupling.model.proto, coupling, None), {"x": (8, 2, 6, 6)})
    assert set(copy.weights) == {"w1", "w2", "w3", "w4", "b4", "scale", "bias"}
    assert set(copy.statistics) == {"mean", "var"}
    assert [n.op_type for n in copy.model.graph.node if n.domain == gates.DOMAIN] == [gates.op_type("one")]
    stored = {t.name: t for t in copy.model.graph.initializer}
    assert tuple(stored[LOGITS].dims) == (coupling.units,)


def test_a_tiny_batch_keeps_the_stored_statistics(coupling: Coupling) -> None:
    assert not prepare_training(coupling.model.proto, {"x": (2, 2, 6, 6)}).statistics


def test_constants_of_the_computation_are_not_trained() -> None:
    body = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 4] x) => (float[N, 2] y)
    <float[1, 4] mean = {1, 2, 3, 4}, float[1, 4] std = {1, 2, 3, 4}, float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8},
     float[2] b = {1, 2}, float low = {0}, float[1, 2] power = {2, 2}> {
        c = Sub(x, mean)
        n = Mul(c, std)
        m = MatMul(n, w)
        a = Add(m, b)
        r = Clip(a, low)
        y = Pow(r, power)
    }"""
    assert list(prepare_training(parser.parse_model(body), {"x": (8, 4)}).weights) == ["w", "b"]


def test_scales_behind_gated_layers_are_trained() -> None:
    body = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 4] x) => (float[N, 2] y)
    <float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3] s = {1, 2, 3},
     float[3, 2] v = {1, 2, 3, 4, 5, 6}> {
        a = MatMul(x, w)
        b = Mul(a, s)
        c = Relu(b)
        y = MatMul(c, v)
    }"""
    coupling = analyze(load(parser.parse_model(body)))
    copy = prepare_training(insert_gates(coupling.model.proto, coupling, None), {"x": (8, 4)})
    assert coupling.units == 3
    assert list(copy.weights) == ["w", "s", "v"]


@pytest.mark.parametrize("ending", ["y = Identity(s)", "y = Softmax <axis = 1> (s)"])
def test_imitation_is_a_share_of_the_cross_entropy(ending: str) -> None:
    model = network(ending)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 2, 6, 6)).astype(np.float32)
    scores = session(network()).run(["y"], {"x": x})[0].astype(np.float64)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    taught = rng.normal(size=(4, 3))
    q = np.exp(taught) / np.exp(taught).sum(1, keepdims=True)
    teacher = (q if "Softmax" in ending else taught).astype(np.float32)
    labelled = -np.log(p)[np.arange(4), LABELS].mean()
    imitated = (q * (np.log(q) - np.log(p))).sum(1).mean()
    objective = add_objective(model, Fit("ce", "y", 1), {"y": (4,)}, {"y": (4, 3)}, imitation=0.25)
    loss = run(objective, {"x": x, ANSWER + "y": LABELS, TEACHER + "y": teacher}, LOSS)
    assert loss == pytest.approx(0.75 * labelled + 0.25 * imitated, rel=1e-4)


def smoothed_in_numpy(scores: Array, labels: Array, share: float) -> float:
    """Scores [N, C, ...], labels [N, ...] with -100 for nothing."""
    scores = np.moveaxis(scores.astype(np.float64), 1, -1)
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    counts = labels != IGNORED
    own = np.take_along_axis(logs, np.where(counts, labels, 0)[..., None], -1)[..., 0]
    each = -(1 - share) * own - share * logs.mean(-1)
    return float(each[counts].sum() / max(counts.sum(), 1))


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("form", ["plain", "softmax", "dense", "last", "dense softmax"])
def test_smoothed_and_dense_labels(form: str, ignored: float, share: float) -> None:
    dims, axis = {"plain": ("5", 1), "softmax": ("5", 1), "last": ("3,4,5", 3)}.get(form, ("5,3,4", 1))
    ends = f"y = Softmax <axis = {axis}> (z)" if "softmax" in form else "y = Identity (z)"
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> m (float[N,{dims}] x) => (float[N,{dims}] y) '
        f"<float w = {{0.5}}> {{ z = Mul (x, w) {ends} }}"
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, *map(int, dims.split(",")))).astype(np.float32)
    labels = rng.integers(0, 5, tuple(size for place, size in enumerate(x.shape) if place != axis))
    labels[rng.random(labels.shape) < ignored] = IGNORED
    fit = Fit("ce", "y", axis, ignored > 0, smoothing=share)
    objective = add_objective(model, fit, {"y": labels.shape})
    feeds = {"x": x, ANSWER + "y": labels}

    def wanted(w: float) -> float:
        return smoothed_in_numpy(np.moveaxis(x.astype(np.float64), axis, 1) * w, labels, share)

    assert run(objective, feeds, LOSS) == pytest.approx(wanted(0.5), rel=1e-5, abs=1e-7)
    slope = (wanted(0.5 + 1e-5) - wanted(0.5 - 1e-5)) / 2e-5
    for engine in ENGINES:
        found = gradients(objective, ["w"], feeds, engine)["w"]
        assert float(found) == pytest.approx(slope, rel=1e-4, abs=1e-6)
