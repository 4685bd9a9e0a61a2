"""Properties of random models: gated equals pruned, all gates open equals the original, at the sizes of users.

python tests/test_random_graphs.py --minutes 60 --seed 3     # as many models of free sizes as fit, faults printed
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import independent
import numpy as np
import pytest
from hunting import hunt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from independent import Crash, faults_of
from oracle import check_exact
from random_forms import OPSETS as SIZED_OPSETS
from random_forms import wild_model
from random_graphs import random_model

from tgonnx.runtime import child
from tgonnx.runtime.child import ask

OPSETS = (9, 11, 13, 17, 18, 21)
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=seeds, opset=st.sampled_from(OPSETS), length=st.integers(2, 5))
def test_gated_equals_pruned(seed: int, opset: int, length: int) -> None:
    check_exact(random_model(seed, opset, length), seed)


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(seed=seeds, opset=st.sampled_from(OPSETS), length=st.integers(2, 8), keep=st.floats(0.2, 0.9))
def test_gated_equals_pruned_at_length(seed: int, opset: int, length: int, keep: float) -> None:
    check_exact(random_model(seed, opset, length), seed, keep)


def check_wild(seed: int) -> int:
    """Assert that nothing is wrong with one model of free sizes; at how many sizes its original runs."""
    model = wild_model(seed, SIZED_OPSETS[seed % len(SIZED_OPSETS)], 1 + seed % 4)
    try:
        faults, looked, _ = faults_of(model, seed)
    except Crash:
        return 0  # the runtime does not take the original
    assert faults == []
    return looked


def check_watched(stage: Callable[[str], None], seed: int) -> int:
    """`check_wild` in a process of its own, which tells what it runs."""
    independent.watch = stage
    return check_wild(seed)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=seeds)
@example(seed=17375)  # onnxruntime 1.19.2 ends the process that runs the original
def test_true_at_every_size_at_which_the_original_runs(seed: int) -> None:
    try:
        ask(check_watched, seed)
    except child.Crash as crash:
        if crash.stage not in ("starting", "original"):
            raise


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(seed=seeds)
def test_true_at_every_size_at_length(seed: int) -> None:
    check_wild(seed)


def test_most_random_models_have_much_to_prune() -> None:
    """Guards the strategy itself: a model that is pinned everywhere would pass every property."""
    units = [check_exact(random_model(seed, 17, 3), seed).units for seed in range(20)]
    assert np.median(units) > 15


def test_most_models_of_free_sizes_run_and_have_something_to_prune() -> None:
    """The same guard: they run at several sizes, and much of them can go."""
    looked, units = [], []
    for seed in range(20):
        try:
            _, count, coupling = faults_of(wild_model(seed, 17, 3), seed)
        except Crash:
            continue
        looked.append(count)
        units.append(coupling.units)
    assert len(looked) >= 18
    assert np.median(looked) >= 4
    assert np.median(units) >= 8


if __name__ == "__main__":
    sys.exit(hunt(check_wild))
