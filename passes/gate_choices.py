"""Gates that choose among alternatives: of each meeting as many are open as stay.

Each has a logit, and each two of one meeting meet in a duel, which is the paper's binary gate on the difference of
their logits: b(w_i - w_j) says who wins, and its slope is g(w_i - w_j). An alternative is open if it wins more than
n - k - 1 of its n - 1 duels, k being how many stay. So forward the gates are the indicator of the k largest logits
(of equal ones, the later), and backward the Jacobian is that of

    r_i(w) = 2 k / (n (n - 1)) sum over j of G(w_i - w_j),    G' = g,    G(x) + G(-x) = 1,

which lies on the simplex of sum k. For n = 2, k = 1 this is the binary gate on w_1 - w_2, and its opposite.

The gated graph has the duels as its input `DUEL_GATES`; `prepare_training` lets them come from logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.passes import PassResult, perform
from tgonnx.passes.gate_branches import BRANCH_GATES, gate_branches
from tgonnx.passes.insert_gates import GATES, insert_gates

DUEL_GATES = "tgonnx.duel_gates"  # float32 [1, duels]: whether the first of two wins
DUELS = "tgonnx.duels"  # float32 [duels, alternatives]: 1 for the first of each duel, -1 for the second
MARGINS = "tgonnx.margins"  # float32 [1, alternatives]: above zero where an alternative is open
BETWEEN = (
    0.6  # the bar is so far below the wins that are needed: not half, so that relaxed gates never sum to zero
)

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GateChoices:
    """Gate the alternatives that `coupling` chooses from; the outcome of their duels is an input."""

    name: ClassVar = "gate-choices"
    in_place: ClassVar = False
    keeps_values: ClassVar = False  # as many are open as stay

    coupling: Coupling

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        if not self.coupling.meetings:
            return PassResult(model, False)
        return PassResult(_gated(model, self.coupling), True)


def gate_choices(proto: onnx.ModelProto, coupling: Coupling) -> onnx.ModelProto:
    """A copy of the normal form in which what is chosen from is gated, by the outcome of duels.

    Raises UnsupportedError if the model holds gates already.
    """
    return perform(GateChoices(coupling), proto).model


def _gated(proto: onnx.ModelProto, coupling: Coupling) -> onnx.ModelProto:
    places = coupling.gate_of_unit
    joined = bool((places < len(coupling.branches)).any())
    gated = gate_branches(insert_gates(proto, coupling, None) if joined else proto, coupling)
    graph = gated.graph
    (vector,) = (value for value in graph.input if value.name == BRANCH_GATES)
    graph.input.remove(vector)
    duels = duels_of(coupling)
    graph.input.append(helper.make_tensor_value_info(DUEL_GATES, TensorProto.FLOAT, [1, len(duels)]))
    slopes, bars = (np.array(row, np.float32)[None] for row in zip(*_scales(coupling), strict=True))
    always = (duels < 0).sum(0, dtype=np.float32)[None]  # the second wins what the first does not
    stored = {DUELS: duels, f"{MARGINS}.slopes": slopes, f"{MARGINS}.bars": (always - bars) * slopes}
    stored[f"{MARGINS}.shape"] = np.array([-1], np.int64)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    nodes = [
        helper.make_node("MatMul", [DUEL_GATES, DUELS], [f"{MARGINS}.won"]),
        helper.make_node("Mul", [f"{MARGINS}.won", f"{MARGINS}.slopes"], [f"{MARGINS}.scaled"]),
        helper.make_node("Add", [f"{MARGINS}.scaled", f"{MARGINS}.bars"], [MARGINS]),
        helper.make_node("Reshape", [MARGINS, f"{MARGINS}.shape"], [BRANCH_GATES]),
    ]
    if joined:
        nodes += _units_gated(graph, places)
    for node in reversed(nodes):
        graph.node.insert(0, node)
    return gated


def _units_gated(graph: onnx.GraphProto, places: npt.NDArray[np.int64]) -> list[onnx.NodeProto]:
    """The nodes that give the gates of units from those of what they go with, in place of a graph input."""
    graph.input.remove(next(value for value in graph.input if value.name == GATES))
    graph.initializer.append(numpy_helper.from_array(places, f"{GATES}.places"))
    graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), f"{GATES}.one"))
    return [
        helper.make_node("Concat", [BRANCH_GATES, f"{GATES}.one"], [f"{GATES}.all"], axis=0),
        helper.make_node("Gather", [f"{GATES}.all", f"{GATES}.places"], [GATES], axis=0),
    ]


def duels_of(coupling: Coupling) -> npt.NDArray[np.float32]:
    """Each two alternatives of one meeting, [duels, alternatives]."""
    count, rows, start = len(coupling.branches), [], 0
    for meeting in coupling.meetings:
        end = start + len(meeting.alternatives)
        for first in range(start, end):
            for second in range(first + 1, end):
                row = np.zeros(count, np.float32)
                row[first], row[second] = 1, -1
                rows.append(row)
        start = end
    return np.array(rows, np.float32).reshape(-1, count)


def open_ones(coupling: Coupling, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which alternatives are open, [alternatives], as the graph says."""
    found, start = np.zeros(len(logits), bool), 0
    for meeting in coupling.meetings:
        count = len(meeting.alternatives)
        order = np.argsort(logits[start : start + count], kind="stable")
        found[start + order[count - meeting.keep :]] = True
        start += count
    return found


def _scales(coupling: Coupling) -> Iterator[tuple[float, float]]:
    """The slope of each alternative's gate along the duels it wins, and the bar that these must reach."""
    for meeting in coupling.meetings:
        n, k = len(meeting.alternatives), meeting.keep
        yield from [(2 * k / (n * (n - 1)), n - k - BETWEEN)] * n
