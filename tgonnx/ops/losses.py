"""Losses: they have gradients, and nothing that could be cut."""

from __future__ import annotations

import numpy as np

from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.tables import gradient, rule
from tgonnx.ops.unprunable import keeping

rule("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")(keeping("a loss for training"))


@gradient("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(row: Row) -> Grads:
    """Scores (N, C, space), labels (N, space), class weights (C); `mean` divides by the summed weights."""
    scores = row.x
    factor = _factor(row)
    probability = row.op("Softmax", scores, axis=1)
    return [(probability - _onehot(row)) * factor]


@gradient("NegativeLogLikelihoodLoss")
def negative_log_likelihood(row: Row) -> Grads:
    """As cross entropy, on log-probabilities."""
    return [-(_onehot(row) * _factor(row))]


def _labels(row: Row) -> tuple[Value, Value | None]:
    """The labels with ignored ones moved in range, and 0 for ignored, 1 for counted ones."""
    labels = row.input(1)
    ignored = row.attribute("ignore_index")
    if ignored is None:
        return labels, None
    counted = row.op("Not", labels.equals(row.emitter.scalar(int(ignored), labels.elem_type)))
    zero = row.emitter.scalar(0, labels.elem_type)
    return row.op("Where", counted, labels, zero), counted.cast_like(row.x)


def _onehot(row: Row) -> Value:
    labels, _ = _labels(row)
    depth = row.x.shape(1, 2)
    values = row.emitter.constant(np.array([0, 1], np.float32))
    onehot = row.op("OneHot", labels, depth, values, axis=1)
    return onehot if row.x.elem_type == 1 else onehot.cast_like(row.x)


def _factor(row: Row) -> Value:
    """dy times the weight of every sample, (N, 1, space)."""
    labels, counted = _labels(row)
    weight: Value | None = counted
    if row.has(2):
        picked = row.op("Gather", row.input(2), labels, axis=0)
        weight = picked if counted is None else picked * counted
    reduction = row.attribute("reduction", "mean")
    dy = row.dy
    if reduction == "none":
        result = dy if weight is None else dy * weight
        return result.unsqueeze([1])
    if reduction == "mean":
        total = row.op("Size", labels).cast_like(row.x) if weight is None else weight.sum(None, False)
        dy = dy / total
    return dy if weight is None else (dy * weight).unsqueeze([1])
