"""A small network and a task that it learns in a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import parser

Array = np.ndarray[Any, Any]
CLASSES = 3


def network(
    ending: str = "y = Identity(s)", batch: str = "N", dropout: bool = False, opset: int = 17
) -> onnx.ModelProto:
    """A residual block with BatchNormalization and a classifier of three classes, untrained."""
    drop = "c = Dropout(r)" if dropout else "c = Identity(r)"
    body = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    net (float[{batch}, 2, 6, 6] x) => (float[{batch}, {CLASSES}] y) {{
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1)
        b = BatchNormalization (a, scale, bias, mean, var)
        r = Relu(b)
        {drop}
        d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c, w2)
        e = Add(c, d)
        f = Conv <kernel_shape = [1, 1]> (e, w3)
        g = GlobalAveragePool(f)
        h = Flatten(g)
        s = Gemm <transB = 1> (h, w4, b4)
        {ending}
    }}"""
    model = parser.parse_model(body)
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (8, 2, 3, 3),
        "w2": (8, 8, 3, 3),
        "w3": (6, 8, 1, 1),
        "w4": (CLASSES, 6),
        "b4": (CLASSES,),
    }
    values = {n: rng.normal(size=s) / np.sqrt(np.prod(s[1:]) + 1) for n, s in shapes.items()}
    values |= {"scale": np.ones(8), "bias": np.full(8, 0.1), "mean": np.zeros(8), "var": np.ones(8)}
    tensors = [onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()]
    model.graph.initializer.extend(tensors)
    onnx.checker.check_model(model, full_check=True)
    return model


def samples(count: int = 400, seed: int = 0) -> dict[str, Array]:
    """Noise whose strength, channel by channel, says the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    strength = np.array([[0.3, 1.5], [1.5, 0.3], [1.0, 1.0]])[labels]
    x = rng.normal(size=(count, 2, 6, 6)) * strength[:, :, None, None]
    return {"x": x.astype(np.float32), "label": labels}
