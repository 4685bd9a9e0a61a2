"""Can every graph be trained, and are its gradients right?

    python benchmarks/train_coverage.py FOLDER [NAME ...] [--markdown] [--largest 150]

FOLDER holds .onnx files, or packed ones (.onnx.xz) with the zoo_pack.py that unpacks them. Of each graph the whole
training graph is built as a search does it: gates, distillation of the original, the penalty on what the gates cost.
Each engine runs its first step with gates relaxed to values, and its gradients are held against a directional finite
difference (`tgonnx.engines.gradient_check`). A slope that float32 does not confirm is measured in float64 by the ONNX
reference implementation, which takes minutes; the result says so.

`engines` is how far the two engines' gradients are apart: the norm of the difference over the norm, for the worst
parameter, where norms below a thousandth of the largest count as that. Where it exceeds 1e-4, the batch is put into
six other orders, which changes rounding and nothing else: the engines agree if they are no further apart than twice
what the order does to the same gradient of one engine; the result says so.

Each graph has a process of its own, so that a crash is a line of the table. Exit code 1: some graph fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from double_precision import slope  # neighbours, found as this script's folder is on the path
from rich.console import Console
from tables import as_markdown, as_table, graphs

from tgonnx import engines
from tgonnx.analysis.cost import CostModel
from tgonnx.analysis.solver import analyze
from tgonnx.data.samples import Batch
from tgonnx.engines.gradient_check import TOLERANCE, judge, relaxed
from tgonnx.engines.spec import StepSpec
from tgonnx.loading import load
from tgonnx.losses.fit import Fit
from tgonnx.ops.aspects.row import FLOATS
from tgonnx.passes.add_objective import HYSTERESIS, MU, RHO, Penalty
from tgonnx.passes.insert_gates import insert_gates
from tgonnx.passes.prepare_training import SMALLEST_BATCH
from tgonnx.runtime.feeds import random_feeds
from tgonnx.training.recipe import Settings
from tgonnx.training.step import make_spec
from tgonnx.training.task import Task, Teacher

AGREE = 1e-4
BATCH = 2
SCALARS = {MU: 0.5, RHO: 0.4, HYSTERESIS: 0.6, "tgonnx.lr": 0.0, "tgonnx.gate_lr": 0.0}


@dataclass
class Row:
    """What was measured on one graph; `faults` say in words what is not as it should be."""

    name: str
    nodes: int = 0
    parameters: int = 0  # trained tensors
    batch: int = 0
    slopes: dict[str, float] = field(default_factory=dict)  # engine -> error of the slope; nan: not judged
    apart: float = float("nan")
    rounding: float = (
        0.0  # what the order of the batch does to the gradient that is furthest apart, if too far
    )
    exact: bool = False  # the slopes were measured in float64
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def measure(path: Path, name: str) -> Row:
    """Build, run and check the training graph of one file with every engine that is installed."""
    row, start = Row(name), time.perf_counter()
    model = load(path)
    coupling = analyze(model)
    row.nodes = len(model.original.graph.node)
    normalised = any(node.op_type == "BatchNormalization" for node in model.nodes)
    row.batch = SMALLEST_BATCH if normalised else BATCH
    rng = np.random.default_rng(0)
    feeds = random_feeds(model.original, rng, row.batch)
    row.batch = next(iter(feeds.values())).shape[0]
    first, *others = (
        Fit("distill", value.name)
        for value in model.original.graph.output
        if value.type.tensor_type.elem_type in FLOATS
    )
    fit = replace(first, others=tuple(others))
    task = Task(None, fit, Teacher(model.original, fit, 1), None)  # type: ignore[arg-type]
    recipe = Settings(threads=1)
    gated = insert_gates(model.proto, coupling, None)
    batch = Batch(feeds, None)
    penalty = Penalty(CostModel(coupling), "flops", 5.0)
    spec = relaxed(make_spec(gated, task, recipe, batch, penalty))
    row.parameters = sum(len(group.names) for group in spec.groups)
    scalars = {key: np.array(value, np.float32) for key, value in SCALARS.items()}
    everything = task.teacher.feeds(batch) | scalars
    found: dict[str, Mapping[str, Any]] = {}
    for engine in dict.fromkeys([engines.choose(), "portable"]):
        try:
            gradients, _ = engines.first_step(spec, everything, engine, 1)
        except Exception as error:  # of the runtime, or a missing row: a line of the table
            row.faults.append(f"{engine}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            continue
        found[engine] = gradients
        verdict = judge(spec, gradients, everything, 1)
        row.slopes[engine] = verdict.error if verdict.judged else float("nan")
        if not verdict.judged:
            row.faults.append(f"{engine}: the loss says nothing about the gradient")
        elif not verdict.passed:
            predicted, measured = slope(spec, gradients, everything)
            row.slopes[engine], row.exact = abs(measured / predicted - 1), True
            if row.slopes[engine] <= TOLERANCE:
                continue
            row.faults.append(
                f"{engine}: slope {verdict.measured:.4g}, gradients say {verdict.predicted:.4g}; "
                f"suspects {', '.join(verdict.suspects)}"
            )
    if len(found) == 2:
        row.apart, worst = difference(*found.values())
        if row.apart > AGREE:
            row.rounding = rounding(spec, everything, worst)
        if row.apart > max(AGREE, 2 * row.rounding):
            row.faults.append(f"the engines are {row.apart:.1e} apart in {worst}")
    row.seconds = time.perf_counter() - start
    return row


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[float, str]:
    """The largest relative difference of two sets of gradients, and the parameter that has it."""
    norms = {name: float(np.linalg.norm(value)) for name, value in a.items()}
    least = 1e-3 * max(norms.values())
    apart = {name: float(np.linalg.norm(a[name] - b[name])) / max(norms[name], least) for name in a}
    worst = max(apart, key=lambda name: apart[name])
    return apart[worst], worst


def rounding(spec: StepSpec, feeds: Mapping[str, Any], name: str, orders: int = 6) -> float:
    """How far the portable engine's gradient of `name` moves, relatively, with the order of the batch."""
    size = max(len(value) for value in feeds.values() if np.ndim(value))
    rng, found = np.random.default_rng(0), []
    for _ in range(orders):
        order = rng.permutation(size)
        given = {n: v[order] if np.ndim(v) and len(v) == size else v for n, v in feeds.items()}
        found.append(engines.first_step(spec, given, "portable", 1)[0][name])
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a in found for b in found)


