"""Gates on residual branches: their price, their gradient, and what they learn, alone and with those of channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from branchy_models import BRANCHY, made
from onnx import TensorProto, helper, numpy_helper
from small_task import network
from test_runs import Stop, keeper_of, stops_at
from test_training import FAST, task_for

import tgonnx as tg
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.gate_cost import BranchCost
from tgonnx.analysis.kinds import KINDS
from tgonnx.analysis.times import Profile, Rates, Staircase
from tgonnx.engines import differentiate
from tgonnx.graph.builder import Emitter
from tgonnx.passes.gate_families import BLOCKS, CHANNELS_AND_BLOCKS, GateFamily
from tgonnx.passes.prepare_training import LOGITS, prepare_training
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.budget import random_mask
from tgonnx.training import run_folder
from tgonnx.training.keeper import Keeper
from tgonnx.training.progress import Journal
from tgonnx.training.search import search
from tgonnx.training.state import Found

Array = np.ndarray[Any, Any]
FAMILIES = pytest.mark.parametrize("family", [BLOCKS, CHANNELS_AND_BLOCKS], ids=lambda family: family.name)


def priced(coupling: Coupling, kind: str, family: GateFamily, gates: Array) -> float:
    """The share that the nodes of the objective come to."""
    emitter = Emitter("cost.")
    share = family.costs(coupling).measure(kind).emit(emitter, emitter.value("gates"))
    graph = helper.make_graph(
        emitter.nodes,
        "g",
        [helper.make_tensor_value_info("gates", TensorProto.FLOAT, [len(gates), 1])],
        [helper.make_tensor_value_info(share.name, TensorProto.FLOAT, [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return float(open_session(model).run({"gates": gates.astype(np.float32)[:, None]})[share.name])


@FAMILIES
@pytest.mark.parametrize("name", ["pre_norm", "post_norm", "squeeze_excite", "nested", "projection"])
def test_the_nodes_count_what_the_report_counts(name: str, family: GateFamily) -> None:
    coupling = tg.analyze(tg.load(BRANCHY[name][0]()))
    rng = np.random.default_rng(0)
    for kind in [kind for kind in KINDS if kind != "latency"]:  # which has a test below
        for _ in range(4):
            opened = rng.random(len(coupling.branches)) < 0.5
            closing = coupling.closing(
                [b.name for b, is_open in zip(coupling.branches, opened, strict=True) if not is_open]
            )
            mask = random_mask(closing, 0.6, int(rng.integers(99)))
            units = mask.open if family is CHANNELS_AND_BLOCKS else np.ones(coupling.units, bool)
            gates = np.concatenate([units, opened]) if family is CHANNELS_AND_BLOCKS else opened
            counted = closing.cost_model.ratio(units, kind)
            assert priced(coupling, kind, family, gates) == pytest.approx(counted, rel=1e-5, abs=1e-6), kind


def test_time_is_what_is_left_of_the_operators() -> None:
    """By a made-up profile: what was timed in a branch goes with it, whole or through the price of its gate."""
    coupling = tg.analyze(tg.load(BRANCHY["inverted_residual"][0]()))
    rates = tuple(
        Rates((node.outputs[0],), node.op_type, 5.0, 1e-3 if node.op_type == "Conv" else 0.0, 0.0)
        for node in coupling.model.nodes
    )
    coupling.cost_model.use(Profile(coupling.model.structure, rates, {"Conv": Staircase(8)}, fixed=7.0))
    whole, everything = coupling.cost_model.total("latency"), np.ones(coupling.units, bool)
    inside = {"e0", "a0", "d0", "c0", "p0", "t"}
    in_block = {node.label for node in coupling.model.nodes if node.outputs[0] in inside}
    gone = sum(cost for owner, cost in coupling.cost_model.by_owner("latency").items() if owner in in_block)
    closed = coupling.closing(["t"]).cost_model
    assert closed.count("latency", closed.sizes) == pytest.approx(whole - gone)
    assert closed.ratio(everything, "latency") == pytest.approx(1 - gone / whole)
    for opened in ([0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]):
        names = [b.name for b, is_open in zip(coupling.branches, opened, strict=True) if not is_open]
        counted = coupling.closing(names).cost_model.ratio(everything, "latency")
        assert priced(coupling, "latency", BLOCKS, np.array(opened)) == pytest.approx(counted, rel=1e-4)
    mask = tg.select(coupling, "latency=0.7", granularity="block")
    assert len(mask.branches) == 1


def test_what_branches_share_is_charged_for_while_gates_learn() -> None:
    """A weight of two branches goes when both are closed; its price stays."""
    text = "a = MatMul(x, w)  t = Add(x, a)  b = MatMul(t, w)  s = Add(t, b)  y = MatMul(s, o)"
    model = made("(float[N,16] x) => (float[N,4] y)", text, {"w": (16, 16), "o": (16, 4)})
    coupling = tg.analyze(tg.load(model))
    everything, none = np.ones(coupling.units, bool), np.zeros(2)
    assert coupling.closing(["t", "s"]).cost_model.ratio(everything, "params") == pytest.approx(64 / 320)
    assert priced(coupling, "params", BLOCKS, none) == pytest.approx(1.0)
    assert priced(coupling, "flops", BLOCKS, none) == pytest.approx(64 / 576)


def test_half_a_gate_halves_what_is_inside() -> None:
    coupling = tg.analyze(tg.load(BRANCHY["nested"][0]()))
    gates = np.array([{"a": 1.0, "b": 0.5, "y": 1.0}[branch.name] for branch in coupling.branches])
    everything = np.ones(coupling.units, bool)
    without = coupling.closing(["b"]).cost_model.ratio(everything, "flops")
    assert priced(coupling, "flops", BLOCKS, gates) == pytest.approx((1 + without) / 2, rel=1e-5)


@FAMILIES
@pytest.mark.parametrize("engine", ["portable"])
def test_the_gradient_is_the_slope_of_the_output_along_the_gate(family: GateFamily, engine: str) -> None:
    """With gates relaxed to values: a branch's logit has the slope of the sum of the outputs."""
    coupling = tg.analyze(tg.load(BRANCHY["inverted_residual"][0]()))
    x = np.random.default_rng(0).normal(size=(8, 8, 5, 5)).astype(np.float32)
    copy = prepare_training(family.insert(coupling.model.proto, coupling, None), {"x": x.shape})
    (logits,) = (tensor for tensor in copy.model.graph.initializer if tensor.name == LOGITS)
    assert list(logits.dims) == [family.count(coupling)]
    copy.model.graph.node.append(helper.make_node("ReduceSum", ["y"], ["loss"], keepdims=0))
    copy.model.graph.output.insert(0, helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    found, _ = differentiate(copy.model, [LOGITS], engine)
    found.model.graph.output.append(
        helper.make_tensor_value_info(found.gradients[LOGITS], TensorProto.FLOAT, [family.count(coupling)])
    )
    slopes = open_session(found.model).run({"x": x})[found.gradients[LOGITS]]
    gated = BLOCKS.insert(coupling.model.proto, coupling, None)
    for place in range(2):
        ends = []
        for step in (1e-2, -1e-2):
            values = np.ones(2, np.float32)
            values[place] += step
            ends.append(
                float(open_session(gated).run({"x": x, BLOCKS.vector: values})["y"].astype(np.float64).sum())
            )
        ours = slopes[len(slopes) - 2 + place]
        assert ours == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=1e-2)


