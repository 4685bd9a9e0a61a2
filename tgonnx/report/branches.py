"""What `inspect` shows of residual branches, and what a run tells of those that went."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from tgonnx.analysis.coupling import Coupling
from tgonnx.report.cells import quiet, row


def branch_tables(coupling: Coupling) -> list[Table]:
    """The branches with what would go with each; no table where there are none."""
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
    return {"branches": told}
