"""The original is asked once for each sample, and a run that goes on finds the same answers."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from small_task import network, samples

import tgonnx as tg
from tgonnx.data.samples import Batch, Split
from tgonnx.data.sources import arrays, open_dataset
from tgonnx.losses.fit import validate
from tgonnx.losses.nodes import TEACHER
from tgonnx.training import answer_cache
from tgonnx.training.answer_cache import AnswerCache
from tgonnx.training.progress import Progress
from tgonnx.training.recipe import Settings
from tgonnx.training.task import Task, Teacher

Array = np.ndarray[Any, Any]
SHORT: dict[str, Any] = {
    "force": True,  # the original, which knows nothing, is imitated
    "criterion": "gates", "epochs": 6, "batch": 32, "lr": 5e-3, "threads": 1, "verify_seconds": 1,
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples the original was asked for, each time."""
    counts: list[int] = []
    ask = Teacher._ask

    def counting(self: Teacher, session: Any, batch: Batch) -> Any:
        counts.append(len(batch))
        return ask(self, session, batch)

    monkeypatch.setattr(Teacher, "_ask", counting)
    return counts


def task_of(
    model: onnx.ModelProto, values: dict[str, Array], gigabytes: float = 1.0, batch: int = 32, epochs: int = 4
) -> tuple[Task, list[str]]:
    dataset = open_dataset(arrays(values), model)
    task = Task(dataset.train, fit := validate(dataset, model), Teacher(model, fit, 1), None)
    notes: list[str] = []
    steps = epochs * len(dataset.train) // batch
    task.teacher.remember(task.split, Settings(batch=batch, cache=gigabytes), steps, notes.append)
    return task, notes


def outputs_of(task: Task, batch: int, epochs: int, seed: int = 0) -> list[Array]:
    drawn = task.batches(batch, seed)
    count = epochs * task.steps_per_epoch(batch)
    return [task.teacher.feeds(next(drawn))[TEACHER + "y"] for _ in range(count)]


