"""A loss that is a Python function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_task import network, samples
from test_answer_cache import SHORT, Stop, stops_at

import tgonnx as tg
from tgonnx.data import open_dataset
from tgonnx.losses import Nodes
from tgonnx.losses.asked import Asked
from tgonnx.losses.fit import validate
from tgonnx.losses.table import LOSSES

OBS: dict[str, Any] = SHORT | {"criterion": "l2", "epochs": 1}


def squares(nodes: Nodes) -> Any:
    difference = nodes.scores() - nodes.answer()
    return (difference * difference).mean(None, False)


def follows(nodes: Nodes) -> Any:
    difference = nodes.scores() - nodes.taught(nodes.fit.output)
    return (difference * difference).mean(None, False)


def regression() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"x": samples(200)["x"], "target": rng.standard_normal((200, 3)).astype(np.float32)}


def test_a_function_learns_what_the_table_learns() -> None:
    own, known = (tg.prune(network(), regression(), 0.6, loss=loss, **OBS) for loss in (squares, "mse"))
    for ours, theirs in zip(own.model.graph.initializer, known.model.graph.initializer, strict=True):
        assert ours.SerializeToString() == theirs.SerializeToString()
    assert "squares" not in LOSSES


def test_a_function_is_for_the_answers_that_there_are() -> None:
    for values, function, figure in (
        (samples(100), squares, "accuracy"),
        (regression(), squares, "mse"),
        ({"x": samples(100)["x"]}, follows, "r2"),
    ):
        fit = validate(open_dataset(values, network()), network(), Asked(loss=function))
        assert fit.loss == function.__name__
        assert fit.figure.name == figure
    result = tg.prune(network(), {"x": samples(100)["x"]}, 0.6, loss=follows, **OBS)
    assert result.check.ok


def test_what_a_function_does_wrong_is_told() -> None:
    def broken(nodes: Nodes) -> Any:
        return 1 / 0

    def nothing(nodes: Nodes) -> Any:
        return None

    with pytest.raises(tg.UsageError, match="loss broken: ZeroDivisionError: division by zero"):
        tg.prune(network(), regression(), 0.6, loss=broken, **OBS)
    with pytest.raises(tg.UsageError, match="loss nothing returns a NoneType, not a value of the graph"):
        tg.prune(network(), regression(), 0.6, loss=nothing, **OBS)


def test_a_run_with_a_function_goes_on(tmp_path: Path) -> None:
    folder, options = str(tmp_path / "run"), OBS | {"checkpoint_seconds": 0}
    whole = tg.prune(network(), regression(), 0.6, loss=squares, **options)
    with pytest.raises(Stop):
        tg.prune(
            network(),
            regression(),
            0.6,
            loss=squares,
            run_dir=folder,
            progress=stops_at("fine-tune", 2),
            **options,
        )
    assert 'loss = "squares"' in (tmp_path / "run" / "recipe.toml").read_text()
    with pytest.raises(tg.UsageError, match="was run with loss"):
        tg.prune(network(), regression(), 0.6, loss="mse", resume=folder, **options)
    again = tg.prune(network(), regression(), 0.6, loss=squares, resume=folder, **options)
    assert again.model.SerializeToString() == whole.model.SerializeToString()
