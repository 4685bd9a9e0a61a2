"""Why a pruned model is not faster by what it lost: the operators that still take their time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from tgonnx.runtime.operator_times import ADDED, OperatorTime, operator_times
from tgonnx.runtime.sessions import Feeds

BEHIND = 0.1  # a share of time above that of the FLOPs by so much is worth a word
WORTH, SHOWN = 0.1, 3  # of the pruned model's time that operators take that are named, and how many are


@dataclass(frozen=True)
class Lasting:
    """Operators of one type: their share of the original's time, and what is left of it."""

    op_type: str
    share: float
    left: float


def by_type(times: Sequence[OperatorTime]) -> dict[str, float]:
    """Microseconds of each type of operators; those that the runtime adds by themselves."""
    found: dict[str, float] = defaultdict(float)
    for each in times:
        found[each.op_type if each.output != ADDED else f"{each.op_type} (added by the runtime)"] += (
            each.microseconds
        )
    return dict(found)


def operators_of(
    before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds, threads: int
) -> tuple[list[OperatorTime], list[OperatorTime]]:
    """What each operator of two models takes. Raises UnsupportedError, ModelError if onnxruntime does not run them."""
    return operator_times(before, feeds, threads), operator_times(after, feeds, threads)


def by_node(model: onnx.ModelProto, both: Sequence[Sequence[OperatorTime]]) -> dict[str, list[float]]:
    """Milliseconds before and after by the name of a node of the original; what was added is left out."""
    names = {output: node.name or output for node in model.graph.node for output in node.output}
    found: dict[str, list[float]] = {}
    for place, times in enumerate(both):
        for each in times:
            if each.output in names:
                found.setdefault(names[each.output], [0.0, 0.0])[place] += each.microseconds / 1000
    return found


def lasting(before: Sequence[OperatorTime], after: Sequence[OperatorTime]) -> list[Lasting]:
    """The types of operators that most of the pruned model's time goes to, the worst first."""
    old, new = by_type(before), by_type(after)
    total = max(sum(old.values()), 1e-9)
    worth = [name for name, time in new.items() if time > WORTH * sum(new.values())]
    return [
        Lasting(name, old.get(name, 0.0) / total, new[name] / max(old.get(name, 0.0), 1e-9))
        for name in sorted(worth, key=lambda name: -new[name])[:SHOWN]
    ]


def lagging(both: tuple[Sequence[OperatorTime], Sequence[OperatorTime]], left: tuple[float, float]) -> str:
    """A line about where the time stays, and what helps; empty if it fell nearly as the FLOPs did.

    `left` are the shares of time and FLOPs that are left.
    """
    time_left, flops_left = left
    if time_left < flops_left + BEHIND:
        return ""
    parts = [
        f"{one.op_type} ({one.share:.0%} of the original's time, {one.left:.0%} of that is left)"
        if one.share > 0
        else f"{one.op_type} (new)"
        for one in lasting(*both)
    ]
    where = f": {'; '.join(parts)}" if parts else ""
    return (
        f"{time_left:.0%} of the time is left beside {flops_left:.0%} of the FLOPs{where}. "
        "Runtimes compute whole blocks of channels: --target latency=... chooses by measured time"
    )
