"""Light augmentation: images that are learned from are mirrored and shifted at random.

What is done to a batch follows from the seed and the number of the batch alone, so a run that goes on finds the same
images. Nothing that is measured, and nothing that statistics are taken of, is augmented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tgonnx.data.pictures import ImageInput, image_input
from tgonnx.data.samples import Batch, Dataset
from tgonnx.errors import DataError
from tgonnx.graph.types import Array
from tgonnx.options import one_of

SHIFT = 1 / 8  # of height and width, at most
_STREAM = 0xA06  # apart from the random numbers that shuffle
Change = Callable[
    [Array, np.random.Generator], Array
]  # images [N, height, width, channels] to such of the same shape


def mirror(images: Array, rng: np.random.Generator) -> Array:
    """Every other image, by chance, with left and right exchanged."""
    chosen = rng.random(len(images)) < 0.5
    return np.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def crop(images: Array, rng: np.random.Generator) -> Array:
    """Each image shifted by up to an eighth of its sides; what comes in repeats the pixels of the border."""
    height, width = images.shape[1:3]
    down, right = round(height * SHIFT), round(width * SHIFT)
    padded = np.pad(images, ((0, 0), (down, down), (right, right), (0, 0)), "edge")
    tops, lefts = (rng.integers(0, 2 * most + 1, len(images)) for most in (down, right))
    found = np.empty_like(images)
    for image, wide, top, left in zip(found, padded, tops, lefts, strict=True):
        image[:] = wide[top : top + height, left : left + width]
    return found


AUGMENTATIONS: dict[str, Change] = {"mirror": mirror, "crop": crop}


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images of an input, in this order."""

    changes: tuple[Change, ...]
    image: ImageInput

    def __call__(self, batch: Batch, seed: int, number: int) -> Batch:
        """The batch of that number with its images changed; its samples are none that can be taken again."""
        rng = np.random.default_rng((seed, number, _STREAM))
        given = batch.feeds[self.image.name]
        images = given if self.image.channels_last else np.moveaxis(given, 1, -1)
        for change in self.changes:
            images = change(images, rng)
        if not self.image.channels_last:
            images = np.moveaxis(images, -1, 1)
        feeds = {**batch.feeds, self.image.name: np.ascontiguousarray(images)}
        return replace(batch, feeds=feeds, positions=None)


def augmentation(names: Sequence[str], dataset: Dataset) -> Augmentation | None:
    """What these names do to the samples of a data set that are learned from; None without names.

    Raises UsageError for unknown names, and DataError where there are no images, or where answers would have to be
    changed with them: targets, and labels of pixels.
    """
    if not names:
        return None
    changes = tuple(AUGMENTATIONS[one_of("augment", name, tuple(AUGMENTATIONS))] for name in names)
    split = dataset.train
    image = image_input(split.samples, split.take(split.one_shape(1)).feeds)
    listed = ", ".join(names)
    if image is None:
        raise DataError(
            f"{dataset.name}: augment {listed}: no input, or more than one, has the 4 axes of images"
        )
    for each in dataset.taught:
        if each.kind == "target" or any(
            part.answers[each.output].ndim > 1 for part in split.samples.parts if each.output in part.answers
        ):
            raise DataError(
                f"{dataset.name}: augment {listed}: array {each.array!r} would have to be changed with the images; "
                "only labels of whole images stay what they are"
            )
    return Augmentation(changes, image)
