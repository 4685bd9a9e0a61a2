"""How many residual branches are found, and how exactly does removing half of them go, architecture by architecture?

    python benchmarks/branches.py FOLDER [NAME ...] [--markdown] [--seed 0]

FOLDER holds .onnx files, or packed ones (.onnx.xz) with the zoo_pack.py that unpacks them. Of each graph a random half
of the branches is removed, layers of plain chains among them. Shown are how many branches there are, how many are
nested in others, and how many are layers; how many went;
what is left of parameters and FLOPs; and the largest difference between gated and pruned model. A graph passes if that
is at most 1e-4, with half of the channels removed beside those that are no layers, too; if the model with all gates
open computes what the original does; if the predicted figures are those of the pruned file; and if checker, strict
shape inference and the promises to callers hold. Exit code 1: some graph does not. Graphs without branches pass:
nothing is removed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from tables import measured, show  # a neighbour, found as this script's folder is on the path

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.passes.gate_branches import gate_branches
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.runtime.equivalence import contract_differences, runnable_feeds, verify
from tgonnx.runtime.sessions import Feeds, open_session
from tgonnx.selection.budget import random_mask
from tgonnx.selection.mask import Mask

KEEP = 0.5


@dataclass
class Row:
    """What was measured on one graph; `faults` say in words what is not as it should be."""

    name: str
    nodes: int = 0
    branches: int = 0
    nested: int = 0
    layers: int = 0
    removed: int = 0
    params: float = 1.0  # what is left, a ratio
    flops: float = 1.0
    difference: float = 0.0  # gated against pruned, relative to the largest value of the output
    both: float = 0.0  # the same with half of the channels removed, too
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def architecture(self) -> str:
        return self.name.split(".")[0]


def measure(source: Source, name: str, seed: int = 0) -> Row:
    """Remove a random half of the branches of one graph."""
    row, start = Row(name), time.perf_counter()
    try:
        _measure(load(source), row, seed)
    except Exception as error:  # a graph that fails in any way is a line of the table, not the end of it
        row.faults.append(f"{type(error).__name__}: {error}")
    row.seconds = time.perf_counter() - start
    return row


def _measure(model: Model, row: Row, seed: int) -> None:
    names = [branch.name for branch in model.branches]
    row.nodes, row.branches = len(model.original.graph.node), len(names)
    row.nested = sum(bool(branch.within) for branch in model.branches)
    row.layers = sum(branch.layer for branch in model.branches)
    if not names:
        return
    coupling = analyze(model)
    feeds = runnable_feeds(model.original, open_session(model.original), samples=2)
    opened = verify(model.original, gate_branches(model.proto, coupling, ()), feeds)
    row.faults += [f"all gates open: {reason}" for reason in opened.reasons]
    rng = np.random.default_rng(seed)
    closed = coupling.closing(rng.choice(names, max(1, round(KEEP * len(names))), replace=False).tolist())
    row.removed = len(closed.closed)
    costs, everything = closed.cost_model, np.ones(coupling.units, bool)
    row.params, row.flops = (costs.ratio(everything, kind) for kind in ("params", "flops"))
    row.difference = _cut(coupling, Mask.all_open(closed), feeds, row)
    if coupling.units:
        residual = {branch.name for branch in model.branches if not branch.layer} & {*closed.closed}
        row.both = _cut(coupling, random_mask(coupling.closing(residual), KEEP, seed), feeds, row)


def _cut(coupling: Coupling, mask: Mask, feeds: Sequence[Feeds], row: Row) -> float:
    """Cut by one mask and compare; returns the difference between gated and pruned."""
    original, pruned = coupling.model.original, apply(coupling, mask)
    onnx.checker.check_model(pruned)
    onnx.shape_inference.infer_shapes(pruned, strict_mode=True)
    check = verify(gate(coupling, mask), pruned, feeds)
    row.faults += check.reasons
    row.faults += contract_differences(original, pruned)
    predicted = mask.counted(coupling).cost_model.cost(mask.open)
    counted = analyze(load(pruned)).cost_model.cost()
    for kind in ("flops", "params"):
        expected, found = getattr(predicted, kind), getattr(counted, kind)
        if not np.isclose(expected, found, rtol=1e-6):
            row.faults.append(f"{expected:.0f} {kind} were predicted, the file has {found:.0f}")
    return check.max_rel


HEADINGS = (
    "graph", "nodes", "branches", "nested", "layers", "removed", "params", "FLOPs", "difference", "with channels", "s",
    "result",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """The table's cells of one row."""
    result = "; ".join(dict.fromkeys(row.faults)) or ("exact" if row.branches else "no branches")
    counts = (str(value) for value in (row.nodes, row.branches, row.nested, row.layers, row.removed))
    ratios = (f"{value:.3f}" for value in (row.params, row.flops))
    differences = (f"{value:.0e}" for value in (row.difference, row.both))
    return (row.name, *counts, *ratios, *differences, f"{row.seconds:.1f}", result)


def summary(rows: Sequence[Row]) -> str:
    """The totals in a line."""
    with_branches = [row for row in rows if row.branches]
    exact = [row for row in with_branches if not row.faults]
    worst = max((max(row.difference, row.both) for row in with_branches), default=0.0)
    return (
        f"{len(rows)} graphs of {len({row.architecture for row in rows})} architectures; {len(with_branches)} of "
        f"{len({row.architecture for row in with_branches})} have branches, {sum(row.branches for row in rows)} in "
        f"all; {len(exact)} of these graphs exact, largest difference {worst:.1e}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="only these graphs")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--seed", type=int, default=0, help="of the branches that go")
    options = parser.parse_args()
    rows = measured(parser, options, lambda file, name: measure(file, name, options.seed), cells)
    show(HEADINGS, [cells(row) for row in rows], [bool(row.faults) for row in rows], options.markdown)
    print("\n" + summary(rows))
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
