"""Models side by side on one data set: how good, how much like the first, how large and how fast."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from tgonnx.analysis.model import Model, Source
from tgonnx.data.axes import find_axes
from tgonnx.data.samples import Dataset, Split, everything
from tgonnx.data.sources import Data, open_dataset
from tgonnx.errors import DataError, UsageError
from tgonnx.graph.declared import model_inputs
from tgonnx.io.summary import ROWS, Shown, Summary, byte_count, left_out
from tgonnx.loading import read
from tgonnx.losses.asked import Asked
from tgonnx.losses.figures import AGREEMENT
from tgonnx.losses.fit import Fit, validate
from tgonnx.losses.metric import Metric
from tgonnx.losses.own_metric import metric_of
from tgonnx.options import of_class, with_fields
from tgonnx.runtime.latency import Latency, latency
from tgonnx.training.exam import Exam


@dataclass(frozen=True)
class Measured:
    """One model in figures. `metric` is None without labels or targets, `agreement` is with the first model.

    `others` are the figures of further outputs, by what they are called.
    """

    name: str
    metric: float | None
    agreement: float
    file_bytes: int
    latency: Latency
    others: Mapping[str, float]


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """What `evaluate` returns: the models in the order in which they were given, measured on `samples` of `part`."""

    models: tuple[Measured, ...]
    metric: str | None
    agreement: str
    samples: int
    part: str

    def summary(self) -> Summary:
        """A row for each model."""
        rows = [
            (
                model.name,
                "" if model.metric is None else f"{model.metric:.4g}",
                f"{model.agreement:.4g}",
                byte_count(model.file_bytes),
                f"{model.latency.p50:.3g} ms",
            )
            for model in self.models[:ROWS]
        ]
        title = f"Evaluation on {self.samples:,} samples ({self.part})"
        columns = ("model", self.metric or "", self.agreement, "file", "latency")
        return Summary(title, (), columns, rows, left_out(len(self.models) - ROWS, "models"))


def evaluate(
    models: Model | Source | Sequence[Model | Source],
    data: Data,
    *,
    exam: Exam | None = None,
    **fields: Any,
) -> Evaluation:
    """Measure one model or several on the same samples, and time them in turns.

    Labels or targets give the metric; all are held against the first model, too: top-1 agreement where there are
    classes, else R2. Every field of `Exam` is a keyword: `evaluate(models, data, metric="top5", threads=1)`.
    Models may be quantised; they must take the inputs of the first, and have its outputs.

    Raises UsageError, DataError, ModelError, UnsupportedError.
    """
    (exam,) = with_fields("evaluate", fields, of_class("exam", exam, Exam))
    given = [*models] if isinstance(models, Sequence) and not isinstance(models, str | bytes) else [models]
    if not given:
        raise UsageError("there is no model to evaluate")
    protos = [model.original if isinstance(model, Model) else read(model) for model in given]
    names = [_name(model, number) for number, model in enumerate(given, 1)]
    for name, proto in zip(names[1:], protos[1:], strict=True):
        _check_alike(names[0], protos[0], name, proto)
    dataset = open_dataset(data, protos[0])
    asked = Asked(loss=exam.loss, metric=metric_of(exam.metric))
    fit, agreement = _fits(dataset, protos[0], asked)
    split, part = _part(dataset, exam.part)
    metric = Metric(replace(fit, others=(*fit.others, agreement)), split, protos[0])
    taught = fit.figure.against != "original" or exam.metric != "auto"
    titles = [f"{other.output}: {other.figure.title}" for other in fit.others]
    times = latency(
        protos, [_timed(proto, split, exam.batch) for proto in protos], exam.repeats, exam.threads
    )
    measured = []
    for name, proto, time in zip(names, protos, times, strict=True):
        first, *others, alike = metric.figures(proto, exam.threads)
        more = dict(zip(titles, others, strict=True))
        measured.append(Measured(name, first if taught else None, alike, proto.ByteSize(), time, more))
    title = fit.figure.title if taught else None
    return Evaluation(tuple(measured), title, agreement.figure.title, len(split), part)


def _name(model: Model | Source, number: int) -> str:
    if isinstance(model, Model):
        return model.source
    return os.fspath(model) if isinstance(model, str | os.PathLike) else f"model {number}"


def _check_alike(first: str, reference: onnx.ModelProto, name: str, model: onnx.ModelProto) -> None:
    """Raise UsageError unless a model takes what the first one takes, and says what that says."""
    for kind, ours, theirs in (
        ("input", _types(model_inputs(reference)), _types(model_inputs(model))),
        ("output", _types(reference.graph.output), _types(model.graph.output)),
    ):
        if ours.keys() != theirs.keys():
            listed = ", ".join(theirs), ", ".join(ours)
            raise UsageError(
                f"{name}: {kind}s are {listed[0]}, those of {first} are {listed[1]}: they cannot be compared"
            )
        for value, type_ in ours.items():
            if kind == "input" and theirs[value] != type_:
                names = [onnx.TensorProto.DataType.Name(each).lower() for each in (theirs[value], type_)]
                raise UsageError(
                    f"{name}: input {value!r} is {names[0]}, that of {first} {names[1]}: they cannot be given the same"
                )


def _types(values: Iterable[onnx.ValueInfoProto]) -> dict[str, int]:
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _fits(dataset: Dataset, model: onnx.ModelProto, asked: Asked) -> tuple[Fit, Fit]:
    """What is measured, and how far an output agrees with the first model's."""
    fit = validate(dataset, model, asked)
    if fit.definition.answers == "label":
        return fit, replace(fit, metric=AGREEMENT, others=())
    followed = validate(dataset, model, Asked(loss="distill"))
    return fit, next(each for each in followed.parts if each.output == fit.output)


def _part(dataset: Dataset, wanted: str) -> tuple[Split, str]:
    """The samples to measure on, and what they are called. Raises DataError if there are none."""
    held_out, samples = dataset.held_out, dataset.train.samples
    of_its_own = held_out is not None and held_out.samples is not samples
    if wanted == "test" or (wanted == "auto" and of_its_own):
        if held_out is None:
            raise DataError(
                f"{dataset.name}: there are too few samples to hold some out; --part all takes them"
            )
        return held_out, "test" if of_its_own else "held out by prune"
    return everything(samples, dataset.train.first), "all, nothing held out" if of_its_own else "all"


def _timed(model: onnx.ModelProto, split: Split, batch: int) -> Mapping[str, Any]:
    """Real inputs to time a model with."""
    count = split.axes.fixed or find_axes(model).fixed or batch
    return split.take(np.resize(split.one_shape(count), count)).feeds
