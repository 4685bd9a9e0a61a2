"""Everything tgonnx knows of each operator, one block an operator; importing this package fills the tables."""

from tgonnx.ops import (
    attention,
    convolution,
    elementwise,
    indexing,
    joining,
    kept,
    layout,
    linear,
    losses,
    norm,
    quantized,
    recurrent,
    reduce,
    regions,
    spatial,
)
from tgonnx.ops.registry import cost, gated, gradient, resize, rule

__all__ = [
    "attention",
    "convolution",
    "cost",
    "elementwise",
    "gated",
    "gradient",
    "indexing",
    "joining",
    "kept",
    "layout",
    "linear",
    "losses",
    "norm",
    "quantized",
    "recurrent",
    "reduce",
    "regions",
    "resize",
    "rule",
    "spatial",
]
