"""What was kept of each layer, as bars."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tgonnx.io.visible import visible
from tgonnx.report.cells import quiet, row
from tgonnx.selection.mask import Mask

_AXIS = re.compile(r"\[\d+\]$")  # that a group is named by
LINES = 24  # layers without -v: those of which most is gone
WIDTH = 20  # columns of a bar


def kept_of(mask: Mask) -> list[dict[str, Any]]:
    """Units kept of each group of layers that can only be cut together; it is named by the first of them."""
    ends = np.cumsum([0, *(size for _, size in mask.groups)])
    return [
        {"layer": _AXIS.sub("", name), "units": size, "kept": int(mask.open[start : start + size].sum())}
        for (name, size), start in zip(mask.groups, ends[:-1], strict=True)
    ]


def kept_bars(layers: Sequence[dict[str, Any]], everything: bool) -> Table:
    """A bar for each layer, in the order of the graph."""
    table = quiet("Kept", "layer", "", ">units")
    table.columns[1].no_wrap = table.columns[2].no_wrap = True
    shown = list(layers)
    if not everything and len(layers) > LINES:
        most = sorted(layers, key=lambda layer: layer["kept"] / layer["units"])[:LINES]
        shown = [layer for layer in layers if layer in most]
    for layer in shown:
        bar = ProgressBar(
            total=layer["units"], completed=layer["kept"], width=WIDTH, finished_style="bar.complete"
        )
        table.add_row(Text(visible(layer["layer"])), bar, Text(f"{layer['kept']}/{layer['units']}"))
    if len(shown) < len(layers):
        row(table, f"and {len(layers) - len(shown)} more (-v shows all)", style="dim")
    return table
