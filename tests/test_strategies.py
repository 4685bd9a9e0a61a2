"""Strategies are tables: what is registered from outside is used, and a name that nobody has is refused."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_task import network, samples

import tgonnx as tg
from tgonnx import engines
from tgonnx.analysis.kinds import KINDS, Axes, CostKind, Products, Term
from tgonnx.analysis.kinds import register as register_kind
from tgonnx.engines import table as engine_table
from tgonnx.engines.table import Engine
from tgonnx.engines.trainer import session
from tgonnx.errors import InstallationError, UnsupportedError, UsageError
from tgonnx.graph.builder import Emitter, Value
from tgonnx.losses.fit import Fit
from tgonnx.losses.loss import Loss, Seen
from tgonnx.losses.nodes import ANSWER, Nodes
from tgonnx.losses.table import LOSSES
from tgonnx.losses.table import register as register_loss
from tgonnx.passes.add_objective import COST, HYSTERESIS, MU, RHO, Penalty, add_objective
from tgonnx.passes.insert_gates import GATES, insert_gates
from tgonnx.selection.scoring import CRITERIA, Criterion
from tgonnx.selection.scoring import register as register_criterion

SHORT: dict[str, Any] = {
    "epochs": 9,
    "lr": 1e-2,
    "seed": 3,
    "threads": 1,
    "verify_seconds": 1,
    "from_scratch": True,
}


def huber(nodes: Nodes) -> Value:
    answer = nodes.answer()
    distance = nodes.emitter.op("Abs", nodes.scores() - answer)
    near = distance * distance * 0.5
    return nodes.emitter.where(distance < 1.0, near, distance - 0.5).mean(None, False)


def huber_metric(seen: Seen) -> float:
    distance = np.abs(seen.output - seen.wanted)
    return float(np.where(distance < 1, distance**2 / 2, distance - 0.5).mean())


@pytest.fixture
def huber_loss() -> Iterator[None]:
    register_loss(Loss(name="huber", emit=huber, metric=huber_metric))
    yield
    del LOSSES["huber"]


@pytest.mark.usefixtures("huber_loss")
@pytest.mark.parametrize("engine", ["auto", "portable"])
def test_a_loss_from_outside_trains_and_is_reported(engine: str) -> None:
    x = samples(200)["x"]
    target = np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), 3 * x[:, 0].std((1, 2))], 1).astype(np.float32)
    data = tg.data.arrays({"x": x, "target": target})
    result = tg.prune(network(), data, tg.Target(flops=0.6), loss="huber", engine=engine, **SHORT)
    assert result.metric_name == "huber loss"
    assert result.target_met
    losses = [record.loss for record in result.history if record.phase == "fine-tune"]
    assert losses[-1] < losses[0]
    same = tg.prune(network(), data, tg.Target(flops=0.6), loss="mse", engine=engine, **SHORT)
    assert result.after.metric != same.after.metric
    weights = [{t.name: t.raw_data for t in r.model.graph.initializer} for r in (result, same)]
    assert weights[0] != weights[1]  # it was not trained as something else


@pytest.mark.parametrize(("name", "first"), [("distil", "distill"), ("MSE", "mse"), (7, "")])
def test_an_unknown_loss_is_refused_with_the_known_ones(name: Any, first: str) -> None:
    with pytest.raises(UsageError, match=r"unknown loss .*; there are ") as error:
        tg.prune(network(), tg.data.arrays(samples(40)), loss=name)
    listed = str(error.value).partition("there are ")[2].split(", ")
    assert sorted(listed) == sorted(["auto", *LOSSES])
    assert not first or listed[0] == first


def values(axes: Axes) -> Products:
    """Numbers that nodes put out: the memory traffic of a model."""
    labelled, nodes = axes.coupling.labelling.axes, axes.coupling.model.nodes
    terms = [
        Term(1.0, tuple(axes.number(labels) for labels in labelled[name]), node.label)
        for node in nodes
        for name in node.outputs
        if name in labelled
    ]
    return Products(axes, terms)


class Steps:
    """A cost that is no product of lengths, as a measured time: the first half of a group costs half of the rest."""

    uncounted = ()

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.groups = axes.coupling.groups
        self.half = np.array([[group.size / 2] for group in self.groups], np.float32)
        self.member = np.zeros((len(self.groups), axes.coupling.units), np.float32)
        for row, group in zip(self.member, self.groups, strict=True):
            row[group.units] = 1

    def by_owner(self, counts: Any) -> dict[str, float]:
        starts = {g.name: int(self.axes.kind_of[g.units[0]]) for g in self.groups}
        kinds = {g.name: int(g.kinds.max()) + 1 for g in self.groups}
        kept = {name: counts[start : start + kinds[name]].sum() for name, start in starts.items()}
        return {g.name: float(kept[g.name] + max(kept[g.name] - g.size / 2, 0)) for g in self.groups}

    def count(self, counts: Any) -> float:
        return sum(self.by_owner(counts).values())

    def emit(self, emitter: Emitter, kept: Value) -> Value:
        units = emitter.matmul(emitter.constant(self.member), kept)
        beyond = emitter.op("Relu", units - emitter.constant(self.half))
        return (units + beyond).sum(None, False) / self.count(self.axes.sizes)


@pytest.fixture
def two_kinds() -> Iterator[None]:
    register_kind(CostKind(name="values", measure=values, even=float))
    register_kind(CostKind(name="steps", measure=Steps, even=float))
    yield
    del KINDS["values"], KINDS["steps"]


@pytest.mark.usefixtures("two_kinds")
@pytest.mark.parametrize("kind", ["values", "steps"])
def test_a_kind_of_cost_from_outside_is_counted_and_trained_against(kind: str) -> None:
    coupling = tg.analyze(tg.load(network()))
    cost = coupling.cost_model
    assert cost.ratio(np.ones(coupling.units, bool), kind) == 1
    assert sum(cost.by_owner(kind).values()) == pytest.approx(cost.total(kind))
    gated = insert_gates(coupling.model.proto, coupling, None)
    objective = add_objective(gated, Fit("ce", "y", 1), {"y": (4,)}, None, Penalty(cost, kind, 3.0))
    x = np.zeros((4, 2, 6, 6), np.float32)
    scalars = {name: np.zeros((), np.float32) for name in (MU, RHO, HYSTERESIS)}
    for seed in range(4):
        mask = np.random.default_rng(seed).random(coupling.units) < 0.6
        feeds = {"x": x, ANSWER + "y": np.zeros(4, np.int64), GATES: mask.astype(np.float32), **scalars}
        found = float(session(objective).run([COST], feeds)[0])
        assert found == pytest.approx(cost.ratio(mask, kind), rel=1e-5)
        assert 0 < found < 1


@pytest.mark.usefixtures("two_kinds")
@pytest.mark.parametrize("kind", ["values", "steps"])
def test_a_kind_of_cost_from_outside_is_a_target(kind: str) -> None:
    options = SHORT | {"criterion": "gates"}
    result = tg.prune(network(), tg.data.arrays(samples(200)), target=f"{kind}=0.6", **options)
    assert result.target.kind == kind
    assert result.achieved == tg.analyze(tg.load(network())).cost_model.ratio(result.mask.open, kind)
    assert 0.3 < result.achieved <= 0.6
    learnt = [record.cost for record in result.history if record.phase == "search"]
    assert learnt[-1] < 0.85  # the gates closed because of it
    assert tg.prune(network(), target=f"{kind}=0.6", verify_seconds=1).target_met


def test_a_kind_from_outside_changes_no_figure_of_the_others(two_kinds: None) -> None:
    coupling = tg.analyze(tg.load(network()))
    alone, beside = tg.CostModel(coupling), tg.CostModel(coupling)
    beside.total("values")
    written = [
        add_objective(
            insert_gates(coupling.model.proto, coupling, None),
            Fit("ce", "y", 1),
            {"y": (4,)},
            None,
            Penalty(c, "flops", 3.0),
        ).SerializeToString(deterministic=True)
        for c in (alone, beside)
    ]
    assert written[0] == written[1]


def test_an_unknown_kind_of_cost_is_refused_with_the_known_ones() -> None:
    coupling = tg.analyze(tg.load(network()))
    with pytest.raises(UsageError, match=r"unknown kind of cost 'parms'; there are params, "):
        coupling.cost_model.ratio(np.ones(coupling.units, bool), "parms")


@pytest.fixture
def last_first() -> Iterator[None]:
    register_criterion(Criterion(name="last", score=lambda coupling, seed: np.arange(coupling.units) + seed))
    yield
    del CRITERIA["last"]


@pytest.mark.usefixtures("last_first")
def test_a_criterion_from_outside_chooses() -> None:
    coupling = tg.analyze(tg.load(network()))
    mask = tg.select(coupling, target=tg.Target(channels=0.6), criterion="last", round_to=1)
    assert 0.5 < tg.CostModel(coupling).ratio(mask.open, "channels") <= 0.6
    for group in coupling.groups:
        closed = ~mask.open[group.units]
        assert 0 < closed.sum() < group.size
        assert closed[: closed.sum()].all()  # the first of each group went


def test_an_unknown_criterion_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"criterion 'L1'.* l1, l2,.* random"):
        tg.select(tg.analyze(tg.load(network())), tg.Target(flops=0.5), criterion="L1")


@pytest.mark.parametrize(
    "scores", [lambda n: np.zeros(n + 1), lambda n: np.full(n, np.nan), lambda n: [""] * n]
)
def test_scores_that_rank_nothing_are_refused(scores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Criterion(name="wrong", score=lambda coupling, seed: scores(coupling.units))
    monkeypatch.setitem(CRITERIA, "wrong", wrong)
    with pytest.raises(UsageError, match="criterion 'wrong': "):
        tg.select(tg.analyze(tg.load(network())), tg.Target(flops=0.5), criterion="wrong")


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"engine 'ort'.* ort-training, .*auto"):
        engines.choose("ort")


def test_auto_tries_the_engines_in_the_order_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def engine(name: str, works: bool, missing: str = "", devices: Any = ("cpu",)) -> Engine:
        def differentiate(model: Any, names: Any) -> Any:
            tried.append(name)
            if not works:
                raise UnsupportedError(f"{name} cannot")
            return name

        return Engine(name=name, differentiate=differentiate, missing=lambda: missing, devices=devices)

    rows = [
        engine("absent", True, "not installed"),
        engine("partial", False),
        engine("whole", True, devices=("cpu", "cuda")),
    ]
    monkeypatch.setattr(engine_table, "ENGINES", {row.name: row for row in rows})
    model = network()
    assert engines.differentiate(model, ["w1"]) == ("whole", "whole")
    assert tried == ["partial", "whole"]
    assert engines.differentiate(model, ["w1"], device="cuda") == ("whole", "whole")
    assert tried == ["partial", "whole", "whole"]
    with pytest.raises(UnsupportedError, match="partial cannot"):
        engines.differentiate(model, ["w1"], "partial")
    with pytest.raises(InstallationError, match="engine absent: not installed"):
        engines.differentiate(model, ["w1"], "absent")


def test_the_examples_for_contributors_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CONTRIBUTING.md shows is run as it stands there, and registered."""
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(textwrap.dedent("   " + block.lstrip(" ")), shown)
        shown["register"](
            next(v for v in reversed(shown.values()) if isinstance(v, Loss | Criterion | CostKind))
        )
    for table, name in ((LOSSES, "huber"), (CRITERIA, "smallest"), (KINDS, "values")):
        monkeypatch.setitem(table, name, table.pop(name))  # taken out again at the end
    coupling = tg.analyze(tg.load(network()))
    mask = tg.select(coupling, tg.Target(flops=0.6), criterion="smallest")
    assert 0 < coupling.cost_model.ratio(mask.open, "values") < 1
