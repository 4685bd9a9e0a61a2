"""Does a data set fit a model and a loss? All checks are made before the first batch.

A label out of range or an empty batch would crash the runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx

from tgonnx.data.answers import counted
from tgonnx.data.probe import Probe
from tgonnx.data.samples import Dataset, Split
from tgonnx.errors import DataError
from tgonnx.losses import table
from tgonnx.losses.loss import Loss
from tgonnx.ops.aspects.row import FLOATS


@dataclass(frozen=True)
class Fit:
    """How a data set and a loss fit a model; made by `validate`.

    `loss` is its name, never "auto". `output` is the model's first output, which the loss is taken on, and `class_axis`
    its axis of classes (losses on labels only). `ignores`: labels may be `tgonnx.data.answers.IGNORED`, for nothing.
    `others` are further outputs of floats: nothing is given for them, so that they follow the original.
    """

    loss: str
    output: str
    class_axis: int | None = None
    ignores: bool = False
    others: tuple[str, ...] = ()

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
    first = model.graph.output[0].name
    _only_first(dataset, first, chosen)
    probe, class_axis = Probe(model, dataset.name), None
    for prefix, split in _distinct(dataset):
        if not len(split):
            raise DataError(f"{dataset.name}: there are no samples")
        split.samples.check(dataset.name)
        for part in split.samples.parts:
            shape = probe.shape(part, first)
            if chosen.answers:
                array = next(each.array for each in dataset.taught if each.output == first)
                answers = part.answers[first]
                where = f"{dataset.name}: array {prefix + array!r}"
                class_axis = chosen.check(counted(answers) if dataset.ignores else answers, shape, where)
    sample_axis = dataset.train.axes.outputs.get(first) or 0
    if class_axis is not None and class_axis <= sample_axis:  # found with samples first
        class_axis -= 1
    others = () if chosen.teacher == "outputs" else tuple(_of_floats(model.graph.output[1:]))
    return Fit(chosen.name, first, class_axis, dataset.ignores, others)


def _of_floats(outputs: Iterable[onnx.ValueInfoProto]) -> Iterator[str]:
    """The names of those outputs that are tensors of floats."""
    for value in outputs:
        if value.type.tensor_type.elem_type in FLOATS:
            yield value.name


def _distinct(dataset: Dataset) -> list[tuple[str, Split]]:
    """The splits by prefix; one for splits of the same samples, so that samples are counted as the user does."""
    found: list[tuple[str, Split]] = []
    for prefix, split in dataset.splits.items():
        if not any(split.samples is other.samples for _, other in found):
            found.append((prefix, split))
    return found


def _only_first(dataset: Dataset, first: str, loss: Loss) -> None:
    """Labels and targets of other outputs than the first are in no loss yet: better refused than forgotten."""
    others = [each for each in dataset.taught if each.output != first]
    if others and (loss.answers or dataset.answer is None):
        raise DataError(
            f"{dataset.name}: array {others[0].array!r} is for output {others[0].output!r}, but only the first output, "
            f"{first!r}, learns from labels or targets; leave it out"
        )
