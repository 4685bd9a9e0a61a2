"""Everything tgonnx knows of each operator, one block an operator; importing this package fills the tables."""

from tgonnx.ops import elementwise, indexing, layout, linear, norm, recurrent, reduce, spatial
from tgonnx.ops.registry import cost, gated, gradient, resize, rule

__all__ = [
    "cost",
    "elementwise",
    "gated",
    "gradient",
    "indexing",
    "layout",
    "linear",
    "norm",
    "recurrent",
    "reduce",
    "resize",
    "rule",
    "spatial",
]
