"""What `inspect` shows of residual branches and of alternatives that meet."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from tgonnx.analysis.alternatives import Alternative
from tgonnx.analysis.coupling import Coupling
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
    table = quiet("Residual branches", "branch", "shortcut", ">nodes", ">FLOPs", ">parameters", "within")
    for told in branch_json(coupling)["branches"]:
        shares = (f"{told[kind]:.1%}" for kind in ("flops", "params"))
        row(
            table,
            told["branch"],
            told["shortcut"],
            str(told["nodes"]),
            *shares,
            ", ".join(told["within"][-1:]),
        )
    return [table]


def branch_json(coupling: Coupling) -> dict[str, Any]:
    """Branches by the values that their sums put out; `flops` and `params` are the shares that go with each."""
    everything = np.ones(coupling.units, bool)
    told = []
    for branch in coupling.model.branches:
        costs = coupling.closing([branch.name]).cost_model
        told.append(
            {
                "branch": branch.name,
                "node": branch.label,
                "shortcut": branch.shortcut,
                "nodes": len(branch.nodes),
                **{kind: 1 - costs.ratio(everything, kind) for kind in ("flops", "params")},
                "within": list(branch.within),
            }
        )
    return {"branches": told, "meetings": meetings_json(coupling)}


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
