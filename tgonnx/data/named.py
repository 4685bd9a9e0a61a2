"""Named arrays made a data set: which is which, where samples are counted, and what is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from tgonnx.data.answers import IGNORED, IGNORED_BY_DEFAULT, check_labels, check_targets, counted, ignoring
from tgonnx.data.array_samples import ArraySamples, GroupedSamples, check_input, wants_scale
from tgonnx.data.axes import Axes, Dim, dims_of, find_axes, settled
from tgonnx.data.names import SCALE, TEST, answered, check_read, nearest_input, taught_by
from tgonnx.data.options import ArrayOptions
from tgonnx.data.probe import Probe
from tgonnx.data.rows import check_rows
from tgonnx.data.samples import Dataset, Indices, Split, Taught, everything, hold_out
from tgonnx.errors import DataError, UsageError
from tgonnx.graph.declared import model_inputs
from tgonnx.graph.types import Array


def dataset_of(
    values: Mapping[str, Any], model: onnx.ModelProto, name: str, options: ArrayOptions | None = None
) -> Dataset:
    """The data set that named arrays are for a model. Raises `DataError`, and `UsageError` for options.

    Arrays are named like inputs; `label`, `target` and the like (`tgonnx.data.names`) are answers; `test_` before any
    of these is a held-out part. An array `scale` multiplies pixels, unless it is an input.
    """
    reader = _Reader(values, model, name, options or ArrayOptions())
    train = reader.samples("")
    parts, notes = reader.finished([train, *([reader.samples(TEST)] if reader.has_test else [])])
    first = answered(model).name
    if reader.has_test:
        split: tuple[Split, Split | None] = everything(parts[0], first), everything(parts[1], first)
    else:
        split = hold_out(parts[0], first)
    return _dataset(reader, split, notes)


def dataset_of_groups(
    groups: Sequence[Mapping[str, Any]],
    group_of: Indices,
    model: onnx.ModelProto,
    name: str,
    options: ArrayOptions | None = None,
) -> Dataset:
    """The data set of samples of several shapes: named arrays for each shape, and for each sample the number of its
    group, where it comes next. Raises as `dataset_of` does."""
    if len(groups) == 1:
        return dataset_of(groups[0], model, name, options)
    readers = [_Reader(values, model, name, options or ArrayOptions()) for values in groups]
    parts, notes = readers[0].finished([reader.samples("") for reader in readers])
    place = np.zeros(len(group_of), np.intp)
    for number in range(len(groups)):
        place[group_of == number] = np.arange(int((group_of == number).sum()))
    samples = GroupedSamples(parts, group_of, place)
    notes = (f"inputs of {len(groups)} shapes: each batch is of one of them", *notes)
    return _dataset(readers[0], hold_out(samples, answered(model).name), notes)


def _dataset(reader: _Reader, split: tuple[Split, Split | None], notes: tuple[str, ...]) -> Dataset:
    own = next((each for each in reader.taught if each.output == split[0].first), None)
    if own is not None and reader.ignores and len(reader.taught) == 1:
        split, left_out = _that_count(split, own.output)
        notes = (
            *notes,
            *([f"{left_out:,} samples have no label that counts, and are left out"] if left_out else []),
        )
        if not len(split[0]):
            raise DataError(f"{reader.name}: array {own.array!r}: all labels are ignored")
    for each in reader.taught:
        if (
            reader.ignores
            and each.kind == "label"
            and (split[0].samples.answers[each.output] == IGNORED).all()
        ):
            raise DataError(f"{reader.name}: array {each.array!r}: all labels are ignored")
    kind = own.kind if own else None
    named = [
        f"array {each.array!r} is read as {each.kind}s of output {each.output!r}"
        for each in reader.taught
        if each.array not in ("label", "target")
    ]
    return Dataset(reader.name, *split, kind, (), reader.taught, reader.ignores, (*named, *notes))


def _that_count(split: tuple[Split, Split | None], output: str) -> tuple[tuple[Split, Split | None], int]:
    """The samples of which at least one label counts (a batch without any has no loss), and how many do not."""
    found: list[Split | None] = []
    left_out = 0
    for part in split:
        if part is not None and output in part.samples.answers:
            labels = part.samples.answers[output][part.indices]
            counts = (labels != IGNORED).reshape(len(labels), -1).any(1)
            left_out += int((~counts).sum())
            part = replace(part, indices=part.indices[counts]) if counts.any() or part is split[0] else None
        found.append(part)
    assert found[0] is not None
    return (found[0], found[1]), left_out


class _Reader:
    """What the arrays are, found once for the training and the test part."""

    def __init__(
        self, values: Mapping[str, Any], model: onnx.ModelProto, name: str, options: ArrayOptions
    ) -> None:
        self.model, self.name, self.options = model, name, options
        self.inputs = model_inputs(model)
        names = [value.name for value in self.inputs]
        self.values = {key: np.asarray(array) for key, array in values.items()}
        has_scale = SCALE in values and SCALE not in names
        self.constants = constants(options.const, self.inputs)
        self._all_there(names)
        self.taught = taught_by(self.values, model, name)
        check_read(values, model, self.taught, name, [SCALE] if has_scale else [])
        self.scale = options.scale if options.scale is not None or not has_scale else self._stored_scale()
        self.has_test = any(TEST + each in values and TEST + each not in names for each in names)
        self.axes = self._axes()
        self.ignores = False

    def _stored_scale(self) -> float:
        array = self.values[SCALE]
        if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise DataError(f"{self.name}: array {SCALE!r} is no number")
        return float(array.reshape(()))

    def _all_there(self, names: Sequence[str]) -> None:
        missing = [wanted for wanted in names if wanted not in self.values and wanted not in self.constants]
        if missing:
            have = ", ".join(map(repr, self.values)) or "nothing"
            cure = nearest_input(missing[0], self.values, {*names, "label", "target"})
            raise DataError(
                f"{self.name}: no array for input {missing[0]!r} of the model; there is {have}{cure}"
            )

    def _axes(self) -> Axes:
        shapes = {
            value.name: self.values[value.name].shape
            for value in self.inputs
            if value.name in self.values and value.name not in self.constants
        }
        answers = [self.values[taught.array] for taught in self.taught]
        count = next((len(array) for array in answers if array.ndim), None)
        axes = settled(find_axes(self.model, shapes, count, self.options.axes), self.name)
        whole = {  # a constant that has several entries on that axis does not repeat one for each sample
            each: None
            for each, array in self.constants.items()
            if (axis := axes.inputs[each]) is not None and array.shape[axis] != 1
        }
        return replace(axes, inputs={**axes.inputs, **whole})

    def samples(self, prefix: str) -> ArraySamples:
        """The training or the test part. Raises `DataError` if arrays are missing or differ in their samples."""
        arrays, repeated = {}, set()
        for value in self.inputs:
            if value.name in self.constants:
                arrays[value.name] = self.constants[value.name]
                if self.axes.inputs[value.name] is not None:
                    repeated.add(value.name)
            else:
                arrays[value.name] = self._array(prefix, value)
        counted = {
            prefix + each: arrays[each].shape[axis]
            for each, axis in self.axes.inputs.items()
            if axis is not None and each not in repeated and arrays[each].ndim > axis
        }
        count = next(iter(counted.values()), None)
        answers = {taught.output: self._answer(prefix, taught, count) for taught in self.taught}
        counted |= {prefix + taught.array: len(answers[taught.output]) for taught in self.taught}
        if len(set(counted.values())) > 1:
            listed = ", ".join(f"{each!r} has {count}" for each, count in counted.items())
            raise DataError(f"{self.name}: arrays differ in their number of samples: {listed}")
        count = next(iter(counted.values()), 0)
        if not count:
            raise DataError(f"{self.name}: there are no {'test ' if prefix else ''}samples")
        scale = 1.0 if self.scale is None else self.scale
        return ArraySamples(self.inputs, arrays, self.axes, answers, scale, frozenset(repeated), count)

    def _array(self, prefix: str, value: onnx.ValueInfoProto) -> Array:
        axis = self.axes.inputs[value.name]
        key = prefix + value.name
        if key not in self.values and axis is None:
            key = value.name  # a constant of the training part serves the test part, too
        if key not in self.values:
            raise DataError(f"{self.name}: array {key!r} is missing")
        array = self.values[key]
        if array.ndim == 0 and axis is not None:
            raise DataError(f"{self.name}: array {key!r} is a single value, without an axis of samples")
        return _one_for_all(array, value, f"{self.name}: array {key!r}") if axis is None else array

    def _answer(self, prefix: str, taught: Taught, count: int | None) -> Array:
        """Labels or targets, samples first; they may be given so, or as the model's output has them."""
        key = prefix + taught.array
        if key not in self.values:
            raise DataError(f"{self.name}: array {key!r} is missing")
        if self.values[key].ndim == 0:
            raise DataError(f"{self.name}: array {key!r} is a single value, without an axis of samples")
        return self.axes.answers_first(self.values[key], taught.output, count)

    def scaled(self, samples: ArraySamples) -> tuple[ArraySamples, list[str]]:
        """The samples with a scale for pixels, found out if nobody says it."""
        pixels = [v for v in self.inputs if wants_scale(samples.inputs[v.name], v)]
        if self.scale is not None and not (np.isfinite(self.scale) and self.scale != 0):
            raise UsageError(f"scale must be a number other than 0, not {self.scale}")
        if self.scale is not None or not pixels:
            return samples, []
        for value in pixels:
            where = f"{self.name}: array {value.name!r}"
            check_input(samples.inputs[value.name], value, samples.axes.inputs[value.name], where)
        taught = next(iter(self.taught), None)
        probe = Probe(self.model, self.name)
        if taught is not None:  # wrong answers are said before they are asked for advice
            self._check_answers(samples, taught, probe)
        scaled, note = probe.scaled(samples, taught)
        return scaled, [note]

    def _check_answers(self, samples: ArraySamples, taught: Taught, probe: Probe) -> None:
        shape = probe.shape(samples, taught.output)
        where = f"{self.name}: array {taught.array!r}"
        answers = samples.answers[taught.output]
        if taught.kind == "target":
            check_targets(answers, shape, where)
        else:
            labels, ignored = ignoring(answers, shape, self.options.ignore_label)
            check_labels(counted(labels) if ignored else labels, shape, where)

    def finished(self, parts: Sequence[ArraySamples]) -> tuple[list[ArraySamples], tuple[str, ...]]:
        """Parts of the data, scaled and with labels that count for nothing set to `IGNORED`; what is to be noted."""
        first, notes = self.scaled(parts[0])
        found, ignored = [], 0
        for part in parts:
            check_rows(part, Probe(self.model, self.name))
            part, count = self._without_ignored(replace(part, scale=first.scale))
            found.append(part)
            ignored += count
        self.ignores = bool(ignored)
        return found, (*notes, *([f"{ignored:,} labels are ignored"] if ignored else []))

    def _without_ignored(self, part: ArraySamples) -> tuple[ArraySamples, int]:
        probe, total, answers = Probe(self.model, self.name), 0, dict(part.answers)
        for taught in self.taught:
            if taught.kind == "label" and self._may_ignore(answers[taught.output]):
                shape = probe.shape(part, taught.output)
                answers[taught.output], count = ignoring(
                    answers[taught.output], shape, self.options.ignore_label
                )
                total += count
        return (replace(part, answers=answers), total) if total else (part, 0)

    def _may_ignore(self, labels: Array) -> bool:
        if labels.dtype.kind not in "iu":
            return False
        given = self.options.ignore_label
        if given is not None:
            return bool((labels == given).any())
        return labels.ndim > 1 and bool(np.isin(labels, IGNORED_BY_DEFAULT).any())


