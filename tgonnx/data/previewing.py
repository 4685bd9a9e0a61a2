"""What a model is given: how the data were read, in words, and a batch of them as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.data.augment import augmentation
from tgonnx.data.contact_sheet import drawn
from tgonnx.data.pictures import CHANNELS, image_input
from tgonnx.data.samples import Batch, Dataset
from tgonnx.data.sources import Data, open_dataset
from tgonnx.errors import UnsupportedError, UsageError
from tgonnx.graph.declared import describe_type, model_inputs
from tgonnx.graph.types import Array
from tgonnx.io.save import check_destination, save_bytes
from tgonnx.io.summary import Shown, Summary

SHOWN = 16  # samples of a batch
NAMED = 6  # classes whose names are listed
WIDEST = 40  # characters of a caption


@dataclass(frozen=True, repr=False)
class Preview(Shown):
    """A data set and one batch that is learned from; made by `preview`.

    `rows` say in pairs of texts how the data were read. `pixels` is the batch as uint8 [N, height, width, 1 or 3], with
    a caption for each sample; None where the inputs are no images, and then `no_picture` says why.
    """

    dataset: Dataset
    batch: Batch
    rows: tuple[tuple[str, str], ...]
    captions: tuple[str, ...]
    pixels: NDArray[np.uint8] | None
    no_picture: str = ""

    def summary(self) -> Summary:
        return Summary(self.dataset.name, self.rows)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the picture, a .png. Raises UsageError, and UnsupportedError where there is no picture."""
        if Path(path).suffix.lower() != ".png":
            raise UsageError(f"{path}: a preview is a .png file")
        check_destination(path, overwrite)
        if self.pixels is None:
            raise UnsupportedError(f"{self.dataset.name}: there is no picture to draw: {self.no_picture}")
        save_bytes(drawn(self.pixels, self.captions), path, overwrite)


def preview(data: Data, model: onnx.ModelProto, samples: int = SHOWN, augment: Sequence[str] = ()) -> Preview:
    """Read data of any kind for a model, and show one batch as the model sees it when it learns.

    `augment` are names of `tgonnx.data.augment`. Raises `DataError`, and `UsageError` for a path that is not there.
    """
    return of_dataset(open_dataset(data, model), model, samples, augment)


def of_dataset(
    dataset: Dataset, model: onnx.ModelProto, samples: int = SHOWN, augment: Sequence[str] = ()
) -> Preview:
    """The same of data that were opened for the model."""
    changed = augmentation(augment, dataset)
    for split in dataset.splits.values():
        split.samples.check(dataset.name)
    batch = next(dataset.train.batches(samples, np.random.default_rng(0)))
    rows = [*_told(dataset, model), *_values(batch)]
    if changed is not None:
        batch = changed(batch, 0, 0)
        rows.append(("augment", f"{' and '.join(augment)} of {changed.image.name!r}, in training only"))
    image = image_input(dataset.train.samples, batch.feeds)
    pixels, why = None, "no input, or more than one, has the 4 axes of images"
    if image is not None:
        shape = batch.feeds[image.name].shape
        if shape[-1 if image.channels_last else 1] in CHANNELS and min(shape) > 0:
            pixels, how = image.pixels(batch.feeds[image.name])
            rows.append(("picture", f"{len(batch)} samples of {image.name!r}; {how}"))
        else:
            why = f"samples of {image.name!r} are {'x'.join(map(str, shape[1:]))}, without 1, 3 or 4 channels"
    if pixels is None:
        rows.append(("picture", f"none: {why}"))
    return Preview(dataset, batch, tuple(rows), tuple(_captions(dataset, batch)), pixels, why)


def _told(dataset: Dataset, model: onnx.ModelProto) -> list[tuple[str, str]]:
    held = dataset.held_out
    counts = f"{len(dataset.train):,} to learn from, {'none' if held is None else f'{len(held):,}'} held out"
    rows = [("samples", counts)]
    if dataset.classes:
        names = ", ".join(dataset.classes[:NAMED]) + (", ..." if len(dataset.classes) > NAMED else "")
        rows.append(("classes", f"{len(dataset.classes)}: {names}"))
    rows += [(f"input {value.name}", describe_type(value)) for value in model_inputs(model)]
    taught = {each.output: each for each in dataset.taught}
    for value in model.graph.output:
        own = taught.get(value.name)
        what = "nothing is given: the original is imitated" if own is None else f"{own.kind}s"
        rows.append((f"output {value.name}", f"{describe_type(value)}, {what}"))
        if own is not None and own.kind == "label" and own.output in dataset.train.samples.answers:
            labels = dataset.train.samples.answers[own.output][dataset.train.indices]
            rows.append((f"labels {value.name}", _spread(labels, dataset.classes)))
    return rows + [("note", note) for note in dataset.notes]


def _spread(labels: Array, classes: Sequence[str]) -> str:
    """How often the commonest and the rarest label are met."""
    found, counts = np.unique(labels, return_counts=True)
    most, least = int(counts.argmax()), int(counts.argmin())
    shares = counts / counts.sum()
    named = [_name(found[place], classes) for place in (most, least)]
    text = f"{len(found)} different ones; {shares[most]:.1%} are {named[0]}"
    return f"{text}, {shares[least]:.1%} are {named[1]}" if most != least else text


def _name(label: object, classes: Sequence[str]) -> str:
    number = int(label) if isinstance(label, int | np.integer) else -1
    return classes[number] if 0 <= number < len(classes) else str(label)


def _values(batch: Batch) -> list[tuple[str, str]]:
    """Shape and range of what the model is given, which tells of a wrong preparation."""
    rows = []
    for name, value in batch.feeds.items():
        text = f"{value.dtype} {list(value.shape)}"
        if value.size and value.dtype.kind in "iuf":
            numbers = value.astype(np.float64)
            text += f", from {numbers.min():.4g} to {numbers.max():.4g}"
            text += f", mean {numbers.mean():.4g}, std {numbers.std():.4g}"
        rows.append((f"batch {name}", text))
    return rows


def _captions(dataset: Dataset, batch: Batch) -> list[str]:
    """For each sample what its first output should say, in short."""
    answer = batch.answer
    first = dataset.train.first
    if answer is None:
        return [""] * len(batch)
    axis = batch.axes.outputs.get(first) or 0
    rows = np.moveaxis(answer, axis, 0) if answer.ndim > axis else answer
    return [_caption(row, dataset.classes) for row in rows]


def _caption(answer: Array, classes: Sequence[str]) -> str:
    values = np.ravel(answer)
    if np.ndim(answer) == 0:
        return _name(values[0], classes)[:WIDEST]
    if values.dtype.kind in "iu":
        found = np.unique(values)
        return ("labels " + ", ".join(_name(each, classes) for each in found[:NAMED]))[:WIDEST]
    return ", ".join(f"{value:.3g}" for value in values[:4])[:WIDEST] + (", ..." if len(values) > 4 else "")
