"""Does a data set fit a model and a loss? All checks are made before the first batch.

A label out of range or an empty batch would crash the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from tgonnx.data.samples import Dataset, Samples, check_finite
from tgonnx.errors import DataError, ModelError, UsageError
from tgonnx.graph.declared import fixed_size, model_inputs
from tgonnx.graph.types import Array
from tgonnx.runtime.sessions import open_session

LOSSES = ("auto", "ce", "mse", "l1", "bce", "distill")


@dataclass(frozen=True)
class Fit:
    """How a data set and a loss fit a model; made by `validate`.

    `loss` is never "auto". `output` is the model's first output, which the loss is taken on, and `class_axis`
    its axis of classes (cross-entropy only).
    """

    loss: str
    output: str
    class_axis: int | None = None


def validate(dataset: Dataset, model: onnx.ModelProto, loss: str = "auto") -> Fit:
    """Check all samples and answers against the model and the loss, by running the model on a few of them.

    Losses: "ce" needs labels, "mse", "l1" and "bce" need targets of the output's shape (bce: within 0..1),
    "distill" needs neither; "auto" takes what the answers allow. Raises `DataError`, and `UsageError` for an
    unknown loss.
    """
    if loss not in LOSSES:
        raise UsageError(f"unknown loss {loss!r}; there are {', '.join(LOSSES)}")
    chosen = {"label": "ce", "target": "mse", None: "distill"}[dataset.answer] if loss == "auto" else loss
    wanted = {"ce": "label", "distill": None}.get(chosen, "target")
    if wanted and dataset.answer != wanted:
        raise DataError(f"{dataset.name}: loss {chosen} needs an array {wanted!r}")
    splits = {"": dataset.train} | ({"test_": dataset.held_out} if dataset.held_out else {})
    seen: list[Samples] = []
    for split in splits.values():
        if not len(split):
            raise DataError(f"{dataset.name}: there are no samples")
        if not any(split.samples is other for other in seen):
            split.samples.check(dataset.name)
            seen.append(split.samples)
    output, shape = _try(dataset, model)
    class_axis = None
    for prefix, split in splits.items():
        answers, where = split.answers, f"{dataset.name}: array {prefix + (wanted or '')!r}"
        if answers is None or wanted is None:
            continue
        if chosen == "ce":
            class_axis = _check_labels(answers, shape, where)
        else:
            _check_targets(answers, shape, where, chosen)
    return Fit(chosen, output, class_axis)


def _try(dataset: Dataset, model: onnx.ModelProto) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the first output on a few real samples."""
    fixed = [value.type.tensor_type.shape.dim[:1] for value in model_inputs(model)]
    sizes = [size for dims in fixed if dims and (size := fixed_size(dims[0])) is not None]
    count = max(sizes, default=min(2, len(dataset.train)))
    if count > len(dataset.train):
        raise DataError(
            f"{dataset.name}: {len(dataset.train)} samples, the model's batch is fixed at {count}"
        )
    feed = dataset.train.take(np.arange(count)).feeds
    try:
        outputs = open_session(model).run(feed)
    except ModelError as error:
        raise DataError(f"{dataset.name}: {error}") from None
    name = model.graph.output[0].name
    return name, outputs[name].shape


def _check_labels(labels: Array, output: tuple[int, ...], where: str) -> int:
    """The class axis of the output: the axis that the labels lack."""
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


def _check_targets(targets: Array, output: tuple[int, ...], where: str, loss: str) -> None:
    if targets.dtype.kind not in "biuf":
        raise DataError(f"{where} has type {targets.dtype}; targets are numbers")
    if targets.shape[1:] != output[1:]:
        raise DataError(f"{where} has shape {targets.shape}, which does not fit the output's shape {output}")
    check_finite(targets, where)
    if loss == "bce" and (targets.min() < 0 or targets.max() > 1):
        raise DataError(f"{where}: loss bce needs targets within 0..1")
