"""Does a data set fit a model and a loss? All checks are made before the first batch.

A label out of range or an empty batch would crash the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from tgonnx.data.answers import counted
from tgonnx.data.probe import Probe
from tgonnx.data.samples import Dataset, Kind, Split, Taught
from tgonnx.errors import DataError, UnsupportedError, UsageError
from tgonnx.graph.types import Array
from tgonnx.losses import table
from tgonnx.losses.asked import Asked
from tgonnx.losses.figures import AGREEMENT, MetricKind, Seen
from tgonnx.losses.graph_loss import LossGraph, is_graph, read_loss
from tgonnx.losses.loss import Loss
from tgonnx.losses.nodes import Nodes
from tgonnx.losses.own_loss import of_function
from tgonnx.losses.spread import Spread, spread_of
from tgonnx.ops.aspects.row import FLOATS
from tgonnx.options import nearest
from tgonnx.runtime.sessions import Session

LOOKED_AT, AT_ONCE = 64, 8  # samples by which the spread of an output is known, and of them in a batch
SUM_OFF = 1e-3  # by which the sum of probabilities may differ from one


@dataclass(frozen=True)
class Fit:
    """How an output learns, and how the others do; made by `validate`.

    `loss` is its name, never "auto"; it is taken on `output` and counts `weight` times. `class_axis` is that output's
    axis of classes (losses on labels only). `ignores`: labels may be `tgonnx.data.answers.IGNORED`, for nothing.
    `smoothing` is the share of a label that all classes get. `spread` is how much the original's output varies, where
    it is followed, `metric` what is measured, if not what the loss says. `others` are the further outputs that learn
    or follow the original; the first to learn comes first. `own` is a loss that is in no table.
    """

    loss: str
    output: str
    class_axis: int | None = None
    ignores: bool = False
    others: tuple[Fit, ...] = ()
    weight: float = 1.0
    smoothing: float = 0.0
    spread: Spread | None = field(default=None, compare=False)
    metric: MetricKind | None = field(default=None, compare=False)
    graph: LossGraph | None = field(default=None, compare=False)
    own: Loss | None = field(default=None, compare=False)

    @property
    def definition(self) -> Loss:
        """What the loss is. Raises UsageError for a name that the table of losses lacks."""
        return self.own or table.named(self.loss)

    @property
    def figure(self) -> MetricKind:
        """What is measured of the output."""
        own = self.definition.figure if self.graph is None else self.graph.figure
        return self.metric or own

    @property
    def answers(self) -> Mapping[str, Kind]:
        """The answers that the loss needs, by output."""
        if self.graph is not None:
            return self.graph.answers
        return {self.output: kind} if (kind := self.definition.answers) and self.weight else {}

    @property
    def originals(self) -> set[str]:
        """The outputs of which the loss needs what the original says; it may follow that of others."""
        if self.graph is not None:
            return self.graph.originals
        return {self.output} if self.weight and self.definition.teacher == "whole" else set()

    @property
    def may_follow(self) -> bool:
        """Whether the loss follows the original for a part."""
        return self.graph is None and bool(self.weight) and self.definition.teacher == "part"

    @property
    def parts(self) -> tuple[Fit, ...]:
        """All outputs that learn or follow the original."""
        return (self, *self.others)


def validate(dataset: Dataset, model: onnx.ModelProto, loss: str | Asked = "auto") -> Fit:
    """Check all samples and answers against the model and what is asked for, by running the model on a few of them.

    `loss` is a name in the table of losses (`tgonnx.losses.table`), "auto" for what the answers of each output allow,
    the path of a graph, or that and more. Raises `DataError`, `UsageError` for unknown names, UnsupportedError if
    nothing can be learned, ModelError for a graph.
    """
    asked = loss if isinstance(loss, Asked) else Asked(loss=loss)
    path = str(asked.loss) if is_graph(asked.loss) else ""
    graph = read_loss(path, model, dataset.taught, dataset.name) if path else None
    _check_names(asked, [value.name for value in model.graph.output], graph, dataset)
    probe = Probe(model, dataset.name)
    for _, split in _distinct(dataset):
        if not len(split):
            raise DataError(f"{dataset.name}: there are no samples")
        split.samples.check(dataset.name)
        for samples in split.samples.parts:
            probe.shape(samples, model.graph.output[0].name)  # the model runs on them
    parts = _parts(asked if graph is None else replace(asked, loss="auto"), dataset, probe)
    if graph is not None:
        parts = [replace(part, weight=0.0) if part.output in graph.outputs else part for part in parts]
        first = Fit(path, graph.outputs[0], graph=graph)
        try_graph(first, dataset, probe.session, 2)
        parts = [first, *(p for p in parts if asked.metric is None or p.output != first.output)]
    if not any(part.weight for part in parts):
        raise UsageError("loss_weight: all are 0, nothing is learned")
    parts = [_with_metric(part, parts[0], asked, dataset, probe) for part in parts]
    return replace(parts[0], others=tuple(parts[1:]))


def _parts(asked: Asked, dataset: Dataset, probe: Probe) -> list[Fit]:
    """How each output learns that is not free, those with labels or targets first."""
    taught = {each.output: each for each in dataset.taught}
    parts = []
    for name, loss in _losses(asked, probe.model, taught, dataset).items():
        own = loss if callable(asked.loss) and loss not in table.LOSSES.values() else None
        part = Fit(loss.name, name, weight=asked.weights.get(name, 1.0), own=own)
        if loss.answers:
            part = _with_answers(part, taught[name], dataset, probe, asked.smoothing)
        elif loss.teacher == "whole":
            part = _followed(part, dataset, probe)
        parts.append(part)
    return sorted(parts, key=lambda part: not part.definition.answers)


def try_graph(fit: Fit, dataset: Dataset, session: Session, count: int) -> None:
    """Run the loss, if it is a graph, on so many samples of which `session` says the outputs.

    Raises UnsupportedError unless it says a number.
    """
    if fit.graph is not None:
        split = dataset.train
        batch = split.take(split.one_shape(split.axes.fixed or count))
        outputs = session.run(batch.feeds)
        seen = Seen(fit, outputs, None, outputs, count=len(batch), answers=batch.answers, inputs=batch.feeds)
        fit.graph.measured(seen)


def _check_names(asked: Asked, outputs: list[str], graph: LossGraph | None, dataset: Dataset) -> None:
    """Raise for weights and freedom of outputs that the model lacks, or that cannot be."""
    learning = () if graph is None else graph.outputs
    for option, names in (("free_output", asked.free), ("loss_weight", asked.weights)):
        for name in names:
            if name not in outputs:
                listed = ", ".join(outputs)
                raise UsageError(
                    f"{option}: the model has no output {name!r}; it has {listed}{nearest(name, outputs)}"
                )
            if name in learning:
                raise UsageError(f"{option}: output {name!r} learns from the loss {asked.loss}")
    for name in asked.free:
        if name in asked.weights:
            raise UsageError(f"output {name!r} is free: a loss_weight means nothing there")
        own = next((each for each in dataset.taught if each.output == name), None)
        if own is not None:
            raise DataError(
                f"{dataset.name}: array {own.array!r} is for output {name!r}, which free_output leaves without a loss"
            )


def _losses(
    asked: Asked, model: onnx.ModelProto, taught: Mapping[str, Taught], dataset: Dataset
) -> dict[str, Loss]:
    """The loss of each output that is not free, by the answers that it has; others must be floats to be followed."""
    first = next(iter(taught.values())).kind if taught else None
    if callable(asked.loss):
        wanted = of_function(asked.loss, first)
        return _each(model, taught, asked, lambda kind: wanted if kind == first else table.AUTO[kind])
    name = asked.loss
    wanted = table.chosen(name, first)
    if name != "auto":
        wanted = table.named(name)
        if wanted.answers and wanted.answers not in {each.kind for each in taught.values()}:
            raise DataError(f"{dataset.name}: loss {wanted.name} needs an array {wanted.answers!r}")
    return _each(model, taught, asked, lambda kind: table.chosen(name, kind))


def _each(
    model: onnx.ModelProto,
    taught: Mapping[str, Taught],
    asked: Asked,
    loss_for: Callable[[Kind | None], Loss],
) -> dict[str, Loss]:
    """The loss of each output that can learn. Raises UnsupportedError if there is none."""
    found = {}
    for value in model.graph.output:
        own = taught.get(value.name)
        loss = loss_for(own.kind if own else None)
        kind = value.type.tensor_type.elem_type
        is_float = kind in FLOATS or kind == onnx.TensorProto.UNDEFINED
        if value.name not in asked.free and (is_float or loss.answers):
            found[value.name] = loss
    if not found:
        name = loss_for(next(iter(taught.values())).kind if taught else None).name
        raise UnsupportedError(f"loss {name}: the model has no output of floats that can learn")
    return found


def _with_answers(part: Fit, own: Taught, dataset: Dataset, probe: Probe, smoothing: float) -> Fit:
    """With the axis of classes, after all labels or targets of the output were checked."""
    loss, axis = part.definition, None
    for prefix, split in _distinct(dataset):
        for samples in split.samples.parts:
            answers = samples.answers[part.output]
            where = f"{dataset.name}: array {prefix + own.array!r}"
            ignores = own.kind == "label" and dataset.ignores
            axis = loss.check(
                counted(answers) if ignores else answers, probe.shape(samples, part.output), where
            )
    sample_axis = dataset.train.axes.outputs.get(part.output) or 0
    if axis is not None and axis <= sample_axis:  # found with samples first
        axis -= 1
    ignores = own.kind == "label" and dataset.ignores
    return replace(part, class_axis=axis, ignores=ignores, smoothing=smoothing if axis is not None else 0.0)


def _looked_at(part: Fit, dataset: Dataset, probe: Probe) -> Iterator[Array]:
    """What the original says for the output, of a few samples to learn from."""
    split = dataset.train
    chosen = split.indices[split.one_shape(LOOKED_AT)]
    size = split.axes.fixed or AT_ONCE
    pieces = (chosen[start : start + size] for start in range(0, len(chosen), size))
    return (probe.outputs(split.samples, piece)[part.output] for piece in pieces)


def _followed(part: Fit, dataset: Dataset, probe: Probe) -> Fit:
    """With how much each channel of the original's output varies over a few samples.

    Probabilities that add up to one are compared as such, whatever made them: they have an axis of classes instead.
    """
    if ends_in_activation(part, probe.model):
        return part
    axis = distribution_axis(_looked_at(part, dataset, probe))
    if axis is not None:
        return replace(part, class_axis=axis)
    sample_axis = dataset.train.axes.outputs.get(part.output, 0)
    return replace(part, spread=spread_of(_looked_at(part, dataset, probe), sample_axis))


def distribution_axis(outputs: Iterable[Array]) -> int | None:
    """The axis along which all values are probabilities of two or more classes: none negative, adding up to one."""
    axes: set[int] | None = None
    for output in outputs:
        found = {
            axis
            for axis in range(output.ndim)
            if output.shape[axis] > 1 and np.allclose(output.sum(axis, dtype=np.float64), 1, atol=SUM_OFF)
        }
        axes = found if axes is None else axes & found
        if not axes or not (output >= 0).all():
            return None
    return max(axes) if axes else None


def _with_metric(part: Fit, first: Fit, asked: Asked, dataset: Dataset, probe: Probe) -> Fit:
    """With the metric that was asked for, where the output has what that needs; the first one must."""
    own = next((each for each in dataset.taught if each.output == part.output), None)
    kind = own.kind if own else None
    metric = asked.metric
    if metric is not None and (part is first or not metric.only_first):
        if (fitting := _fitting(metric, kind)) is not None:
            return _with_classes(replace(part, metric=fitting), own, dataset, probe)
        if part is first:
            raise DataError(f"{dataset.name}: metric {metric.name} needs an array {metric.against!r}")
    if (
        part.graph is None
        and part.definition.teacher == "whole"
        and (kind == "label" or part.class_axis is not None or ends_in_activation(part, probe.model))
    ):
        return _with_classes(replace(part, metric=AGREEMENT), own, dataset, probe)
    return part


def _fitting(metric: MetricKind | None, kind: str | None) -> MetricKind | None:
    """The metric, or what it is for the answers that there are; None if they do not do."""
    while metric is not None and metric.against not in ("original", kind):
        metric = metric.instead
    return metric


def _with_classes(part: Fit, own: Taught | None, dataset: Dataset, probe: Probe) -> Fit:
    """With the axis of classes that its metric counts along. Raises `DataError` where it says nothing of so few."""
    if own is not None and own.kind == "label" and part.class_axis is None:
        found = _with_answers(replace(part, loss="ce", own=None), own, dataset, probe, 0.0)
        part = replace(part, class_axis=found.class_axis, ignores=found.ignores)
    least = part.figure.least
    if least == 1:
        return part
    shape = np.shape(probe.outputs(dataset.train.samples.parts[0], np.arange(1))[part.output])
    axis = part.class_axis
    if axis is None:
        activation = None if part.graph else Nodes(probe.model, part).activation(part.output)
        along = activation_axis(activation[0]) if activation is not None and not activation[1] else 1
        axis = along % len(shape) if -len(shape) <= along < len(shape) else len(shape) - 1
    if not shape or shape[axis] < least:
        there = f"{shape[axis]} classes" if shape else "one value"
        raise DataError(
            f"{dataset.name}: output {part.output!r} has {there}: metric {part.figure.name} says nothing"
        )
    return replace(part, class_axis=axis)


def activation_axis(softmax: onnx.NodeProto) -> int:
    """Along which axis probabilities add up to one."""
    return next((int(a.i) for a in softmax.attribute if a.name == "axis"), -1)


def ends_in_activation(part: Fit, model: onnx.ModelProto) -> bool:
    """Whether the output is made by the activation that its loss takes off."""
    return part.graph is None and Nodes(model, part).activation(part.output) is not None


def _distinct(dataset: Dataset) -> list[tuple[str, Split]]:
    """The splits by prefix; one for splits of the same samples, so that samples are counted as the user does."""
    found: list[tuple[str, Split]] = []
    for prefix, split in dataset.splits.items():
        if not any(split.samples is other.samples for _, other in found):
            found.append((prefix, split))
    return found
