"""Every float output against the original model's.

Probabilities by Kullback-Leibler divergence, other outputs by squared error over the variance that the original's
output has in the batch.
"""

from __future__ import annotations

import numpy as np

from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Value
from tgonnx.graph.types import Array
from tgonnx.losses.loss import Loss, Seen
from tgonnx.losses.nodes import Nodes


def _emit(nodes: Nodes) -> Value:
    if not nodes.outputs:
        raise UnsupportedError("loss distill: the model has no output of floats")
    parts = [followed(nodes, name) for name in nodes.outputs]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def followed(nodes: Nodes, output: str) -> Value:
    """How far an output is from the original's."""
    teacher = nodes.taught(output)
    logs = nodes.log_probabilities(output)
    if logs is not None:
        return divergence(nodes, teacher, logs)
    centred = teacher - teacher.mean(None, False)
    difference = nodes.float32(output) - teacher
    return (difference * difference).mean(None, False) / ((centred * centred).mean(None, False) + 1e-12)


def divergence(nodes: Nodes, teacher: Value, log_student: Value) -> Value:
    """Kullback-Leibler divergence of probabilities from the teacher's.

    The mean over the distributions, of which there are as many as the probabilities add up to.
    """
    e = nodes.emitter
    log_teacher = e.op("Log", e.op("Max", teacher, e.scalar(1e-8)))
    return (teacher * (log_teacher - log_student)).sum(None, False) / teacher.sum(None, False)


def _metric(seen: Seen) -> float:
    pairs = ((seen.outputs[name], taught) for name, taught in seen.taught.items())
    return sum(_relative_error(found, taught) for found, taught in pairs if taught.dtype.kind == "f")


def _relative_error(a: Array, b: Array) -> float:
    """Squared error over the variance of what is wanted."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.square(a - b).mean() / (np.square(b - b.mean()).mean() + 1e-12))


DISTILL = Loss(name="distill", emit=_emit, metric=_metric, answers=None, strips="Softmax", teacher="outputs")
