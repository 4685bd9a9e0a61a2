"""The step rate of training from a folder of images against that from arrays in memory, from the second epoch on.

    python benchmarks/folder_rate.py [--images 640] [--epochs 7] [--batch 64] [--threads 1] [--within 0.05]

Two cases: the shipped ResNet-20 on grey images of 28 x 28 (.png), and a small network on photographs (.jpg of
320 x 240) made 64 x 64, where reading weighs more. The arrays hold the same pixels, once as bytes and once as the
floats that the model takes. Folder and arrays train epoch by epoch in turns, each with its own trainer of the same
kind. A row has the median step in wall and in CPU time (of all threads), and the medians of the folder's ratio to the
arrays' in the same turn. Wall time means something on an idle machine only. Exit code 1 where a folder's step takes
more than 1 + `--within` times that of the arrays.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser
from PIL import Image

from tgonnx.data.samples import Split
from tgonnx.data.sources import Source, arrays, folder, open_dataset
from tgonnx.loading import load
from tgonnx.losses.fit import validate
from tgonnx.training.recipe import Settings
from tgonnx.training.step import make_trainer
from tgonnx.training.task import Task, Teacher

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parent.parent
MODEL, DATA = ROOT / "models" / "fashion_resnet20.onnx", ROOT / "models" / "fashion_mnist.npz"
CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A model, and what makes files of images for it: their pixels and where they are to be."""

    name: str
    model: onnx.ModelProto
    write: Callable[[Path, int], None]


def grey(root: Path, count: int) -> None:
    """Images of Fashion-MNIST in class folders."""
    with np.load(DATA) as archive:
        images, labels = archive["image"][:count], archive["label"][:count]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = root / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(place / f"{number}.png")


def photographs(root: Path, count: int) -> None:
    """Smooth colours with some noise, as large as small photographs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        rough = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(
            (320, 240), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(rough, np.int16) + rng.integers(-8, 9, (240, 320, 3))
        place = root / str(number % CLASSES)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(place / f"{number}.jpg", quality=90)


def small_network() -> onnx.ModelProto:
    """Four convolutions on 64 x 64 images, a step of which takes little time for their pixels."""
    widths = (3, 32, 32, 64, 64)
    layers = [
        f"c{i} = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [{1 + i % 2}, {1 + i % 2}]> "
        f"({'image' if not i else f'r{i - 1}'}, w{i}) r{i} = Relu(c{i})"
        for i in range(4)
    ]
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 3, 64, 64] image) => (float[N, 10] scores) {'
    )
    ending = "p = GlobalAveragePool(r3) f = Flatten(p) scores = Gemm <transB = 1> (f, w4) }"
    model = parser.parse_model(f"{text} {' '.join(layers)} {ending}")
    rng = np.random.default_rng(0)
    shapes = [(after, before, 3, 3) for before, after in pairwise(widths)] + [(CLASSES, 64)]
    for number, shape in enumerate(shapes):
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), f"w{number}"))
    return model


class Epochs:
    """A trainer and its data, an epoch at a time."""

    def __init__(self, source: Source, proto: onnx.ModelProto, recipe: Settings) -> None:
        model = load(proto)
        self.dataset = open_dataset(source, model.original)
        fit = validate(self.dataset, model.original)
        self.task = Task(self.dataset.train, fit, Teacher(model.original, fit, recipe.threads, 0.0), None)
        self.recipe = recipe
        first = self.dataset.train.take(np.arange(recipe.batch))
        self.trainer = make_trainer(model.proto, self.task, recipe, first)

    def run(self, seed: int) -> tuple[float, float]:
        """Milliseconds of a step in the mean over an epoch, wall and CPU."""
        count, wall, cpu = 0, time.perf_counter(), time.process_time()
        for batch in self.dataset.train.batches(self.recipe.batch, np.random.default_rng(seed)):
            self.trainer.step(self.task.teacher.feeds(batch) | {"tgonnx.lr": np.float32(1e-4)})
            count += 1
        return 1e3 * (time.perf_counter() - wall) / count, 1e3 * (time.process_time() - cpu) / count


def pixels_of(split: Split) -> Iterator[Array]:
    """The images as the folder gives them, in batches."""
    name = next(iter(split.take(np.arange(1)).feeds))
    return (split.take(piece).feeds[name] for piece in split.pieces(np.arange(len(split)), 64))


def measured(
    case: Case, count: int, epochs: int, recipe: Settings
) -> tuple[float, list[tuple[str, float, float, float, float]]]:
    """The first epoch of the folder, as a ratio to its later ones, and a row for each kind of arrays."""
    name = case.model.graph.input[0].name
    with tempfile.TemporaryDirectory(prefix="tgonnx-") as place:
        case.write(Path(place), count)
        ours = Epochs(folder(place), case.model, recipe)
        split = ours.dataset.train
        floats = np.concatenate([*pixels_of(split)])
        ours = Epochs(folder(place), case.model, recipe)  # nothing is decoded yet
        stored = {"label": split.answers, "test_" + name: floats[:1], "test_label": split.answers[:1]}
        bytes_ = {"test_" + name: np.round(floats[:1] * 255).astype(np.uint8)}
        theirs = {
            "floats": Epochs(arrays({**stored, name: floats}), case.model, recipe),
            "bytes": Epochs(
                arrays({**stored, **bytes_, name: np.round(floats * 255).astype(np.uint8)}, scale=1 / 255),
                case.model, recipe,
            ),
        }  # fmt: skip
        first = ours.run(0)
        for each in theirs.values():
            each.run(0)
        times: dict[str, list[tuple[float, float]]] = {"folder": [], **{kind: [] for kind in theirs}}
        for epoch in range(1, epochs + 1):
            for kind, trained in [("folder", ours), *theirs.items()][:: 1 if epoch % 2 else -1]:
                times[kind].append(trained.run(epoch))
    found = {kind: np.array(each) for kind, each in times.items()}
    rows = []
    for kind in theirs:
        ratios = np.median(found["folder"] / found[kind], 0)
        wall, cpu = np.median(found[kind], 0)
        rows.append((kind, float(wall), float(cpu), float(ratios[0]), float(ratios[1])))
    return first[0] / float(np.median(found["folder"][:, 0])), rows


def main() -> None:
    """Print a table; exit code 1 if a folder is too slow."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--images", type=int, default=640)
    options.add_argument("--epochs", type=int, default=7)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--engine", default="auto")
    options.add_argument("--within", type=float, default=0.05)
    given = options.parse_args()
    recipe = Settings(batch=given.batch, threads=given.threads, engine=given.engine)
    cases = (
        Case("ResNet-20, 28 x 28", load(MODEL).original, grey),
        Case("4 convolutions, 64 x 64", small_network(), photographs),
    )
    print(
        "| case | arrays of | step, wall | CPU | folder / arrays, wall | CPU |\n|---|---|---:|---:|---:|---:|"
    )
    slow = False
    for case in cases:
        first, rows = measured(case, given.images, given.epochs, recipe)
        for kind, wall, cpu, ratio, cpu_ratio in rows:
            slow |= max(ratio, cpu_ratio) > 1 + given.within
            print(f"| {case.name} | {kind} | {wall:.1f} ms | {cpu:.1f} ms | {ratio:.3f} | {cpu_ratio:.3f} |")
        print(f"| | first epoch of the folder / later ones | | | {first:.2f} | |", flush=True)
    sys.exit(slow)


if __name__ == "__main__":
    main()
