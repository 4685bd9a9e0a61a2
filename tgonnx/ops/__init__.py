"""Everything tgonnx knows of each operator, one block an operator; importing this package fills the tables."""

from tgonnx.ops import (
    convolution,
    elementwise,
    indexing,
    joining,
    layout,
    linear,
    losses,
    norm,
    recurrent,
    reduce,
    spatial,
)
from tgonnx.ops.registry import cost, gated, gradient, resize, rule

__all__ = [
    "convolution",
    "cost",
    "elementwise",
    "gated",
    "gradient",
    "indexing",
    "joining",
    "layout",
    "linear",
    "losses",
    "norm",
    "recurrent",
    "reduce",
    "resize",
    "rule",
    "spatial",
]
