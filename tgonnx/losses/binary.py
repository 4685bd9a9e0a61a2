"""Binary cross-entropy of logits against targets within 0..1; a Sigmoid at the end is taken off first."""

from __future__ import annotations

import numpy as np

from tgonnx.data.answers import check_targets
from tgonnx.errors import DataError
from tgonnx.graph.builder import Value
from tgonnx.graph.types import Array
from tgonnx.losses.loss import Loss, Seen
from tgonnx.losses.nodes import Nodes


def _check(targets: Array, output: tuple[int, ...], where: str) -> None:
    check_targets(targets, output, where)
    if targets.min() < 0 or targets.max() > 1:
        raise DataError(f"{where}: loss bce needs targets within 0..1")


def _emit(nodes: Nodes) -> Value:
    """-(t log s(x) + (1 - t) log(1 - s(x))) = max(x, 0) - x t + log(1 + exp(-|x|))."""
    e = nodes.emitter
    answer, x = nodes.answer(), nodes.scores()
    soft = e.op("Log", e.op("Exp", -e.op("Abs", x)) + 1.0)
    return (e.op("Relu", x) - x * answer + soft).mean(None, False)


def _metric(seen: Seen) -> float:
    output, wanted = seen.output, seen.wanted.astype(np.float64)
    if seen.activated:
        p = np.clip(output, 1e-7, 1 - 1e-7)
        return float(-(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean())
    return float((np.maximum(output, 0) - output * wanted + np.log1p(np.exp(-np.abs(output)))).mean())


def _constant(mean: Array, activated: bool) -> Array:
    p = np.clip(mean, 1e-7, 1 - 1e-7)
    return p if activated else np.log(p / (1 - p))


BCE = Loss(name="bce", emit=_emit, metric=_metric, check=_check, strips="Sigmoid", constant=_constant)