def test_the_original_is_asked_once_for_each_sample(asked: list[int]) -> None:
    values = samples(400)
    task, _ = task_of(network(), values)
    found = [*outputs_of(task, 32, 3), *outputs_of(task, 32, 3, seed=1)]
    assert sum(asked) <= 360 + 32  # 360 to learn from; one batch tells the sizes
    plain, _ = task_of(network(), values, gigabytes=0)
    wanted = [*outputs_of(plain, 32, 3), *outputs_of(plain, 32, 3, seed=1)]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_what_does_not_fit_on_disk_is_asked_again(share: float, asked: list[int]) -> None:
    values = samples(400)
    task, _ = task_of(network(), values, gigabytes=share * 360 * 3 * 4 / 1e9)
    found = outputs_of(task, 32, 4)
    kept = int(share * 360) // 32 * 32
    drawn = 4 * 352  # eleven full batches an epoch
    assert sum(asked) == pytest.approx(
        drawn - 3 * kept, abs=3 * 8 + 64
    )  # the last 8 of 360 are drawn now and then
    assert sum(asked) > kept
    plain, _ = task_of(network(), values, gigabytes=0)
    for a, b in zip(found, outputs_of(plain, 32, 4), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_is_seen_once_is_not_kept(asked: list[int]) -> None:
    task, _ = task_of(network(), samples(400), epochs=1)
    outputs_of(task, 32, 1)
    assert asked == [32] * 11


@dataclass(frozen=True)
class Mirrored(Split):
    """Images mirrored at random: not the same when they are taken again."""

    def take(self, chosen: Any) -> Batch:
        return replace(super().take(chosen), positions=None)


def test_augmented_samples_are_asked_for_each_time(asked: list[int]) -> None:
    task, _ = task_of(network(), samples(400))
    mirrored = replace(task, split=Mirrored(task.split.samples, task.split.indices))
    before = sum(asked)
    outputs_of(mirrored, 32, 3)
    assert sum(asked) - before == 3 * 352


def shaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An original whose answers for a sample depend on the samples beside it, as rounding can."""
    ask = Teacher._ask

    def shaking(self: Teacher, session: Any, batch: Batch) -> Any:
        shift = np.float32(1e-3 * np.sin(1e4 * batch.feeds["x"].sum()))
        return {name: value + shift for name, value in ask(self, session, batch).items()}

    monkeypatch.setattr(Teacher, "_ask", shaking)


class Stop(Exception):
    """In the place of a signal."""


def stops_at(phase: str, step: int) -> Callable[[Progress], None]:
    def listen(progress: Progress) -> None:
        if (progress.phase, progress.step) == (phase, step):
            raise Stop

    return listen


@pytest.mark.parametrize(
    ("criterion", "phase", "step", "gigabytes"),
    [
        ("gates", "search", 20, 1.0),
        ("gates", "fine-tune", 2, 1e-9 * 200 * 12),
        ("gates", "fine-tune", 40, 1.0),
        ("obs", "fine-tune", 15, 1.0),
    ],
)
def test_a_run_that_goes_on_finds_the_same_answers(
    criterion: str, phase: str, step: int, gigabytes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shaken(monkeypatch)
    model, values, folder = network(), samples(470), str(tmp_path / "run")
    options = SHORT | {"criterion": criterion, "cache": gigabytes, "checkpoint_seconds": 0}
    whole = tg.prune(model, values, 0.6, **options)
    with pytest.raises(Stop):
        tg.prune(model, values, 0.6, run_dir=folder, progress=stops_at(phase, step), **options)
    again = tg.prune(model, values, 0.6, resume=folder, **options)
    assert again.model.SerializeToString() == whole.model.SerializeToString()


def test_another_cache_is_another_run(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    with pytest.raises(Stop):
        tg.prune(network(), samples(400), 0.6, run_dir=folder, progress=stops_at("search", 9), **SHORT)
    with pytest.raises(tg.UsageError, match=r"was run with cache 1\.0, not 0\.0"):
        tg.prune(network(), samples(400), 0.6, resume=folder, cache=0, **SHORT)


def test_a_full_disk_is_told_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch, asked: list[int]) -> None:
    task, notes = task_of(network(), samples(400))
    cache = task.teacher._cache
    assert cache is not None
    file = cache.file

    class Full:
        written = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

        def write(self, data: bytes) -> int:
            self.written += 1
            if self.written > 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            return file.write(data)  # type: ignore[union-attr]

    cache.file = Full()  # type: ignore[assignment]
    found = outputs_of(task, 32, 3)
    assert notes == [
        "what the original says is not kept, but asked for in each step: No space left on device"
    ]
    plain, _ = task_of(network(), samples(400), gigabytes=0)
    for a, b in zip(found, outputs_of(plain, 32, 3), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(
        answer_cache.tempfile, "TemporaryFile", lambda **_: (_ for _ in ()).throw(OSError(13, "no"))
    )
    task, notes = task_of(network(), samples(400))
    assert notes == ["what the original says is not kept, but asked for in each step: no"]
    assert len(outputs_of(task, 32, 1)) == 11


def test_samples_of_several_shapes(asked: list[int]) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Conv (x, w) }'
    )
    weight = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    rng = np.random.default_rng(0)
    items = [{"x": rng.random((10, 3, 4, 4 + 2 * (index % 3)), np.float32)} for index in range(12)]
    dataset = open_dataset(items, model)
    teacher = Teacher(model, fit := validate(dataset, model), 1)
    teacher.remember(dataset.train, Settings(batch=8), 60, lambda text: None)
    task = Task(dataset.train, fit, teacher, None)
    for batch, _ in zip(task.batches(8, 3), range(50), strict=False):
        wanted = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], batch.feeds["x"])
        np.testing.assert_allclose(teacher.feeds(batch)[TEACHER + "y"], wanted, rtol=1e-4, atol=1e-5)
    assert sum(asked) <= len(dataset.train) + 3 * 8


def test_outputs_with_time_first() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[T,N,4] x) => (float[T,N,4] y) { y = Relu (x) }'
    )
    x = np.random.default_rng(0).normal(size=(7, 60, 4)).astype(np.float32)
    dataset = open_dataset(arrays({"x": x}), model)
    assert dataset.train.axes.outputs["y"] == 1
    teacher = Teacher(model, fit := validate(dataset, model), 1)
    teacher.remember(dataset.train, Settings(batch=9), 60, lambda text: None)
    task = Task(dataset.train, fit, teacher, None)
    for batch, _ in zip(task.batches(9, 3), range(30), strict=False):
        said = teacher.feeds(batch)[TEACHER + "y"]
        np.testing.assert_array_equal(said, np.maximum(batch.feeds["x"], 0))
    assert teacher._cache is not None
    assert len(teacher._cache.there) == 6


def test_outputs_without_samples_are_not_kept() -> None:
    task, _ = task_of(network(), samples(100))
    cache = AnswerCache(
        task.split, lambda batch: {"y": np.zeros((5, 2), np.float32)}, 16, 0, 10**9, lambda text: None
    )
    assert not cache.starts
    assert cache.outputs(task.split.take(np.arange(16)))["y"].shape == (5, 2)
