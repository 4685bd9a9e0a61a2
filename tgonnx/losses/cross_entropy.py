"""Cross-entropy of labels. A Softmax at the end of the model is taken off first.

With `imitation`, that share of the loss is cross-entropy of the original model's probabilities (less their entropy),
which keeps small data sets from being overfitted. Labels may be smoothed.
"""

from __future__ import annotations

from onnx import TensorProto

from tgonnx.data.answers import IGNORED, check_labels
from tgonnx.graph.builder import Value
from tgonnx.losses.distillation import divergence
from tgonnx.losses.figures import ACCURACY
from tgonnx.losses.loss import Loss
from tgonnx.losses.nodes import Nodes


def _emit(nodes: Nodes) -> Value:
    labelled = _labelled(nodes)
    if not nodes.imitation:
        return labelled
    followed = _followed(nodes)
    return labelled * (1 - nodes.imitation) + followed * nodes.imitation


def _labelled(nodes: Nodes) -> Value:
    """The standard's operator, whose second axis is that of classes. Labels that are ignored count for nothing."""
    fit, labels = nodes.fit, nodes.answer()
    logs = nodes.log_probabilities(fit.output)
    scores = nodes.float32(fit.output) if logs is None else logs
    rank = len(nodes.answer_shape) + 1
    if fit.class_axis not in (None, 1) and rank > 2:
        scores = scores.transpose([0, rank - 1, *range(1, rank - 1)])
    if logs is None and fit.smoothing:
        scores = logs = nodes.emitter.op("LogSoftmax", scores, axis=1)
    op_type = "SoftmaxCrossEntropyLoss" if logs is None else "NegativeLogLikelihoodLoss"
    if not fit.ignores:
        found = nodes.emitter.op(op_type, scores, labels, reduction="mean")
        return _smoothed(found, -scores.mean(None, False), fit.smoothing) if fit.smoothing else found
    counts = nodes.emitter.op("Not", labels.equals(IGNORED)).cast(TensorProto.FLOAT)
    number = nodes.emitter.op(
        "Max", counts.sum(None, False), nodes.emitter.scalar(1.0)
    )  # a batch may have none
    found = nodes.emitter.op(op_type, scores, labels, reduction="sum", ignore_index=IGNORED) / number
    if not fit.smoothing:
        return found
    spread = -(scores.mean([1], False) * counts).sum(None, False) / number
    return _smoothed(found, spread, fit.smoothing)


def _smoothed(labelled: Value, spread: Value, smoothing: float) -> Value:
    """A share of every label is given to all classes alike (Szegedy et al. 2016)."""
    return labelled * (1 - smoothing) + spread * smoothing


def _followed(nodes: Nodes) -> Value:
    """Divergence of the student's probabilities from the teacher's."""
    output = nodes.fit.output
    teacher = nodes.taught(output)
    logs = nodes.log_probabilities(output)
    if logs is None:
        axis = 1 if nodes.fit.class_axis is None else nodes.fit.class_axis
        teacher = nodes.emitter.op("Softmax", teacher, axis=axis)
        logs = nodes.emitter.op("LogSoftmax", nodes.float32(output), axis=axis)
    return divergence(nodes, teacher, logs)


CE = Loss(
    name="ce",
    emit=_emit,
    metric=ACCURACY,
    answers="label",
    check=check_labels,
    strips="Softmax",
    teacher="part",
)
