"""How far and how exactly does pruning go, architecture by architecture?

    python benchmarks/coverage.py FOLDER [NAME ...] [--markdown] [--seeds 3]

FOLDER holds .onnx files, or packed ones (.onnx.xz) with the zoo_pack.py that unpacks them. Of each graph, three
random halves of every group are removed. Shown are what is left of parameters and FLOPs; the parameters without
embedding and position tables; and the largest difference between the gated and the pruned model. A graph passes
if that is at most 1e-4, the predicted figures are those of the pruned file, and checker, strict shape inference
and the promises to callers hold. Exit code 1: some graph does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from tables import measured, show  # a neighbour, found as this script's folder is on the path

from tgonnx.analysis.cost import CostModel
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import PARAMETER_TYPES
from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.runtime.equivalence import contract_differences, runnable_feeds, verify
from tgonnx.runtime.sessions import Feeds, open_session
from tgonnx.selection.budget import random_mask
from tgonnx.selection.mask import Mask

KEEP = 0.5
LIMITS = {"convolution": 0.30, "attention": 0.35}  # of the parameters, tables aside
MOVES = {"Identity", "Cast", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Resize", "Concat"}


@dataclass
class Row:
    """What was measured on one graph; `faults` say in words what is not as it should be."""

    name: str
    nodes: int = 0
    groups: int = 0
    units: int = 0
    kind: str = "convolution"
    params: float = 1.0  # what is left, a ratio
    params_without_tables: float = 1.0
    flops: float = 1.0
    difference: float = 0.0  # gated against pruned, relative to the largest value of the output
    why: tuple[str, ...] = ()  # why not less is left
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def architecture(self) -> str:
        return self.name.split(".")[0]

    @property
    def deep(self) -> bool:
        return self.params_without_tables <= LIMITS[self.kind]


def measure(source: Source, name: str, seeds: Sequence[int] = (0, 1, 2)) -> Row:
    """Prune one graph by a random half, once for each seed."""
    row, start = Row(name), time.perf_counter()
    try:
        _measure(load(source), row, seeds)
    except Exception as error:  # a graph that fails in any way is a line of the table, not the end of it
        row.faults.append(f"{type(error).__name__}: {error}")
    row.seconds = time.perf_counter() - start
    return row


def _measure(model: Model, row: Row, seeds: Sequence[int]) -> None:
    coupling = analyze(model)
    cost = CostModel(coupling)
    row.nodes, row.groups, row.units = len(model.original.graph.node), len(coupling.groups), coupling.units
    row.kind = "attention" if _has_attention(coupling) else "convolution"
    session = open_session(model.original)
    feeds = runnable_feeds(model.original, session, samples=2)
    opened = verify(model.original, gate(coupling, Mask.all_open(coupling)), feeds)
    row.faults += [f"all gates open: {reason}" for reason in opened.reasons]
    for seed in seeds:
        mask = random_mask(coupling, KEEP, seed)
        _cut(coupling, cost, mask, feeds, row)
    counts = cost.open_counts(random_mask(coupling, KEEP, seeds[0]).open)
    before, after = cost.by_owner("params"), cost.by_owner("params", counts)
    tables = _tables(coupling)
    row.params = sum(after.values()) / sum(before.values())
    row.params_without_tables = _total(after, tables) / max(_total(before, tables), 1)
    row.flops = cost.count("flops", counts) / max(cost.total("flops"), 1)
    row.why = tuple(_why_not_less(coupling, before, after))


def _cut(coupling: Coupling, cost: CostModel, mask: Mask, feeds: Sequence[Feeds], row: Row) -> None:
    """Cut by one mask and compare."""
    original, pruned = coupling.model.original, apply(coupling, mask)
    onnx.checker.check_model(pruned)
    onnx.shape_inference.infer_shapes(pruned, strict_mode=True)
    check = verify(gate(coupling, mask), pruned, feeds)
    row.difference = max(row.difference, check.max_rel)
    row.faults += check.reasons
    row.faults += contract_differences(original, pruned)
    row.faults += [f"{part} changed" for part in _changed(original, pruned)]
    predicted, counted = cost.cost(mask.open), CostModel(analyze(load(pruned))).cost()
    if not np.isclose(predicted.flops, counted.flops, rtol=1e-6):
        row.faults.append(f"{predicted.flops:.0f} FLOPs were predicted, the file has {counted.flops:.0f}")
    stored = sum(int(np.prod(t.dims)) for t in pruned.graph.initializer if t.data_type in PARAMETER_TYPES)
    if predicted.params != stored:
        row.faults.append(f"{predicted.params} parameters were predicted, the file has {stored}")


def _changed(a: onnx.ModelProto, b: onnx.ModelProto) -> list[str]:
    """What a caller may rely on beyond inputs and outputs, and which parts of it differ."""
    parts = ("ir_version", "opset_import", "metadata_props", "producer_name", "domain", "doc_string")
    return [part for part in parts if getattr(a, part) != getattr(b, part)]


def _has_attention(coupling: Coupling) -> bool:
    """Is there a product of two activations?"""
    views = [v for v in coupling.views if v.op_type in ("MatMul", "Einsum", "Attention")]
    return any(not any(o is None or o.static for o in view.inputs[:2]) for view in views)


def _tables(coupling: Coupling) -> set[str]:
    """Initializers that `Gather` reads, and those with two axes or more that are added to an activation."""
    origin = {name: {name} for name in coupling.model.initializers}
    found: set[str] = set()
    for node in coupling.model.nodes:
        if node.op_type == "Gather":
            found |= origin.get(node.inputs[0], set())
        elif node.op_type in MOVES:
            for output in node.outputs:
                origin[output] = set().union(*(origin.get(name, set()) for name in node.inputs))
        elif node.op_type == "Add":
            for name in node.inputs:
                found |= {table for table in origin.get(name, set()) if _is_wide(coupling, table)}
    return found


def _is_wide(coupling: Coupling, name: str) -> bool:
    return sum(size > 1 for size in coupling.model.initializers[name].dims) > 1


def _total(table: dict[str, float], without: set[str]) -> float:
    return sum(value for name, value in table.items() if name not in without)


def _why_not_less(coupling: Coupling, before: dict[str, float], left: dict[str, float]) -> Iterator[str]:
    """What the parameters that are left are: a weight cut along one axis only keeps a half, not a quarter."""
    share: Counter[int] = Counter()
    for name in left:
        axes = coupling.labelling.axes[name]
        share[min(sum(bool((coupling.unit_of[a] >= 0).any()) for a in axes), 2)] += round(before[name])
    total = max(sum(share.values()), 1)
    yield (
        f"{share[1] / total:.0%} of the original's parameters are cut along one axis only (depthwise kernels, first "
        f"and last layers), {share[0] / total:.0%} along none"
    )
    yield from _main_pins(coupling, left)


def _main_pins(coupling: Coupling, left: dict[str, float], count: int = 2) -> Iterator[str]:
    """The pinned axes of the largest weights that are left, but for kernels' own height and width."""
    pins = [p for p in coupling.pinned if not (p.op_type.startswith("Conv") and p.axis > 1)]
    seen: set[tuple[str, str]] = set()
    for pin in sorted(pins, key=lambda p: -left.get(p.value, 0)):
        if (pin.node, pin.reason) not in seen and len(seen) < count:
            seen.add((pin.node, pin.reason))
            yield f"{pin.value}[{pin.axis}] is kept by {pin.node or 'the model'} ({pin.op_type}): {pin.reason}"


