"""What a runtime returns for outputs that are no tensors, as arrays that can be compared number by number."""

from __future__ import annotations

from typing import Any

import numpy as np

from tgonnx.graph.types import Array


def as_array(value: Any) -> Array:
    """A tensor as it is; maps as their values in the order of their keys; a sequence of like parts as one array.

    Parts of different shapes come one behind the other, in one row.
    """
    if isinstance(value, dict):
        return np.array([value[key] for key in sorted(value)])
    if isinstance(value, list) and not any(isinstance(part, str) for part in value):
        parts = [as_array(part) for part in value]
        alike = len({part.shape for part in parts}) == 1
        return np.stack(parts) if alike else np.concatenate([np.zeros(0), *(part.ravel() for part in parts)])
    return np.asarray(value)
