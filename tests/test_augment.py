"""Images that are learned from are changed, always in the same way; nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_task import network, samples
from test_answer_cache import SHORT, Stop, shaken, stops_at
from test_images import model, two
from test_loading import mlp

import tgonnx as tg
from tgonnx import data
from tgonnx.data.augment import augmentation, crop, mirror
from tgonnx.data.samples import Batch
from tgonnx.errors import DataError
from tgonnx.losses.fit import validate
from tgonnx.training.recipe import Settings
from tgonnx.training.task import Task, Teacher

Array = np.ndarray[Any, Any]


def numbered(count: int = 60, height: int = 16, width: int = 24) -> Array:
    """Images [N, height, width, 3] in which every pixel says where it is."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.float32)
    images = np.repeat(image[None], count, 0)
    images[..., 2] = np.arange(count)[:, None, None]
    return images


def test_mirror_turns_about_half_of_the_images() -> None:
    images = numbered()
    found = mirror(images, np.random.default_rng(0))
    turned = (found[:, 0, 0, 1] == 23).sum()
    assert 20 < turned < 40
    for before, after in zip(images, found, strict=True):
        assert (after == before).all() or (after == before[:, ::-1]).all()


def test_crop_shifts_by_an_eighth_at_most_and_repeats_the_border() -> None:
    images = numbered()
    found = crop(images, np.random.default_rng(0))
    down, right = (found[:, 8, 12, axis] - (8, 12)[axis] for axis in (0, 1))
    assert set(down) == set(range(-2, 3))
    assert set(right) == set(range(-3, 4))
    for image, dy, dx in zip(found, down, right, strict=True):
        np.testing.assert_array_equal(image[:, 0, 0], np.clip(np.arange(16) + dy, 0, 15))
        np.testing.assert_array_equal(image[0, :, 1], np.clip(np.arange(24) + dx, 0, 23))
    np.testing.assert_array_equal(found[:, 0, 0, 2], np.arange(60))


@pytest.mark.parametrize("dtype", ["float", "uint8"])
def test_channels_first_and_last_are_changed_alike(dtype: str) -> None:
    images = numbered().astype(np.float32 if dtype == "float" else np.uint8)
    labels = np.arange(60) % 2
    found = []
    for shape, order in (("N,3,16,24", (0, 3, 1, 2)), ("N,16,24,3", (0, 1, 2, 3))):
        values = {"image": np.ascontiguousarray(images.transpose(order)), "label": labels}
        opened = data.open_dataset(values, model(shape, dtype))
        changed = augmentation(("mirror", "crop"), opened)
        assert changed is not None
        batch = opened.train.take(np.arange(20))
        after = changed(batch, 3, 5)
        assert after.feeds["image"].dtype == images.dtype
        assert after.positions is None
        np.testing.assert_array_equal(after.answers["scores"], batch.answers["scores"])
        back = np.argsort(order)
        assert not np.array_equal(after.feeds["image"], batch.feeds["image"])
        found.append(after.feeds["image"].transpose(back))
    np.testing.assert_array_equal(found[0], found[1])


def task_of(augment: tuple[str, ...]) -> Task:
    opened = data.open_dataset(samples(100), network())
    fit = validate(opened, network())
    return Task(opened.train, fit, Teacher(network(), fit, 1), None, augmentation(augment, opened))


def test_what_happens_follows_from_seed_and_batch() -> None:
    task = task_of(("mirror", "crop"))

    def taken(seed: int, skip: int, count: int) -> list[Batch]:
        batches = task.batches(20, seed, skip)
        return [next(batches) for _ in range(count)]

    whole = taken(1, 0, 12)
    for skip in (1, 5, 11):  # beyond an epoch of four batches, too
        np.testing.assert_array_equal(taken(1, skip, 1)[0].feeds["x"], whole[skip].feeds["x"])
    again = replace(task, augment=None)
    plain = next(again.batches(20, 1))
    assert not np.array_equal(plain.feeds["x"], whole[0].feeds["x"])
    np.testing.assert_array_equal(plain.answers["y"], whole[0].answers["y"])
    first = next(task.alike(20, 1))
    np.testing.assert_array_equal(first.feeds["x"], plain.feeds["x"])  # of what statistics are taken


def test_answers_of_the_original_are_not_remembered() -> None:
    task = task_of(("mirror",))
    task.teacher.remember(task.split, Settings(batch=20, augment=("mirror",)), 100, pytest.fail)
    assert task.teacher._cache is None
    batch = next(task.batches(20, 0))
    expected = task.teacher._outputs(batch)["y"]
    np.testing.assert_array_equal(task.teacher.feeds(batch)["tgonnx.teacher/y"], expected)


@pytest.mark.parametrize(("criterion", "phase", "step"), [("gates", "search", 20), ("obs", "fine-tune", 15)])
def test_a_run_that_goes_on_finds_the_same_images(
    criterion: str, phase: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shaken(monkeypatch)
    values, folder = samples(470), str(tmp_path / "run")
    options = SHORT | {"criterion": criterion, "augment": "mirror,crop", "checkpoint_seconds": 0}
    whole = tg.prune(network(), values, 0.6, **options)
    with pytest.raises(Stop):
        tg.prune(network(), values, 0.6, run_dir=folder, progress=stops_at(phase, step), **options)
    with pytest.raises(tg.UsageError, match="was run with augment"):
        tg.prune(network(), values, 0.6, resume=folder, **{**options, "augment": "mirror"})
    again = tg.prune(network(), values, 0.6, resume=folder, **options)
    assert again.model.SerializeToString() == whole.model.SerializeToString()
    plain = tg.prune(network(), values, 0.6, **{**options, "augment": "none"})
    assert plain.model.SerializeToString() != whole.model.SerializeToString()


def test_what_would_have_to_be_changed_with_the_images_is_refused() -> None:
    images = np.zeros((20, 3, 8, 8), np.float32)
    opened = data.open_dataset({"image": images, "target": np.zeros((20, 2), np.float32)}, model())
    with pytest.raises(DataError, match="augment mirror: array 'target' would have to be changed"):
        augmentation(("mirror",), opened)
    rows = data.open_dataset({"x": np.zeros((20, 8), np.float32)}, mlp())
    with pytest.raises(DataError, match="augment crop: no input, or more than one, has the 4 axes of images"):
        augmentation(("crop",), rows)


def test_files_of_images_are_changed_and_shown(tmp_path: Path) -> None:
    shown = data.preview(two(tmp_path), model(), augment=("mirror",))
    assert ("augment", "mirror of 'image', in training only") in shown.rows
    assert shown.batch.positions is None


def test_images_of_several_sizes_from_a_generator() -> None:
    rng = np.random.default_rng(0)

    def pairs() -> Any:
        for number in range(24):
            side = 6 + 2 * (number % 3)
            yield rng.normal(size=(8, 2, side, side)).astype(np.float32), np.arange(8) % 3

    sized = network()
    for axis, name in ((2, "H"), (3, "W")):
        sized.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    opened = data.open_dataset(pairs(), sized)
    assert "inputs of 3 shapes: each batch is of one of them" in opened.notes
    result = tg.prune(
        sized, pairs(), 0.6, **(SHORT | {"criterion": "l2", "epochs": 1, "augment": "mirror,crop"})
    )
    assert result.check.ok