def in_a_process(path: Path, name: str, limit: float) -> Row:
    """`measure` where a crash does no harm."""
    command = [sys.executable, __file__, str(path), "--one"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return Row(name, faults=[f"not done after {limit:.0f} s"])
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return Row(**{**json.loads(lines[-1]), "name": name})
    if done.returncode < 0:
        return Row(name, faults=[f"crashed with signal {-done.returncode}"])
    return Row(name, faults=[(done.stderr.strip().splitlines() or ["?"])[-1][:300]])


HEADINGS = ("graph", "nodes", "tensors", "batch", "ort-training", "portable", "engines", "s", "result")


def cells(row: Row) -> tuple[str, ...]:
    """The table's cells of one row."""
    slopes = (f"{row.slopes[e]:.1e}" if e in row.slopes else "-" for e in HEADINGS[4:6])
    counts = (str(value) for value in (row.nodes, row.parameters, row.batch))
    remark = " (in float64)" if row.exact else f" (rounding {row.rounding:.1e})" if row.rounding else ""
    result = "; ".join(row.faults) or f"right{remark}"
    return (row.name, *counts, *slopes, f"{row.apart:.1e}", f"{row.seconds:.1f}", result)


def summary(rows: Sequence[Row]) -> str:
    """The totals."""
    right = [row for row in rows if not row.faults]
    slopes = [error for row in right for error in row.slopes.values()]
    apart = [row.apart for row in right if np.isfinite(row.apart)]
    return (
        f"{len(rows)} graphs, {len(right)} right; largest error of a slope {max(slopes, default=0):.1e} (limit "
        f"{TOLERANCE:.0e}), engines at most {max(apart, default=0):.1e} apart (limit {AGREE:.0e})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="only these graphs")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--largest", type=float, default=150, help="skip larger files, in MB")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one graph")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(measure(options.folder, ""))))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 250)
    rows = []
    for name, path in graphs(options.folder, options.names):
        if path.stat().st_size > options.largest * 1e6:
            console.print(f"{name}: skipped, {path.stat().st_size / 1e6:.0f} MB", highlight=False)
            continue
        rows.append(in_a_process(path, name, options.limit))
        print("\t".join(cells(rows[-1])), file=sys.stderr, flush=True)
    lines = [cells(row) for row in rows]
    if options.markdown:
        print(as_markdown(HEADINGS, lines))
    else:
        console.print(as_table(HEADINGS, lines, [bool(row.faults) for row in rows]))
    console.print(summary(rows))
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
