"""Cross-entropy of labels. A Softmax at the end of the model is taken off first.

With `imitation`, that share of the loss is cross-entropy of the original model's probabilities (less their entropy),
which keeps small data sets from being overfitted.
"""

from __future__ import annotations

from tgonnx.data.answers import IGNORED, check_labels
from tgonnx.graph.builder import Value
from tgonnx.losses.distillation import divergence
from tgonnx.losses.loss import Loss, Seen
from tgonnx.losses.nodes import Nodes


def _emit(nodes: Nodes) -> Value:
    labelled = _labelled(nodes)
    if not nodes.imitation:
        return labelled
    followed = _followed(nodes)
    return labelled * (1 - nodes.imitation) + followed * nodes.imitation


def _labelled(nodes: Nodes) -> Value:
    labels = nodes.answer()
    logs = nodes.log_probabilities(nodes.fit.output)
    scores = nodes.float32(nodes.fit.output) if logs is None else logs
    rank = len(nodes.answer_shape) + 1
    if nodes.fit.class_axis not in (None, 1) and rank > 2:
        scores = scores.transpose([0, rank - 1, *range(1, rank - 1)])
    op_type = "SoftmaxCrossEntropyLoss" if logs is None else "NegativeLogLikelihoodLoss"
    if nodes.fit.ignores:
        return nodes.emitter.op(op_type, scores, labels, reduction="mean", ignore_index=IGNORED)
    return nodes.emitter.op(op_type, scores, labels, reduction="mean")


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


def _accuracy(seen: Seen) -> float:
    right = seen.output.argmax(seen.fit.class_axis) == seen.wanted
    if seen.fit.ignores:
        right = right[seen.wanted != IGNORED]
    return float(right.mean()) if right.size else 0.0


CE = Loss(
    name="ce",
    emit=_emit,
    metric=_accuracy,
    answers="label",
    check=check_labels,
    strips="Softmax",
    teacher="output",
    metric_name="accuracy",
    higher_is_better=True,
)
