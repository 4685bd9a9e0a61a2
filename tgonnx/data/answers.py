"""Do labels and targets fit an output? What is wrong is said with the cure, in numbers of the user's own arrays."""

from __future__ import annotations

import numpy as np

from tgonnx.data.finite import check_finite
from tgonnx.errors import DataError
from tgonnx.graph.types import Array

IGNORED = -100  # what every label that counts for nothing is set to
IGNORED_BY_DEFAULT = (255, -100)  # in dense labels: of segmentation, and of tokens


def class_axis(labels: tuple[int, ...], output: tuple[int, ...]) -> int | None:
    """The axis of classes of an output (shapes with samples first): the one that the labels lack."""
    fitting = (
        axis
        for axis in (1, len(output) - 1)
        if 0 < axis < len(output) and output[1:axis] + output[axis + 1 :] == labels[1:]
    )
    return next(fitting, None)


def check_labels(labels: Array, output: tuple[int, ...], where: str) -> int:
    """The class axis of the output: the axis that the labels lack. Raises DataError.

    `labels` are those of all samples as the user gave them, `output` is the shape of the output for a few.
    """
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{where} has type {labels.dtype}; labels are whole numbers{_numbers_cure(labels, output)}"
        )
    axis = class_axis(labels.shape, output)
    if axis is None:
        raise DataError(
            f"{where} has shape {labels.shape}, which does not fit the output's shape {_per_sample(output)}: "
            f"cross-entropy needs a score for each class{_shape_cure(labels, output)}"
        )
    count = output[axis]
    wrong = (labels < 0) | (labels >= count)
    if wrong.any():
        sample = int(np.argwhere(wrong)[0][0])
        first = int(labels[tuple(np.argwhere(wrong)[0])])
        raise DataError(
            f"{where}: label {first} of sample {sample} is outside 0..{count - 1}{_range_cure(labels, count)}"
        )
    return axis


def classes_differ(name: str, classes: tuple[str, ...], count: int) -> str:
    """What is said of a folder whose classes are not as many as the output's."""
    listed = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
    cure = (
        "" if len(classes) > count else "; give the names of all classes in the model's order: classes=FILE"
    )
    return f"{name}: the folder has {len(classes)} classes ({listed}), the model's output has {count}{cure}"


def check_targets(targets: Array, output: tuple[int, ...], where: str) -> None:
    """Targets are finite numbers in the shape of the output. Raises DataError."""
    if targets.dtype.kind not in "biuf":
        raise DataError(f"{where} has type {targets.dtype}; targets are numbers")
    if targets.shape[1:] != output[1:]:
        cure = _squeeze(targets.shape, output) or _transpose(targets.shape, output)
        if targets.dtype.kind in "iu" and class_axis(targets.shape, output) is not None:
            cure = "; class numbers? rename it to 'label'"
        raise DataError(
            f"{where} has shape {targets.shape}, which does not fit the output's shape {_per_sample(output)}{cure}"
        )
    check_finite(targets, where)


def ignoring(labels: Array, output: tuple[int, ...], ignore_label: int | None) -> tuple[Array, int]:
    """Labels with `IGNORED` for those that count for nothing, and how many these are.

    With no number given, 255 and -100 are, in dense labels of an output that has no such classes.
    """
    axis = class_axis(labels.shape, output)
    if labels.dtype.kind not in "iu" or axis is None:
        return labels, 0
    if ignore_label is not None:
        ignored = labels == ignore_label
    elif labels.ndim > 1:
        ignored = np.isin(labels, [value for value in IGNORED_BY_DEFAULT if not 0 <= value < output[axis]])
    else:
        return labels, 0
    count = int(ignored.sum())
    return (np.where(ignored, IGNORED, labels.astype(np.int64)), count) if count else (labels, 0)


def counted(labels: Array) -> Array:
    """Labels with a class in the place of those that are ignored, for checks."""
    return np.where(labels == IGNORED, 0, labels)


def _per_sample(output: tuple[int, ...]) -> str:
    """A shape whose samples are any number of them."""
    return f"(N, {', '.join(map(str, output[1:]))})" if len(output) > 1 else "(N,)"


def _numbers_cure(labels: Array, output: tuple[int, ...]) -> str:
    if labels.dtype.kind == "b":
        return ": give label.astype(numpy.int64)"
    if labels.dtype.kind in "USO":
        return ": number the classes in the model's order"
    if labels.dtype.kind == "f" and labels.shape[1:] == output[1:]:
        return (
            "; values of the output's shape are called 'target'"
            if not _one_hot(labels, 1)
            else _argmax(labels, 1)
        )
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.round(labels)).all():
        return ": give label.astype(numpy.int64)"
    return ""


def _shape_cure(labels: Array, output: tuple[int, ...]) -> str:
    for axis in dict.fromkeys((1, len(output) - 1)):
        if labels.shape[1:] == output[1:] and axis < labels.ndim and _one_hot(labels, axis):
            return f"; {_argmax(labels, axis).removeprefix(': ')}"
    return _squeeze(labels.shape, output, without_classes=True)


def _one_hot(labels: Array, axis: int) -> bool:
    few = labels[:1000]
    return bool(np.isin(few, (0, 1)).all() and (few.sum(axis) == 1).all())


def _argmax(labels: Array, axis: int) -> str:
    listed = "x".join(map(str, labels.shape))
    return f": {listed}, one-hot? give label.argmax({axis})"


def _squeeze(shape: tuple[int, ...], output: tuple[int, ...], without_classes: bool = False) -> str:
    """A cure for an axis of size 1 too many."""
    for axis in range(1, len(shape)):
        rest = (*shape[:axis], *shape[axis + 1 :])
        fits = class_axis(rest, output) is not None if without_classes else rest[1:] == output[1:]
        if shape[axis] == 1 and fits:
            return f"; there is an axis too many: squeeze({axis})"
    return ""


def _transpose(shape: tuple[int, ...], output: tuple[int, ...]) -> str:
    for order in ((0, 3, 1, 2), (0, 2, 3, 1), (0, 2, 1)):
        if len(shape) == len(order) and tuple(shape[i] for i in order)[1:] == output[1:]:
            return f"; transpose({', '.join(map(str, order))}) makes it fit"
    return ""


def _range_cure(labels: Array, count: int) -> str:
    low, high = int(labels.min()), int(labels.max())
    if (low, high) == (1, count):
        return f"; labels count from 0, and {low}..{high} were found: subtract 1"
    strange = np.unique(labels[(labels < 0) | (labels >= count)])
    if len(strange) == 1 and (labels.ndim > 1 or int(strange[0]) in IGNORED_BY_DEFAULT):
        return f"; if it means nothing: ignore_label={int(strange[0])}"
    return f"; {low}..{high} were found"
