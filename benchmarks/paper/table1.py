"""The paper's Table 1 (ResNet-56), Figure 4a and Figure 5, on Fashion-MNIST.

    python benchmarks/paper/table1.py [--quick] [--width 8] [--seeds 3] [--images 60000] [--epochs 1]

The network is trained first. Then each row has the same budget, `--epochs` over `--images`, search and fine-tuning
together: gates with the weights (`joint`), the unpruned network trained on, selection by L2, Taylor and group Fisher
followed by fine-tuning, gates on frozen weights (Figure 4a), and other gradient shapes (Figure 5). Accuracy is that on
all 10,000 test images, which choose nothing. Needs the Debian package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from building import resnet
from keeping import Desk, Row, arguments, chart, table

import tgonnx as tg

INSTALLED = Path("/usr/share/datasets/fashion-mnist")
TARGETS = (0.51, 0.71)
FROZEN = (0.7, 0.3, 0.9, 0.4, 0.6, 0.8)  # beside 0.5
EPOCHS = 5  # of the first training
METHODS: dict[str, dict[str, Any]] = {
    "joint": {"criterion": "gates"},
    "joint, no least squares": {"criterion": "gates", "compensate": False},
    "L2": {"criterion": "l2", "compensate": False},
    "Taylor": {"criterion": "taylor", "compensate": False},
    "group Fisher": {"criterion": "fisher", "compensate": False},
    "frozen": {"weights": "frozen", "compensate": False},
    "sigmoid'": {"criterion": "gates", "gradient": "sigmoid"},
    "tanh'": {"criterion": "gates", "gradient": "tanh"},
}


def images(training: int, test: int) -> dict[str, np.ndarray]:
    """So many images as uint8 [N, 1, 28, 28] with labels, named for the model."""
    values = {}
    for prefix, part, some in (("", "train", training), ("test_", "t10k", test)):
        for name, kind, header in (("image", "images-idx3", 16), ("label", "labels-idx1", 8)):
            with gzip.open(INSTALLED / f"{part}-{kind}-ubyte.gz") as stream:
                array = np.frombuffer(stream.read(), np.uint8, offset=header)
            array = array.reshape(-1, 1, 28, 28) if name == "image" else array.astype(np.int64)
            values[prefix + name] = array[:some]
    return values


def jobs(seeds: int) -> Iterator[Row]:
    """The rows, those that say most first: one seed of all, then more of ours, the unpruned one and L2."""
    others = ("sigmoid'", "tanh'", "Taylor", "group Fisher", "joint, no least squares")
    first = [("unpruned", 1.0), ("joint", 0.51), ("L2", 0.51), ("frozen", 0.5), ("joint", 0.71), ("L2", 0.71)]
    first += [(method, 0.51) for method in others] + [("frozen", target) for target in FROZEN]
    first += [(method, 0.71) for method in others]
    more = [("unpruned", 1.0), *((method, target) for target in TARGETS for method in ("joint", "L2"))]
    for seed in range(seeds):
        yield from ({"method": m, "target": t, "seed": seed} for m, t in (more if seed else first))


class Experiment:
    """The trained network, its data, and how a row is made."""

    def __init__(self, desk: Desk, options: argparse.Namespace) -> None:
        self.quick, self.epochs = desk.quick, options.epochs
        values = images(1200, 400) if self.quick else images(options.images, 10_000)
        self.data = tg.data.arrays(values, scale=1 / 255)
        self.common: dict[str, Any] = {"threads": options.threads, "verify_seconds": 1.0}
        self.common["augment"] = ("mirror", "crop")
        self.depth, self.width = (8, 4) if self.quick else (56, options.width)
        name = f"resnet{self.depth}-{self.width}-{options.images}"
        self.model = desk.network(name, self.trained)

    def trained(self) -> onnx.ModelProto:
        """ResNet-56 from random weights: SGD with momentum, the rate falls to zero along a cosine."""
        how: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-3}
        how |= {"batch": 32, "epochs": 8} if self.quick else {"batch": 128, "epochs": EPOCHS}
        result = tg.tune(resnet(self.depth, self.width), self.data, from_scratch=True, **how, **self.common)
        return result.model

    def __call__(self, job: Row) -> Row:
        """The row of a job."""
        options = {**self.common, "epochs": self.epochs, "seed": job["seed"], "force": self.quick}
        if job["method"] == "unpruned":
            result = tg.tune(str(self.model), self.data, **options)
        else:
            how = METHODS[job["method"]] | {"round_to": 1}
            result = tg.prune(str(self.model), self.data, f"flops={job['target']}", **how, **options)
        committed = [record.metric for record in result.history if record.phase == "commit"]
        return {
            "left": round(result.achieved, 4),
            "params": result.after.cost.params,
            "before": result.before.metric,
            "committed": committed[0] if committed else None,
            "accuracy": result.after.metric,
        }


def mean(rows: list[Row], method: str, target: float, name: str = "accuracy") -> float | None:
    """Of a figure over the seeds that there are."""
    found = [row[name] for row in rows if row["method"] == method and row["target"] == target]
    return float(np.mean(found)) if found else None


def report(desk: Desk) -> None:
    """Print the tables and draw Figure 4a and Figure 5."""
    rows = desk.rows()
    level = mean(rows, "unpruned", 1.0)
    lines = []
    for method, target in dict.fromkeys((row["method"], row["target"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["target"]) == (method, target)]
        accuracy, left, seconds = (
            float(np.mean([row[n] for row in mine])) for n in ("accuracy", "left", "seconds")
        )
        drop = "" if level is None or method == "unpruned" else f"{100 * (accuracy - level):+.2f}"
        lines.append((method, f"{left:.2f}", f"{accuracy:.2%}", drop, str(len(mine)), f"{seconds:.0f}"))
    table(("method", "FLOPs left", "accuracy", "points", "seeds", "CPU s"), lines)
    if frozen := [(row["target"], row["accuracy"]) for row in rows if row["method"] == "frozen"]:
        curve, whole = {"gates, weights frozen": frozen}, ("original", rows[0]["before"])
        drawing = chart(curve, "Pruning without fine-tuning", "FLOPs left", whole)
        drawing.save(desk.picture("figure4a.svg"), overwrite=True)
    methods = {"g = 1": "joint", "sigmoid'": "sigmoid'", "tanh'": "tanh'"}
    curves = {
        name: [(target, found) for target in TARGETS if (found := mean(rows, method, target)) is not None]
        for name, method in methods.items()
    }
    if all(curves.values()):
        drawing = chart(curves, "Gradient shapes", "FLOPs left")
        drawing.save(desk.picture("figure5.svg"), overwrite=True)


def main() -> None:
    more = {"--width": 8, "--seeds": 3, "--images": 60_000, "--epochs": 1}
    numbers = ((name, {"type": int, "default": value}) for name, value in more.items())
    known = ("unpruned", *METHODS)
    options = arguments(__doc__, *numbers, ("--methods", {"nargs": "+", "choices": known, "default": known}))
    desk = Desk("table1", options.quick, options.out)
    if not options.table:
        asked = {"images": options.images, "epochs": options.epochs, "width": options.width}
        wanted = list(jobs(options.seeds))
        if options.quick:
            wanted = [row for row in jobs(1) if row["target"] in (1.0, 0.51, 0.5)][:6]
        wanted = [row | asked for row in wanted if row["method"] in options.methods]
        desk.run(wanted, Experiment(desk, options))
    report(desk)


if __name__ == "__main__":
    main()
