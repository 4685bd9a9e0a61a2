"""The learning rate of a network that was trained once and has lost a part of itself.

Two things decide. A small model must learn more anew: what is best at half of the FLOPs is far too little at a tenth
(docs/quality.md). And an adaptive optimiser moves every weight by about the rate in each step, however large it is: a
rate is a share of the size that weights have.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tgonnx.analysis import kinds
from tgonnx.analysis.target import Target

BASE = 5e-4  # at half of the FLOPs, for weights of the size below: ResNet-20 on Fashion-MNIST
SIZE = 0.0635  # root mean square of the elements of a weight, the median over all weights
HALF, STEEP, MOST = (
    0.5,
    2.3,
    16.0,
)  # from which share of the FLOPs on rates rise, how fast, to how many times the base
_SMALL = 64  # elements of a weight that tells nothing


def rate_for(model: onnx.ModelProto, target: Target) -> float:
    """The highest rate of a schedule for a model that is cut to `target`, a share."""
    kept = kinds.named(target.kind).even(target.value)  # of the units, if all layers are cut alike
    harder = float(np.clip((HALF / max(kept**2, 1e-6)) ** STEEP, 1.0, MOST))
    return BASE * harder * min(1.0, _typical_size(model) / SIZE)


def _typical_size(model: onnx.ModelProto) -> float:
    sizes = [
        float(np.sqrt(np.mean(np.square(numpy_helper.to_array(tensor), dtype=np.float64))))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) > 1
        and np.prod(tensor.dims) > _SMALL
    ]
    return float(np.median(sizes)) if sizes else SIZE
