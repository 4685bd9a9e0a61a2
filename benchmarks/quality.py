"""How good pruned models are: the default beside gates alone, criteria alone and rivals, on all test images.

    python benchmarks/quality.py run grid       # one seed, a third of an epoch, five sizes, three rates for each rival
    python benchmarks/quality.py run epoch      # three seeds, one epoch, three sizes
    python benchmarks/quality.py run calibrate  # a few images without labels, nothing is trained; or none at all
    python benchmarks/quality.py report         # the tables of docs/quality.md
    python benchmarks/quality.py check          # exit code 1 if a line of docs/quality.md that is promised is missed

Needs the Debian package dataset-fashion-mnist: 60,000 images to learn from, of which a tenth is for validation, and
10,000 for the test, which no choice sees. All methods get the same number of samples, search and fine-tuning together;
rivals count with the best of three rates. Rows are kept in a file as they end: a run goes on where it was left.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fashion import MODEL, images

import tgonnx as tg

ROWS = Path(__file__).resolve().parent / "results" / "quality.jsonl"
GRID, EPOCH = (0.7, 0.5, 0.3, 0.2, 0.1), (0.5, 0.2, 0.1)
RATES = (5e-4, 2e-3, 4e-3)
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "gates": {"criterion": "gates"},
    "gates, the paper's": {"criterion": "gates", "compensate": False},
    "gates, weights frozen": {"criterion": "gates", "weights": "frozen"},
    "obs": {"criterion": "obs"},
    "l2 + least squares": {"criterion": "l2"},
    "l2": {"criterion": "l2", "compensate": False},
    "taylor": {"criterion": "taylor", "compensate": False},
    "fisher": {"criterion": "fisher", "compensate": False},
    "fpgm": {"criterion": "fpgm", "compensate": False},
    "lamp": {"criterion": "lamp", "compensate": False},
    "random": {"criterion": "random", "compensate": False},
}
PROMISED = (  # set, method, share of the FLOPs, images, accuracy at least
    ("epoch", "default", 0.5, 0, 0.9285),
    ("epoch", "default", 0.2, 0, 0.923),
    ("epoch", "default", 0.1, 0, 0.912),
    ("calibrate", "calibrate", 0.5, 512, 0.919),
    ("calibrate", "calibrate", 0.2, 512, 0.880),
    ("calibrate", "calibrate", 0.2, 128, 0.860),
)


@dataclass(frozen=True)
class Job:
    """One run. `lr` 0 leaves the rate to the default; `samples` 0 takes all images with their labels."""

    set: str
    method: str
    target: float
    lr: float
    seed: int
    samples: int = 0


def jobs(kind: str) -> Iterator[Job]:
    """The runs of a set, those that say most first."""
    if kind == "calibrate":
        for target in GRID:
            for samples in (512, 128):
                yield from (Job(kind, "calibrate", target, 0, seed, samples) for seed in range(3))
            yield Job(kind, "no data", target, 0, 0)
            yield Job(kind, "no data, the bare cut", target, 0, 0)
        return
    seeds = range(3) if kind == "epoch" else range(1)
    methods = ("default", "gates", "l2") if kind == "epoch" else tuple(METHODS)
    for method in methods:
        for target in EPOCH if kind == "epoch" else GRID:
            for lr in (0.0,) if method == "default" else RATES:
                yield from (Job(kind, method, target, lr, seed) for seed in seeds)


def run(job: Job, values: dict[str, np.ndarray]) -> dict[str, Any]:
    """The row of a run: accuracy on the test images at commit and at the end, and what it cost."""
    options: dict[str, Any] = {"seed": job.seed, "threads": 1, "verify_seconds": 1.0, "round_to": 1}
    began = time.process_time()
    if job.set == "calibrate":
        model = _calibrated(job, values, options)
        return asdict(job) | {"accuracy": accuracy(model, values), "seconds": time.process_time() - began}
    if job.set == "grid":
        values = values | {name: values[name][:20000] for name in ("image", "label")}
    options |= METHODS[job.method] | ({"lr": job.lr} if job.lr else {})
    result = tg.prune(str(MODEL), values, f"flops={job.target}", epochs=1, **options)
    committed = next(record.metric for record in result.history if record.phase == "commit")
    return asdict(job) | {
        "accuracy": result.after.metric,
        "original": result.before.metric,
        "committed": committed,
        "left": result.achieved,
        "seconds": time.process_time() - began,
    }


def _calibrated(job: Job, values: dict[str, np.ndarray], options: dict[str, Any]) -> Any:
    target = f"flops={job.target}"
    if not job.samples:
        bare = {"compensate": False} if "bare" in job.method else {}
        return tg.prune(str(MODEL), target=target, **options, **bare).model
    chosen = np.random.default_rng(job.seed).choice(len(values["image"]), job.samples, replace=False)
    data = {"image": values["image"][chosen].astype(np.float32) / 255}
    return tg.prune(str(MODEL), data, target, calibrate=True, **options).model


def accuracy(model: Any, values: dict[str, np.ndarray]) -> float:
    """Of a model, on all test images."""
    from tgonnx.runtime.sessions import open_session

    session, right = open_session(model, 1), 0
    for start in range(0, len(values["test_image"]), 500):
        image = values["test_image"][start : start + 500].astype(np.float32) / 255
        scores = session.run({"image": image})["scores"]
        right += int((scores.argmax(1) == values["test_label"][start : start + 500]).sum())
    return right / len(values["test_image"])


def known() -> list[dict[str, Any]]:
    """The rows that there are."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def run_all(kind: str) -> None:
    """Run what is missing of a set."""
    fields = Job.__dataclass_fields__
    done = {tuple(row[name] for name in fields) for row in known()}
    values = images(packed=False)
    ROWS.parent.mkdir(exist_ok=True)
    for job in jobs(kind):
        if tuple(asdict(job).values()) in done:
            continue
        row = run(job, values)
        with ROWS.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(row, flush=True)


