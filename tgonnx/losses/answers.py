"""Do labels or targets fit the output of a model?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tgonnx.data.samples import check_finite
from tgonnx.errors import DataError
from tgonnx.graph.types import Array

Check = Callable[
    [Array, tuple[int, ...], str], int | None
]  # answers, shape of the output, where they are from


def check_labels(labels: Array, output: tuple[int, ...], where: str) -> int:
    """The class axis of the output: the axis that the labels lack. Raises DataError."""
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where} has type {labels.dtype}; labels are whole numbers")
    inner = labels.shape[1:]
    axes = [
        axis
        for axis in (1, len(output) - 1)
        if 0 < axis < len(output) and output[1:axis] + output[axis + 1 :] == inner
    ]
    if not axes:
        raise DataError(
            f"{where} has shape {labels.shape}, which does not fit the output's shape {output}: "
            "cross-entropy needs a score for each class"
        )
    classes = output[axes[0]]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        sample = int(np.argwhere(labels == wrong)[0][0])
        raise DataError(f"{where}: label {wrong} of sample {sample} is outside 0..{classes - 1}")
    return axes[0]


def check_targets(targets: Array, output: tuple[int, ...], where: str) -> None:
    """Targets are finite numbers in the shape of the output. Raises DataError."""
    if targets.dtype.kind not in "biuf":
        raise DataError(f"{where} has type {targets.dtype}; targets are numbers")
    if targets.shape[1:] != output[1:]:
        raise DataError(f"{where} has shape {targets.shape}, which does not fit the output's shape {output}")
    check_finite(targets, where)
