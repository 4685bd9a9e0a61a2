"""Valid models in unusual forms: read, cut, gated and written in the form that they came in."""

from __future__ import annotations

import pytest

from tgonnx.wellformed import is_placeholder


@pytest.mark.parametrize("name", ["", "?", " ", "-1", "0", "None", "none", "unk", "Unknown", "_", "*", "???"])
def test_names_of_no_axis(name: str) -> None:
    assert is_placeholder(name)


@pytest.mark.parametrize(
    "name", ["N", "batch", "unk__12", "x_dynamic_axes_1", "s0", "p2o.DynamicDimension.0"]
)
def test_names_of_an_axis(name: str) -> None:
    assert not is_placeholder(name)