def task() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Two branches of one size, of which only t is what the target is made of."""
    text = """a = MatMul(x, v1)  r = Relu(a)  b = MatMul(r, v2)  t = Add(x, b)
    c = MatMul(t, w1)  s = Relu(c)  d = MatMul(s, w2)  u = Add(d, t)  y = MatMul(u, o)"""
    shapes = {"v1": (8, 24), "v2": (24, 8), "w1": (8, 24), "w2": (24, 8), "o": (8, 3)}
    model = made("(float[N,8] x) => (float[N,3] y)", text, shapes)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    faint = 0.02 * numpy_helper.to_array(stored["w2"])
    stored["w2"].CopyFrom(numpy_helper.from_array(faint, "w2"))
    x = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    return model, {"x": x, "target_y": open_session(model).run({"x": x})["y"]}


@pytest.mark.parametrize(("granularity", "share"), [("block", 0.55), ("channel,head,block", 0.3)])
def test_gates_learn_which_branch_is_of_use(granularity: str, share: float) -> None:
    model, arrays = task()
    result = tg.prune(
        model, arrays, {"flops": share}, granularity=granularity, criterion="gates", epochs=30, batch=32, lr=3e-3,
        threads=1,
    )  # fmt: skip
    assert result.check.ok
    assert result.mask.branches == ("u",)
    assert result.target_met
    assert bool(result.mask.open.all()) == (granularity == "block")
    assert result.after.metric is not None
    variance = float(arrays["target_y"].var())
    assert result.after.metric < (0.001 if granularity == "block" else 0.05) * variance  # mean squared error


def test_commit_reopens_what_the_target_allows() -> None:
    coupling = tg.analyze(tg.load(BRANCHY["inverted_residual"][0]()))
    closed_both = np.array([0.1, 0.2])
    mask = BLOCKS.commit(coupling, closed_both, tg.Target(flops=0.6), Bounds(granularity="block"))
    assert mask.branches == ("t",)
    scores = np.concatenate([np.linspace(0, 1, coupling.units), closed_both])
    bounds = Bounds(granularity="channel,head,block")
    assert CHANNELS_AND_BLOCKS.commit(coupling, scores, tg.Target(flops=0.6), bounds).branches == ("t",)
    scores[-2:] = 0.9
    mask = CHANNELS_AND_BLOCKS.commit(coupling, scores, tg.Target(flops=0.6), bounds)
    assert mask.branches == ()
    assert not mask.open.all()
    with pytest.raises(tg.TargetError, match="in no branch that may go"):
        BLOCKS.commit(coupling, closed_both, tg.Target(flops=0.3), Bounds(granularity="block", freeze=("y",)))


def test_a_kind_that_is_no_sum_of_products_is_refused() -> None:
    from tgonnx.analysis.kinds import CostKind, register

    class Table:
        uncounted = ()

        def count(self, counts: Array) -> float:
            return float(counts.sum())

    register(CostKind(name="steps", measure=lambda axes: Table()))  # type: ignore[arg-type, return-value]
    try:
        coupling = tg.analyze(tg.load(BRANCHY["nested"][0]()))
        with pytest.raises(tg.UnsupportedError, match="the steps of a branch cannot be learned from"):
            BranchCost(coupling).measure("steps")
    finally:
        del KINDS["steps"]


@pytest.mark.parametrize("granularity", ["block", "channel,head,block"])
def test_a_search_that_was_stopped_goes_on(granularity: str, tmp_path: Path) -> None:
    model = network()
    coupling, bounds = tg.analyze(tg.load(model)), Bounds(granularity=granularity)

    def searched(journal: Journal, keeper: Keeper | None = None) -> Found:
        return search(coupling, task_for(model), tg.Target(flops=0.6), 30, FAST, journal, bounds, keeper)

    expected = searched(Journal())
    assert len(expected.scores) == (1 if granularity == "block" else coupling.units + 1)
    folder = run_folder.create(tmp_path / "r", {"threads": 1}, {})
    keeper = keeper_of(folder, Journal(stops_at(12)))
    with pytest.raises(Stop):
        searched(keeper.journal, keeper)
    keeper.keep()
    found = searched(Journal(), keeper_of(folder, Journal()))
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.values["w2"], expected.values["w2"])


def test_frozen_branches_stay_open_while_gates_learn() -> None:
    model, arrays = task()
    result = tg.prune(
        model, arrays, "flops=0.55", granularity="block", criterion="gates", freeze="u", epochs=4, batch=32, threads=1
    )  # fmt: skip
    assert result.mask.branches == ("t",)
