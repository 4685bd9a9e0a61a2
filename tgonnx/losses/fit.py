"""Does a data set fit a model and a loss? All checks are made before the first batch.

A label out of range or an empty batch would crash the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from tgonnx.data.samples import Dataset, Samples
from tgonnx.errors import DataError, ModelError
from tgonnx.graph.declared import fixed_size, model_inputs
from tgonnx.losses import table
from tgonnx.losses.loss import Loss
from tgonnx.runtime.sessions import open_session


@dataclass(frozen=True)
class Fit:
    """How a data set and a loss fit a model; made by `validate`.

    `loss` is its name, never "auto". `output` is the model's first output, which the loss is taken on, and `class_axis`
    its axis of classes (losses on labels only).
    """

    loss: str
    output: str
    class_axis: int | None = None

    @property
    def definition(self) -> Loss:
        """What the loss is. Raises UsageError for a name that the table of losses lacks."""
        return table.named(self.loss)


def validate(dataset: Dataset, model: onnx.ModelProto, loss: str = "auto") -> Fit:
    """Check all samples and answers against the model and the loss, by running the model on a few of them.

    `loss` is a name in the table of losses (`tgonnx.losses.table`); "auto" takes what the answers allow. Raises
    `DataError`, and `UsageError` for an unknown loss.
    """
    chosen = table.chosen(loss, dataset.answer)
    if chosen.answers and dataset.answer != chosen.answers:
        raise DataError(f"{dataset.name}: loss {chosen.name} needs an array {chosen.answers!r}")
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
        if split.answers is not None and chosen.answers:
            where = f"{dataset.name}: array {prefix + chosen.answers!r}"
            class_axis = chosen.check(split.answers, shape, where)
    return Fit(chosen.name, output, class_axis)


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
