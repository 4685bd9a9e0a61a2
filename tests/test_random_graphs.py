"""Properties of every model: gated equals pruned, predicted equals counted, names and order do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import check_exact
from random_graphs import random_model

OPSETS = (9, 11, 13, 17, 18, 21)
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, opset=st.sampled_from(OPSETS), length=st.integers(2, 5))
def test_gated_equals_pruned(seed: int, opset: int, length: int) -> None:
    check_exact(random_model(seed, opset, length), seed)


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(seed=seeds, opset=st.sampled_from(OPSETS), length=st.integers(2, 8), keep=st.floats(0.2, 0.9))
def test_gated_equals_pruned_at_length(seed: int, opset: int, length: int, keep: float) -> None:
    check_exact(random_model(seed, opset, length), seed, keep)


def test_most_random_models_have_much_to_prune() -> None:
    """Guards the strategy itself: a model that is pinned everywhere would pass every property."""
    units = [check_exact(random_model(seed, 17, 3), seed).units for seed in range(20)]
    assert np.median(units) > 15
