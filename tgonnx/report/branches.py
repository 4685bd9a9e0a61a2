"""What `inspect` shows of residual branches and of alternatives that meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from tgonnx.analysis.alternatives import Alternative
from tgonnx.analysis.branches import NoBranch
from tgonnx.analysis.coupling import Coupling
from tgonnx.pipeline.story import branches_told
from tgonnx.report.cells import quiet, row

MANY = 3  # alternatives: where two meet, that is any sum


def branch_tables(coupling: Coupling) -> list[Table]:
    """Branches, and alternatives of many, with what would go with each; no table where there are none."""
    return [*_of_branches(coupling), *_of_alternatives(coupling)]


def _of_alternatives(coupling: Coupling) -> list[Table]:
    if not (meetings := meetings_json(coupling, MANY)):
        return []
    table = quiet(
        "Alternatives (--choose)", "where they meet", "alternative", ">nodes", ">FLOPs", ">parameters"
    )
    for told in meetings:
        for number, one in enumerate(told["alternatives"]):
            shares = (f"{one[kind]:.1%}" for kind in ("flops", "params"))
            row(table, "" if number else told["node"], one["value"], str(one["nodes"]), *shares)
    return [table]


def _of_branches(coupling: Coupling) -> list[Table]:
    if not coupling.model.branches:
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
    return {"branches": branches_told(coupling), "meetings": meetings_json(coupling)}


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


def meetings_json(coupling: Coupling, least: int = 2) -> list[dict[str, Any]]:
    """Where so many alternatives meet at least; `flops` and `params` are the shares that go with each alone."""

    def told(alternative: Alternative) -> dict[str, Any]:
        closing = coupling.closing([alternative.name])
        shares = {kind: 1 - closing.cost_model.ratio(closing.left_open, kind) for kind in ("flops", "params")}
        return {
            "name": alternative.name,
            "value": alternative.value,
            "nodes": len(alternative.nodes),
            **shares,
        }

    return [
        {"meeting": meeting.name, "node": meeting.label, "alternatives": [*map(told, meeting.alternatives)]}
        for meeting in coupling.offered
        if len(meeting.alternatives) >= least
    ]
