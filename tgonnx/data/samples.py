"""Samples, splits and batches: what every data set comes down to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tgonnx.data.ahead import read_ahead
from tgonnx.data.axes import Axes
from tgonnx.errors import DataError, UsageError
from tgonnx.graph.types import Array
from tgonnx.runtime.sessions import Feeds

Indices = NDArray[np.intp]
Kind = Literal["label", "target"]
HELD_OUT = 0.1
VALIDATION, WANTED = 0.1, 50  # share of the training samples, and how many where they can be spared
SPARED = 0.2  # of the training samples at most


@dataclass(frozen=True)
class Batch:
    """Inputs by name, cast to the model's types, and the labels or targets of the same samples.

    `answers` are those of each output that has some, samples being where the output has them; `answer` is the first's.
    `positions` are those of the samples in their split, if these are the same whenever they are taken (not augmented).
    """

    feeds: Feeds
    answer: Array | None
    axes: Axes = field(default_factory=Axes)
    answers: Mapping[str, Array] = field(default_factory=dict)
    positions: Indices | None = None

    def __len__(self) -> int:
        return self.axes.count(self.feeds)

    def answer_of(self, output: str) -> Array | None:
        """The labels or targets of an output."""
        return self.answers.get(output, None if self.answers else self.answer)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""
        return {name: np.shape(value) for name, value in self.feeds.items()}


class Samples(Protocol):
    """Samples that can be taken by number, with all labels or targets in memory."""

    @property
    def axes(self) -> Axes:
        """Where the model has its samples."""
        ...

    @property
    def answers(self) -> Mapping[str, Array]:
        """Labels or targets by output, sample by sample."""
        ...

    @property
    def parts(self) -> Sequence[Samples]:
        """Samples of one shape each, in order of `shape_of`; only themselves if all are alike."""
        ...

    @property
    def shape_of(self) -> Indices | None:
        """For each sample the number of its part; None if all are alike."""
        ...

    @property
    def slow(self) -> bool:
        """Whether taking samples is work that should be done in the background."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> Feeds:
        """Inputs of the samples, which are of one shape, in the model's types."""
        ...

    def answers_of(self, indices: Indices) -> dict[str, Array]:
        """Labels or targets of the samples by output."""
        ...

    def check(self, name: str) -> None:
        """Raise `DataError`, starting with `name`, unless every sample fits the model's inputs."""
        ...


