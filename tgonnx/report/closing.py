"""What `inspect --sensitivity` shows: what each group costs, as a table with bars and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from tgonnx.pipeline.closing import Sensitivity
from tgonnx.report.cells import quiet, row

WIDTH = 24  # characters of the longest bar


def sensitivity_table(found: Sequence[Sensitivity]) -> Table:
    """The most sensitive groups first."""
    table = quiet(
        "Sensitivity: half of a group closed, nothing made up for",
        "group", ">units", ">closed", ">FLOPs saved", ">error", "",
    )  # fmt: skip
    most = max((one.error for one in found), default=0.0)
    for one in found:
        bar = "█" * round(WIDTH * one.error / most) if most else ""
        row(
            table, one.group, f"{one.units:,}", f"{one.closed:,}", f"{one.saved:.1%}", f"{one.error:.2%}", bar
        )
    return table


def sensitivity_json(found: Sequence[Sensitivity]) -> dict[str, Any]:
    return {"sensitivity": [asdict(one) for one in found]}
