"""Losses that a user brings as a Python function that writes nodes (`loss=function`).

It is called with `Nodes` and returns the loss of a batch, a scalar. It is for the answers that the first output of the
data has, labels or targets (`nodes.answer()`), or, where there are none, for what the original says (`nodes.taught`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from tgonnx.data.answers import check_labels
from tgonnx.data.samples import Kind
from tgonnx.errors import TgonnxError, UsageError
from tgonnx.graph.builder import Value
from tgonnx.io.checker import describe
from tgonnx.losses.figures import ACCURACY, FOLLOWED, MSE
from tgonnx.losses.loss import Loss
from tgonnx.losses.nodes import Nodes


def of_function(function: Callable[[Nodes], Any], kind: Kind | None) -> Loss:
    """The loss for labels, targets or neither; it is measured by accuracy, squared error or R2.

    What the function raises becomes a UsageError when nodes are written.
    """
    name = str(getattr(function, "__name__", type(function).__name__))

    @wraps(function)
    def emit(nodes: Nodes) -> Value:
        try:
            found = function(nodes)
        except TgonnxError:
            raise
        except Exception as error:  # it is the user's, and may raise anything
            raise UsageError(f"loss {name}: {type(error).__name__}: {describe(error, 200)}") from error
        if not isinstance(found, Value):
            raise UsageError(f"loss {name} returns a {type(found).__name__}, not a value of the graph")
        return found

    if kind == "label":
        return Loss(name=name, emit=emit, metric=ACCURACY, answers="label", check=check_labels)
    if kind == "target":
        return Loss(name=name, emit=emit, metric=MSE)
    return Loss(name=name, emit=emit, metric=FOLLOWED, answers=None, teacher="whole")
