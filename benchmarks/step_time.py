"""Time of one training step with and without gates, measured in turns in one run.

    python benchmarks/step_time.py [MODEL] [--batch 64] [--threads 2] [--steps 30] [--engines ort-training]
        [--family channels | blocks | "channels and blocks" | weights]

MODEL defaults to models/fashion_resnet20.onnx; its inputs are random, its loss is that of distillation.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from tgonnx.analysis.solver import analyze
from tgonnx.data.sources import arrays, open_dataset
from tgonnx.engines import EngineName
from tgonnx.loading import load
from tgonnx.losses.fit import validate
from tgonnx.passes.add_objective import HYSTERESIS, MU, RHO, Penalty
from tgonnx.passes.gate_families import CHANNELS, FAMILIES, WEIGHTS, GateFamily
from tgonnx.runtime.feeds import random_feeds
from tgonnx.training.recipe import Settings
from tgonnx.training.step import make_trainer
from tgonnx.training.task import Task, Teacher

MODEL = Path(__file__).resolve().parent.parent / "models" / "fashion_resnet20.onnx"


def compare(
    path: Path, batch: int, threads: int, steps: int, engine: EngineName, family: GateFamily = CHANNELS
) -> tuple[float, float]:
    """Median milliseconds of a step without gates and with gates, weights being trained in both."""
    model = load(path)
    coupling = analyze(model)
    samples = random_feeds(model.original, np.random.default_rng(0), batch)
    dataset = open_dataset(
        arrays(samples | {f"test_{name}": value for name, value in samples.items()}), model.original
    )
    fit = validate(dataset, model.original)
    task = Task(dataset.train, fit, Teacher(model.original, fit, threads), None)
    recipe = Settings(batch=batch, threads=threads, engine=engine)
    first = next(task.batches(batch, 0))
    gated = family.insert(model.proto, coupling, None)
    penalty = Penalty(family.costs(coupling), "nonzeros" if family is WEIGHTS else "flops", 5.0, family)
    trainers = (
        make_trainer(model.proto, task, recipe, first),
        make_trainer(gated, task, recipe, first, penalty),
    )
    scalars = {"tgonnx.lr": 1e-4, "tgonnx.gate_lr": 1e-4, MU: 0.0, RHO: 1.0, HYSTERESIS: 0.5}
    feeds = task.teacher.feeds(first) | {k: np.array(v, np.float32) for k, v in scalars.items()}
    times: tuple[list[float], list[float]] = ([], [])
    for step in range(steps + 3):
        for trainer, spent in zip(trainers, times, strict=True):
            start = time.perf_counter()
            trainer.step(feeds)
            if step >= 3:
                spent.append(1e3 * (time.perf_counter() - start))
    plain, with_gates = (float(np.median(spent)) for spent in times)
    return plain, with_gates


def main() -> None:
    """Print a row for each engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=MODEL)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--engines", nargs="+", default=["portable", "ort-training"])
    parser.add_argument("--family", choices=list(FAMILIES), default=CHANNELS.name)
    options = parser.parse_args()
    family = FAMILIES[options.family]
    print("| engine | step without gates | with gates | ratio |\n|---|---|---|---|")
    for engine in options.engines:
        plain, gated = compare(options.model, options.batch, options.threads, options.steps, engine, family)
        print(f"| {engine} | {plain:.0f} ms | {gated:.0f} ms | {gated / plain:.3f} |")


if __name__ == "__main__":
    main()