def best(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Mean accuracy over seeds at the best rate, that rate, and the mean CPU seconds."""
    by_rate: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_rate[row["lr"]].append(row)
    means = {lr: float(np.mean([row["accuracy"] for row in found])) for lr, found in by_rate.items()}
    lr = max(means, key=lambda rate: means[rate])
    return means[lr], lr, float(np.mean([row["seconds"] for row in by_rate[lr]]))


def report() -> None:
    """One table a set: methods by what is left of the FLOPs."""
    for kind in ("grid", "epoch", "calibrate"):
        rows = [row for row in known() if row["set"] == kind]
        targets = sorted({row["target"] for row in rows}, reverse=True)
        print(f"\n### {kind}\n\n| method | " + " | ".join(f"{t:.0%}" for t in targets) + " |")
        print("|---" * (len(targets) + 1) + "|")
        for method, samples in dict.fromkeys((row["method"], row["samples"]) for row in rows):
            cells = []
            for target in targets:
                mine = [
                    r for r in rows if (r["method"], r["samples"], r["target"]) == (method, samples, target)
                ]
                cells.append(_cell(mine) if mine else "")
            name = f"{method}, {samples} images" if samples else method
            print(f"| {name} | " + " | ".join(cells) + " |")


def _cell(rows: list[dict[str, Any]]) -> str:
    mean, lr, seconds = best(rows)
    return f"{mean:.2%} ({f'{lr:g}, ' if lr else ''}{seconds:.0f} s)"


def check() -> int:
    """Print what is promised beside what was measured; 1 if something is missed or was not measured."""
    missed = 0
    for kind, method, target, samples, least in PROMISED:
        mine = [
            row
            for row in known()
            if (row["set"], row["method"], row["target"], row["samples"]) == (kind, method, target, samples)
        ]
        found = best(mine)[0] if mine else float("nan")
        good = found >= least
        missed += not good
        name = f"{kind}, {method}{f', {samples} images' if samples else ''}, {target:.0%} of the FLOPs"
        print(f"{'ok    ' if good else 'MISSED'} {name}: {found:.2%}, at least {least:.2%}")
    return int(missed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["run", "report", "check"])
    parser.add_argument("sets", nargs="*", help="grid, epoch, calibrate")
    options = parser.parse_args()
    if options.verb == "run":
        for kind in options.sets:
            run_all(kind)
    elif options.verb == "report":
        report()
    return check() if options.verb == "check" else 0


if __name__ == "__main__":
    sys.exit(main())
