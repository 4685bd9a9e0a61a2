"""How exactly do single weights become zero, architecture by architecture, and how large are the files?

    python benchmarks/weights.py FOLDER [NAME ...] [--markdown] [--seed 0]

FOLDER holds .onnx files, or packed ones (.onnx.xz) with the zoo_pack.py that unpacks them. Of each graph a random half
of the elements of all kernels and matrices becomes zero (`half`), then all but 2 of every 4 (`2:4`), then all but the
largest tenth, stored sparsely (`tenth`). Shown are how many kernels and matrices there are, and their elements; what
2:4 leaves of them; the largest difference between gated and pruned model; and the file with a tenth of them, stored
sparsely and compressed, as a share of the original and of the original compressed. A graph passes if all differences
are at most 1e-4, if all gates open are the original, if the file holds as many elements that are not zero as was
predicted, and in every group of 2:4 at most two of them. Exit code 1: some graph does not.
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
from onnx import numpy_helper
from tables import measured, show  # a neighbour, found as this script's folder is on the path

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.solver import analyze
from tgonnx.analysis.target import Target
from tgonnx.analysis.weights import along_inputs
from tgonnx.errors import BoundsError
from tgonnx.io.packed import compressed_bytes
from tgonnx.loading import load
from tgonnx.passes.gate_weights import gate_weights
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.runtime.equivalence import contract_differences, runnable_feeds, verify
from tgonnx.runtime.sessions import Feeds, open_session
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.mask import Mask
from tgonnx.selection.weight_choice import asked, fit_weights, weight_scores

PATTERN = Bounds(granularity="weight", nm="2:4")
TENTH = Target(nonzeros=0.1)


@dataclass
class Row:
    """What was measured on one graph; `faults` say in words what is not as it should be."""

    name: str
    weights: int = 0
    elements: int = 0
    pattern: float = 1.0  # what 2:4 leaves, a ratio
    differences: list[float] = field(default_factory=list)  # gated against pruned: half, 2:4, tenth
    sparse: float = 1.0  # the file with a tenth, a ratio
    compressed: float = 1.0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def measure(source: Path, name: str, seed: int = 0) -> Row:
    """Zero the weights of one graph in three ways."""
    row, start = Row(name), time.perf_counter()
    try:
        _measure(source, row, seed)
    except Exception as error:  # a graph that fails in any way is a line of the table, not the end of it
        row.faults.append(f"{type(error).__name__}: {error}")
    row.seconds = time.perf_counter() - start
    return row


def _measure(source: Path, row: Row, seed: int) -> None:
    coupling = analyze(load(source))
    model = coupling.model
    row.weights, row.elements = len(model.single_weights), sum(model.single_weights.values())
    if not row.weights:
        return
    feeds = runnable_feeds(model.original, open_session(model.original), samples=2)
    opened = verify(model.original, gate_weights(model.proto, coupling, {}), feeds)
    row.faults += [f"all gates open: {reason}" for reason in opened.reasons]
    half = fit_weights(coupling, weight_scores(coupling, "random", seed), Target(nonzeros=0.5), PATTERNLESS)
    row.differences.append(_cut(coupling, half, feeds, row)[0])
    scores = weight_scores(coupling, "l2")
    try:
        row.pattern = asked(coupling, None, PATTERN).value
        some = fit_weights(coupling, scores, TENTH, PATTERN)
        difference, pruned = _cut(coupling, some, feeds, row)
        row.differences.append(difference)
        _hold_pattern(coupling, pruned, row)
    except BoundsError:  # no weight is so wide
        row.differences.append(0.0)
    difference, pruned = _cut(coupling, fit_weights(coupling, scores, TENTH, PATTERNLESS), feeds, row, True)
    row.differences.append(difference)
    row.sparse = pruned.ByteSize() / model.original.ByteSize()
    row.compressed = compressed_bytes(pruned) / compressed_bytes(model.original)


PATTERNLESS = Bounds(granularity="weight")


def _cut(
    coupling: Coupling, mask: Mask, feeds: Sequence[Feeds], row: Row, sparse: bool = False
) -> tuple[float, onnx.ModelProto]:
    """Cut by one mask and compare; the difference between gated and pruned, and the pruned model."""
    pruned = apply(coupling, mask, sparse)
    onnx.checker.check_model(pruned)
    check = verify(gate(coupling, mask), pruned, feeds)
    row.faults += check.reasons
    row.faults += contract_differences(coupling.model.original, pruned)
    stored, kept = load(pruned).initializers, 0
    for name, size in coupling.model.single_weights.items():
        values = numpy_helper.to_array(stored[name])
        kept += int(np.count_nonzero(values)) if name in mask.weights else size
    predicted = mask.counted(coupling).cost_model.ratio(mask.open, "nonzeros") * row.elements
    if kept > round(predicted):  # some that stay may have been zero before
        row.faults.append(f"{predicted:.0f} elements were predicted, the file has {kept}")
    return check.max_rel, pruned


def _hold_pattern(coupling: Coupling, pruned: onnx.ModelProto, row: Row) -> None:
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in pruned.graph.initializer}
    for name, places in along_inputs(coupling.model):
        values = stored[name].ravel()[places]
        for start in range(0, values.shape[1], 4):
            if (np.count_nonzero(values[:, start : start + 4], axis=1) > 2).any():
                row.faults.append(f"{name}: more than 2 of 4 stay")
                return


HEADINGS = (
    "graph", "weights", "elements", "2:4 leaves", "half", "2:4", "tenth", "sparse file", "compressed", "s", "result",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """The table's cells of one row."""
    result = "; ".join(dict.fromkeys(row.faults)) or ("exact" if row.weights else "no weights")
    differences = [f"{value:.0e}" for value in (*row.differences, 0.0, 0.0, 0.0)[:3]]
    shares = (f"{value:.3f}" for value in (row.sparse, row.compressed))
    return (
        row.name, str(row.weights), f"{row.elements:,}", f"{row.pattern:.3f}", *differences, *shares,
        f"{row.seconds:.1f}", result,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="only these graphs")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--seed", type=int, default=0, help="of the half that goes")
    options = parser.parse_args()
    rows = measured(parser, options, lambda file, name: measure(file, name, options.seed), cells)
    show(HEADINGS, [cells(row) for row in rows], [bool(row.faults) for row in rows], options.markdown)
    exact = [row for row in rows if row.weights and not row.faults]
    worst = max((value for row in rows for value in row.differences), default=0.0)
    print(f"\n{len(rows)} graphs, {len(exact)} exact, largest difference {worst:.1e}")
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
