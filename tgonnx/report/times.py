"""Tables of what operators take: of `bench --by-operator` and `profile`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.times import ADDED, Profile
from tgonnx.pipeline.slowness import by_type
from tgonnx.report.cells import quiet, row
from tgonnx.runtime.operator_times import OperatorTime

SHORT_LIST = 12  # rows without -v


def operator_table(names: Sequence[str], times: Sequence[Sequence[OperatorTime]], everything: bool) -> Table:
    """Milliseconds by type of operators, a column for each model."""
    table = quiet("Time by operator (ms)", "operator", *(f">{name}" for name in names))
    found = [by_type(each) for each in times]
    types = sorted(
        {name for each in found for name in each}, key=lambda name: -max(e.get(name, 0.0) for e in found)
    )
    for op_type in types if everything else types[:SHORT_LIST]:
        row(table, op_type, *(f"{each.get(op_type, 0.0) / 1000:.3f}" for each in found))
    if not everything and len(types) > SHORT_LIST:
        row(table, f"and {len(types) - SHORT_LIST} more types (-v shows all)", style="dim")
    return table


def operator_json(names: Sequence[str], times: Sequence[Sequence[OperatorTime]]) -> list[dict[str, Any]]:
    """The same operator by operator."""
    return [
        {"model": name, "operators": [vars(each) for each in taken]}
        for name, taken in zip(names, times, strict=True)
    ]


def profile_table(profile: Profile, coupling: Coupling, everything: bool) -> list[RenderableType]:
    """What a profile says: where the time goes, and in which blocks."""
    costs = coupling.cost_model
    costs.use(profile)
    owners, total = costs.by_owner("latency"), max(costs.total("latency"), 1e-9)
    types = {node.label: node.op_type for node in coupling.model.nodes}
    table = quiet("Time by operator", "node", "operator", ">ms", ">share")
    largest = sorted(owners, key=lambda owner: -owners[owner])
    for owner in largest if everything else largest[:SHORT_LIST]:
        row(table, owner, types.get(owner, ""), f"{owners[owner] / 1000:.3f}", f"{owners[owner] / total:.1%}")
    if not everything and len(largest) > SHORT_LIST:
        row(table, f"and {len(largest) - SHORT_LIST} more (-v shows all)", style="dim")
    blocks = quiet("Blocks of channels", "operator", ">block", "below a block", "odd counts")
    for op_type, stairs in profile.stairs.items():
        if stairs.block > 1 or stairs.penalty != 1:
            odd = f"{stairs.penalty:.2f} x (no multiple of {stairs.aligned})" if stairs.aligned > 1 else ""
            row(
                blocks,
                op_type,
                str(stairs.block),
                "each channel counts" if stairs.linear else "paid whole",
                odd,
            )
    about = ", ".join(f"{key} {value}" for key, value in profile.about.items() if value != "")
    return [
        f"original {profile.original_us / 1000:.3f} ms ({about})",
        f"predicted shares of that are off by {profile.error:.3f} on average",
        table, blocks,
    ]  # fmt: skip


def profile_json(profile: Profile, coupling: Coupling) -> dict[str, Any]:
    """The same for programs."""
    coupling.cost_model.use(profile)
    return {
        "original_ms": profile.original_us / 1000,
        "error": profile.error,
        "about": dict(profile.about),
        "blocks": {op_type: vars(stairs) for op_type, stairs in profile.stairs.items()},
        "added": ADDED,
        "operators_ms": {
            name: value / 1000 for name, value in coupling.cost_model.by_owner("latency").items()
        },
    }
