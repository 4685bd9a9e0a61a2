"""What `inspect` shows of residual branches, and what a run tells of those that went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from tgonnx.analysis.branches import NoBranch
from tgonnx.analysis.coupling import Coupling
from tgonnx.pipeline.story import branches_told
from tgonnx.report.cells import quiet, row


def branch_tables(coupling: Coupling) -> list[Table]:
    """The branches with what would go with each; no table where there are none."""
    if not coupling.branches:
        return []
    columns = ("branch", "shortcut", ">nodes", ">FLOPs", ">parameters", "within")
    table = quiet("Residual branches, and layers of plain chains", *columns)
    for told in branch_json(coupling)["branches"]:
        shares = (f"{told[kind]:.1%}" for kind in ("flops", "params"))
        row(
            table,
            told["branch"],
            told["shortcut"],
            str(told["nodes"]),
            *shares,
            "a layer" if told["layer"] else ", ".join(told["within"][-1:]),
        )
    return [table]


def branch_json(coupling: Coupling) -> dict[str, Any]:
    """The same as plain data."""
    return {"branches": branches_told(coupling)}


def no_branch_table(found: Sequence[NoBranch]) -> Table:
    """Sums that have no branch which could go, and why."""
    table = quiet("Why they have no branch", "sum", "node", "reason")
    for each in found:
        row(table, each.name, each.label, each.reason)
    return table


def whole_table(reasons: Mapping[str, str]) -> Table:
    """Weights whose elements cannot become zero, and why."""
    table = quiet("Why their elements stay", "weight", "reason")
    for name, reason in reasons.items():
        row(table, name, reason)
    return table
