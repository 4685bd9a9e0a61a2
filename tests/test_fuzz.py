"""The fuzzers for a few seconds. They run for hours as `python tests/fuzz_forms.py --minutes 60`, and so on."""

from __future__ import annotations

import pytest
from fuzz_forms import check_mutated
from mutations import MUTATIONS, Mutation, Skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@pytest.mark.filterwarnings("default")  # of the tools that make the forms
def test_forms_that_mean_the_same(mutation: Mutation) -> None:
    used, why = 0, ""
    for seed in range(40):
        try:
            used += bool(check_mutated(seed, (mutation,)))
        except Skip as skip:
            why = str(skip)
            if "not installed" in why:
                break
        if used == 3:
            return
    if not used:
        pytest.skip(why)


@pytest.mark.long
def test_forms_in_combination() -> None:
    assert sum(bool(check_mutated(seed)) for seed in range(500)) > 300
