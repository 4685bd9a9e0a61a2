"""Gradient rows: the vector-Jacobian product of each operator in standard ONNX operators (opset >= 18)."""

from __future__ import annotations

import tgonnx.gates  # noqa: F401
from tgonnx.gradients import (  # noqa: F401
    activations,
    arithmetic,
    convolution,
    indexing,
    linear,
    losses,
    normalization,
    pooling,
    recurrent,
    reductions,
    resizing,
    sampling,
    shaping,
)
