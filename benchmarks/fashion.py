"""ResNet-20 on Fashion-MNIST: gates beside L2 and random selection with the same budget, on all test images.

    python benchmarks/fashion.py [--targets 0.5] [--seeds 3] [--selections gates l2 random frozen] [--packed]

Where the Debian package dataset-fashion-mnist is installed, one epoch over its 60,000 images is the budget of a run,
search and fine-tuning together, and accuracy is that on all 10,000 test images. Elsewhere, and with `--packed`,
training uses the packed 10,000 images and the default budget. L2 and random selection get the same number of
steps, on the pruned network from the start. With frozen weights, where nothing afterwards makes up for what the search
chose, the search has two epochs.
"""

from __future__ import annotations

import argparse
import gzip
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tgonnx as tg
from tgonnx.data.sources import open_dataset
from tgonnx.losses.fit import validate
from tgonnx.losses.metric import Metric
from tgonnx.pipeline import steps_for
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.progress import Journal
from tgonnx.training.recipe import BATCH, Settings
from tgonnx.training.statistics import refresh_statistics
from tgonnx.training.task import Task, Teacher

ROOT = Path(__file__).resolve().parent.parent
MODEL, DATA = ROOT / "models" / "fashion_resnet20.onnx", ROOT / "models" / "fashion_mnist.npz"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Row:
    """One run: accuracies are shares of the test images."""

    selection: str
    target: float
    seed: int
    left: float
    committed: float
    final: float
    seconds: float


def images(packed: bool) -> dict[str, np.ndarray]:
    """Training and test images: the installed ones, of which `packed` takes those for the test only."""
    with np.load(DATA) as archive:
        values = {name: archive[name] for name in archive.files}
    if INSTALLED.is_dir():
        for prefix, part in (("test_", "t10k"), ("", "train"))[: 1 if packed else 2]:
            for name, kind, header in (("image", "images-idx3", 16), ("label", "labels-idx1", 8)):
                with gzip.open(INSTALLED / f"{part}-{kind}-ubyte.gz") as stream:
                    array = np.frombuffer(stream.read(), np.uint8, offset=header)
                values[prefix + name] = array.reshape(-1, *values[name].shape[1:])
    return values


class Benchmark:
    """The model, its data and its accuracy."""

    def __init__(self, threads: int, packed: bool = False) -> None:
        self.threads = threads
        self.epochs = 1 if INSTALLED.is_dir() and not packed else None
        self.model = tg.load(MODEL)
        self.coupling = tg.analyze(self.model)
        self.values = images(packed)
        self.dataset = open_dataset(self.values, self.model.original)
        fit = validate(self.dataset, self.model.original)
        assert self.dataset.held_out is not None
        self.accuracy = Metric(fit, self.dataset.held_out, self.model.original)
        self.task = Task(self.dataset.train, fit, Teacher(self.model.original, fit, threads), None)
        self.before = self.accuracy(self.model.original)

    def gates(self, target: float, seed: int, weights: str) -> Row:
        """`tgonnx prune`."""
        began = time.monotonic()
        result = tg.prune(
            self.model,
            self.values,
            tg.Target(flops=target),
            epochs=self.epochs and self.epochs * (2 if weights == "frozen" else 1),
            weights=weights,
            seed=seed,
            threads=self.threads,
        )
        spent = time.monotonic() - began
        committed = next(r.metric for r in result.history if r.phase == "commit")
        name = "gates" if weights == "train" else "gates, weights frozen"
        final = self.accuracy(result.model)
        return Row(name, target, seed, result.achieved, committed or 0.0, final, spent)

    def one_shot(self, criterion: str, target: float, seed: int) -> Row:
        """Selection without training, then fine-tuning with the whole budget."""
        began = time.monotonic()
        mask = tg.select(self.coupling, tg.Target(flops=target), criterion, seed)
        recipe = Settings(batch=BATCH, seed=seed, threads=self.threads)
        pruned = refresh_statistics(tg.apply(self.model, mask), self.task, recipe)
        committed = self.accuracy(pruned)
        steps = sum(steps_for(self.task.steps_per_epoch(BATCH), self.epochs, True))
        tuned = refresh_statistics(fine_tune(pruned, self.task, steps, recipe, Journal()), self.task, recipe)
        spent = time.monotonic() - began
        left = tg.CostModel(self.coupling).ratio(mask.open, "flops")
        return Row(criterion, target, seed, left, committed, self.accuracy(tuned), spent)


def main() -> None:
    """Print one line per run as it ends, then the table of means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--selections", nargs="+", default=["gates", "l2", "random", "frozen"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--packed", action="store_true")
    options = parser.parse_args()
    bench = Benchmark(options.threads, options.packed)
    print(f"original: {bench.before:.4f} on {len(bench.accuracy.split)} test images", flush=True)
    rows = []
    for target in options.targets:
        for selection in options.selections:
            for seed in range(options.seeds):
                if selection in ("gates", "frozen"):
                    row = bench.gates(target, seed, "train" if selection == "gates" else "frozen")
                else:
                    row = bench.one_shot(selection, target, seed)
                rows.append(row)
                print(row, flush=True)
    table(rows, bench.before)


def table(rows: list[Row], before: float) -> None:
    """Means over the seeds."""
    print(
        "\n| FLOPs left | selection | after commit | at the end | drop | seconds |\n|---|---|---|---|---|---|"
    )
    for key in dict.fromkeys((row.target, row.selection) for row in rows):
        same = [row for row in rows if (row.target, row.selection) == key]
        left, committed, final, seconds = (
            float(np.mean([getattr(row, name) for row in same]))
            for name in ("left", "committed", "final", "seconds")
        )
        print(
            f"| {left:.1%} | {key[1]} | {committed:.2%} | {final:.2%} | {100 * (before - final):+.2f} points "
            f"| {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