HEADINGS = ("graph", "nodes", "groups", "units", "params", "no tables", "FLOPs", "difference", "s", "result")


def cells(row: Row) -> tuple[str, ...]:
    """The table's cells of one row."""
    result = "; ".join(dict.fromkeys(row.faults)) or "exact"
    ratios = (f"{value:.3f}" for value in (row.params, row.params_without_tables, row.flops))
    counts = (str(value) for value in (row.nodes, row.groups, row.units))
    return (row.name, *counts, *ratios, f"{row.difference:.0e}", f"{row.seconds:.1f}", result)


def summary(rows: Sequence[Row]) -> list[str]:
    """The totals, and why the graphs that keep more than the limit do."""
    exact = [row for row in rows if not row.faults]
    lines = [
        f"{len(rows)} graphs of {len({row.architecture for row in rows})} architectures, {len(exact)} exact; "
        f"largest difference {max((row.difference for row in rows), default=0):.1e}"
    ]
    for kind, limit in LIMITS.items():
        those = [row for row in rows if row.kind == kind]
        if those:
            share = np.array([row.params_without_tables for row in those])
            lines.append(
                f"{kind}: {int((share <= limit).sum())} of {len(those)} graphs keep at most {limit:.2f} of the "
                f"parameters without tables; median {np.median(share):.3f}, most {share.max():.3f}"
            )
    for row in rows:
        if not row.deep:
            lines.append(f"{row.name} keeps {row.params_without_tables:.3f}: {'; '.join(row.why)}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="only these graphs")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--seeds", type=int, default=3, help="random masks for each graph")
    options = parser.parse_args()
    rows = measured(parser, options, lambda file, name: measure(file, name, range(options.seeds)), cells)
    show(HEADINGS, [cells(row) for row in rows], [bool(row.faults) for row in rows], options.markdown)
    print("\n" + "\n\n".join(summary(rows)))
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
