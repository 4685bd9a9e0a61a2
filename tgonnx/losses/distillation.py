"""An output of floats against the original model's.

Probabilities by Kullback-Leibler divergence, other outputs by squared error over the variance of the original's, each
channel by its own (`tgonnx.losses.spread`): boxes in pixels do not drown scores.
"""

from __future__ import annotations

import numpy as np

from tgonnx.graph.builder import Value
from tgonnx.losses.figures import FOLLOWED
from tgonnx.losses.loss import Loss
from tgonnx.losses.nodes import Nodes


def _emit(nodes: Nodes) -> Value:
    """How far the output is from the original's; where the spread is not known, in units of that of the batch."""
    output, spread = nodes.fit.output, nodes.fit.spread
    teacher = nodes.taught(output)
    logs = nodes.log_probabilities(output)
    if logs is not None:
        return divergence(nodes, teacher, logs)
    difference = nodes.float32(output) - teacher
    shape = nodes.outputs[output]
    if spread is not None and spread.fits(shape):
        weights = (1 / spread.broadcast(len(shape))).astype(np.float32)
        return (difference * difference * nodes.emitter.constant(weights)).mean(None, False)
    centred = teacher - teacher.mean(None, False)
    return (difference * difference).mean(None, False) / ((centred * centred).mean(None, False) + 1e-12)


def divergence(nodes: Nodes, teacher: Value, log_student: Value) -> Value:
    """Kullback-Leibler divergence of probabilities from the teacher's.

    The mean over the distributions, of which there are as many as the probabilities add up to.
    """
    e = nodes.emitter
    log_teacher = e.op("Log", e.op("Max", teacher, e.scalar(1e-8)))
    return (teacher * (log_teacher - log_student)).sum(None, False) / teacher.sum(None, False)


DISTILL = Loss(name="distill", emit=_emit, metric=FOLLOWED, answers=None, strips="Softmax", teacher="whole")