@dataclass(frozen=True)
class Split:
    """Some of the samples, in a fixed order. `first` is the output whose answers are `answers`; "": the only one."""

    samples: Samples
    indices: Indices
    first: str = ""

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def axes(self) -> Axes:
        """Where the model has its samples."""
        return self.samples.axes

    @property
    def answers(self) -> Array | None:
        """The first output's labels or targets of the split."""
        answers = self._of_first(self.samples.answers)
        return None if answers is None else answers[self.indices]

    def _of_first(self, answers: Mapping[str, Array]) -> Array | None:
        return answers.get(self.first or next(iter(answers), ""))

    def take(self, chosen: Indices) -> Batch:
        """The samples at the given positions of the split; they must be of one shape."""
        indices = self.indices[chosen]
        found = self.samples.answers_of(indices).items()
        answers = {output: self.axes.as_output(array, output) for output, array in found}
        return Batch(self.samples.take(indices), self._of_first(answers), self.axes, answers, chosen)

    def one_shape(self, most: int | None = None) -> Indices:
        """Positions of samples that are of one shape: the first ones of the commonest, at most `most`."""
        return max(self._groups(np.arange(len(self))), key=len)[:most]

    def pieces(self, chosen: Indices, size: int) -> Iterator[Indices]:
        """The chosen positions in batches of at most `size`, each of samples of one shape."""
        for group in self._groups(chosen):
            for start in range(0, len(group), size):
                yield group[start : start + size]

    def batches(
        self, size: int, rng: np.random.Generator | None = None, epochs: int = 1, skip: int = 0
    ) -> Iterator[Batch]:
        """Batches of `size` samples of one shape, never empty.

        With `rng`, samples are shuffled in each epoch and an incomplete last batch is left out, so that all
        batches are alike (unless there is only that one). Without, samples come in order and all of them.
        The first `skip` batches, of all epochs together, are left out without being made.
        """
        if size < 1 or epochs < 0:
            raise UsageError("the batch size must be at least 1 and epochs at least 0")
        for _ in range(epochs):
            chosen = self.epoch(size, rng)
            yield from self._taken(chosen[skip:])
            skip = max(0, skip - len(chosen))

    def batch_count(self, size: int) -> int:
        """The batches of a shuffled epoch."""
        return sum(max(1, len(group) // size) for group in self._groups(np.arange(len(self))))

    def epoch(self, size: int, rng: np.random.Generator | None) -> list[Indices]:
        """The positions of the batches of one epoch, as `batches` makes them."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        groups = self._groups(order)
        batches = []
        for group in groups:
            end = len(group) if rng is None or len(group) < size else len(group) - len(group) % size
            batches += [group[start : min(start + size, end)] for start in range(0, end, size)]
        if rng is not None and len(groups) > 1:
            return [batches[index] for index in rng.permutation(len(batches))]
        return batches

    def _taken(self, chosen: Sequence[Indices]) -> Iterator[Batch]:
        if self.samples.slow and len(chosen) > 1:
            yield from read_ahead(self.take, chosen)
        else:
            yield from map(self.take, chosen)

    def _groups(self, chosen: Indices) -> list[Indices]:
        """The positions sorted into samples of one shape each."""
        if self.samples.shape_of is None or not len(chosen):
            return [chosen]
        shape = self.samples.shape_of[self.indices[chosen]]
        return [chosen[shape == number] for number in np.unique(shape)]


@dataclass(frozen=True)
class Taught:
    """What an array says of an output: class numbers ("label") or values ("target")."""

    output: str
    kind: Kind
    array: str


@dataclass(frozen=True)
class Dataset:
    """Samples to learn from and, if there are enough, held-out ones to measure with: the test part.

    `answer` says what the first output's answers are: "label", "target" or None; `taught` lists those of all
    outputs. `classes` are names of classes, if known. `ignores`: some labels are `IGNORED` and count for nothing.
    `notes` say what a reader should know of how the data were read.
    """

    name: str
    train: Split
    held_out: Split | None
    answer: Kind | None
    classes: tuple[str, ...] = ()
    taught: tuple[Taught, ...] = ()
    ignores: bool = False
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, Split]:
        """The parts of the data by the prefix of their arrays."""
        return {"": self.train} | ({"test_": self.held_out} if self.held_out is not None else {})


@dataclass(frozen=True)
class Parts:
    """What is learned from, what every choice is made on, and what is looked at before and after all of it.

    The last two are None where there are too few samples.
    """

    train: Split
    validation: Split | None
    test: Split | None

    @property
    def counts(self) -> dict[str, int]:
        """Samples by the name of the part, of those that there are."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: len(split) for name, split in parts.items() if split is not None}


def parted(dataset: Dataset) -> Parts:
    """A data set in three parts: a tenth of the training samples, always the same ones, is for validation.

    That is at least 50, where these are at most a fifth; none of fewer than ten samples, and none where a batch of
    fixed size would be left without samples.
    """
    count = len(dataset.train)
    held = round(count * VALIDATION)
    if held < WANTED <= count * SPARED:
        held = WANTED
    if not held or count - held < (dataset.train.axes.fixed or 1):
        return Parts(dataset.train, None, dataset.held_out)
    order = np.random.default_rng(1).permutation(count)
    learned, validation = (
        replace(dataset.train, indices=dataset.train.indices[np.sort(chosen)])
        for chosen in (order[held:], order[:held])
    )
    return Parts(learned, validation, dataset.held_out)


def with_test(dataset: Dataset, test: Dataset) -> Dataset:
    """The data set with all samples of another one as its test part. Raises DataError if they do not fit together."""
    for each, cure in ((dataset, "leave one of them out"), (test, "give it without one")):
        if each.held_out is not None and each.held_out.samples is not each.train.samples:
            raise DataError(f"{each.name}: there is a test part in it already, beside that of --test; {cure}")
    if dataset.answer != test.answer:
        raise DataError(
            f"{test.name}: the test data have {test.answer or 'no answer'}s, {dataset.name} has "
            f"{dataset.answer or 'no answer'}s"
        )
    if dataset.classes != test.classes:
        raise DataError(f"{test.name}: the test data have other classes than {dataset.name}")
    notes = tuple(f"{test.name}: {note}" for note in test.notes if note not in dataset.notes)
    return replace(
        dataset, train=_whole(dataset), held_out=_whole(test), ignores=dataset.ignores or test.ignores,
        notes=(*dataset.notes, *notes),
    )  # fmt: skip


def _whole(dataset: Dataset) -> Split:
    """All samples of a data set that has only a held-out part of the same ones."""
    held = [] if dataset.held_out is None else [dataset.held_out.indices]
    return replace(dataset.train, indices=np.sort(np.concatenate([dataset.train.indices, *held])))


def element_type(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """The numpy type of a tensor value."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def everything(samples: Samples, first: str = "") -> Split:
    """One split of all samples."""
    return Split(samples, np.arange(len(samples)), first)


def hold_out(samples: Samples, first: str = "") -> tuple[Split, Split | None]:
    """Split off a tenth of the samples, the same ones in every run; nothing from a single sample."""
    count = len(samples)
    if count < 2:
        return everything(samples, first), None
    order = np.random.default_rng(0).permutation(count)
    held = max(1, round(count * HELD_OUT))
    return Split(samples, np.sort(order[held:]), first), Split(samples, np.sort(order[:held]), first)
