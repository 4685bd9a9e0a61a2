"""The paper's Figure 2: gates keep exactly one of 20 sine nodes, softmax keeps several."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tgonnx.ops import trainable_gate as gates

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from synthetic import kept, train


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", gates.SHAPES)
def test_exactly_one_gate_stays_open(shape: str, seed: int) -> None:
    decisions, error = train(shape, seed)
    assert kept(decisions) == 1
    assert error < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_softmax_keeps_several_nodes(seed: int) -> None:
    decisions, error = train("softmax", seed)
    assert kept(decisions) > 1
    assert error < 1e-2