def constants(const: Mapping[str, Any], inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, Array]:
    """Constant inputs in the shape of the model, an open axis having one entry. Raises `UsageError`."""
    by_name = {value.name: value for value in inputs}
    found = {}
    for name, given in const.items():
        if name not in by_name:
            raise UsageError(f"const: the model has no input {name!r}; it has {', '.join(by_name)}")
        array = np.asarray(given)
        dims = dims_of(by_name[name])
        if dims is not None:
            try:
                array = np.broadcast_to(array, _room(array, dims))
            except ValueError:
                raise UsageError(f"const: {name!r} has shape {array.shape}, the model wants {dims}") from None
        found[name] = array
    return found


def _room(array: Array, dims: Sequence[Dim]) -> tuple[int, ...]:
    sizes = (1,) * (len(dims) - array.ndim) + array.shape
    return tuple(dim if isinstance(dim, int) else size for dim, size in zip(dims, sizes, strict=False))


def _one_for_all(array: Array, value: onnx.ValueInfoProto, where: str) -> Array:
    """A constant: the array itself, or the one value that it repeats for every sample."""
    dims = dims_of(value)
    if dims is None or array.ndim == len(dims):
        return array
    if array.ndim == len(dims) + 1 and len(array) and (array == array[:1]).all():
        return np.asarray(array[0])
    if array.ndim < len(dims) and array.size == 1:
        return array.reshape((1,) * len(dims))
    raise DataError(
        f"{where} has shape {array.shape} and differs from sample to sample, but the model takes one value for all"
    )
