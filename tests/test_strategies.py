"""Strategies are tables: what is registered from outside is used, and a name that nobody has is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from small_task import network, samples

import tgonnx as tg
from tgonnx.errors import UsageError
from tgonnx.graph.builder import Value
from tgonnx.losses.loss import Loss, Seen
from tgonnx.losses.nodes import Nodes
from tgonnx.losses.table import LOSSES
from tgonnx.losses.table import register as register_loss

SHORT: dict[str, Any] = {"epochs": 9, "lr": 1e-2, "seed": 3, "threads": 1, "verify_seconds": 1}


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
