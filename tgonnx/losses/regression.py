"""Squared and absolute error of the output against targets."""

from __future__ import annotations

import numpy as np

from tgonnx.graph.builder import Value
from tgonnx.losses.loss import Loss, Seen
from tgonnx.losses.nodes import Nodes


def _difference(nodes: Nodes) -> Value:
    answer = nodes.answer()
    return nodes.scores() - answer


def _squared(nodes: Nodes) -> Value:
    difference = _difference(nodes)
    return (difference * difference).mean(None, False)


def _absolute(nodes: Nodes) -> Value:
    return nodes.emitter.op("Abs", _difference(nodes)).mean(None, False)


def _mean_square(seen: Seen) -> float:
    return float(np.square(seen.output - seen.wanted).mean())


def _mean_distance(seen: Seen) -> float:
    return float(np.abs(seen.output - seen.wanted).mean())


MSE = Loss(name="mse", emit=_squared, metric=_mean_square)
L1 = Loss(name="l1", emit=_absolute, metric=_mean_distance)
