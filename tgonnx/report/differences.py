"""What `diff` shows: each layer before and after, as a table and as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from tgonnx.analysis.difference import Difference, LayerChange, WeightChange
from tgonnx.analysis.layers import Layer
from tgonnx.analysis.shapes import Shape
from tgonnx.drawing.charts import kept_chart
from tgonnx.drawing.svg import Drawing
from tgonnx.io.summary import amount
from tgonnx.report.cells import quiet, row


def cost_table(found: Difference) -> Table:
    """What both models cost."""
    table = quiet("", "", ">before", ">after", ">left")
    for name, old, new in (
        ("FLOPs", found.before.flops, found.after.flops),
        ("parameters", found.before.params, found.after.params),
    ):
        row(table, name, amount(old), amount(new), _left(old, new))
    if any(weight.thinned for layer in found.layers for weight in layer.weights):
        row(table, "not zero, of what is left", *map(amount, found.nonzeros), _left(*found.nonzeros))
    return table


def branches_text(found: Difference) -> list[str]:
    """The branches that are gone, on a line; none where there are none."""
    return [f"removed the branches of {', '.join(found.branches)}"] if found.branches else []


def difference_table(found: Difference, everything: bool) -> Table:
    """The changed layers that have a matrix or kernel; with `everything` all, with all weights and costs."""
    more = ("operator", ">FLOPs", ">parameters") if everything else ()
    table = quiet("Layers", "layer", ">before", ">after", ">channels", *more)
    for column in table.columns[1:4]:
        column.no_wrap = True  # names fold first
    hidden = 0
    for layer in found.layers:
        if not everything and not (layer.changed and _is_large(layer)):
            hidden += 1
            continue
        shown = layer.weights if everything else layer.weights[:1]
        shapes = [[_shape(weight.before) for weight in shown], [_shape(weight.after) for weight in shown]]
        costs = (layer.op_type, _left(*layer.flops), _left(*layer.params)) if everything else ()
        row(table, layer.name, *shapes, [_channels(weight) for weight in shown], *costs)
    if hidden:
        row(table, f"and {hidden} layers unchanged or of vectors only (-v shows all)", style="dim")
    return table


def difference_json(found: Difference) -> dict[str, Any]:
    """All that `diff` knows."""
    layers = [
        {
            "name": layer.name,
            "node": layer.node,
            "other": layer.other,
            "operator": layer.op_type,
            "flops": layer.flops,
            "params": layer.params,
            "weights": [asdict(weight) | {"channels": weight.channels} for weight in layer.weights],
        }
        for layer in found.layers
    ]
    return {
        "a": found.a,
        "b": found.b,
        "before": asdict(found.before),
        "after": asdict(found.after),
        "layers": layers,
        "removed_branches": list(found.branches),
        "nonzeros": list(found.nonzeros),
    }


def difference_chart(found: Difference, layers: Sequence[Layer]) -> Drawing:
    """The channels that each layer of the first model has left in the second; `layers` are those of the first."""
    shapes = {weight.name: weight for change in found.layers for weight in change.weights}
    rows = [
        {
            "name": layer.name,
            "op": layer.op_type,
            "before": layer.channels,
            "after": _length(shapes[layer.weight].after, layer.axis),
            "group": layer.group,
        }
        for layer in layers
        if layer.weight in shapes
    ]
    return kept_chart(rows, f"Channels of {found.a} that are left in {found.b}")


def _length(shape: Shape | None, axis: int) -> int:
    return 0 if shape is None else shape[axis]


def _is_large(layer: LayerChange) -> bool:
    return any(len(shape) > 1 for weight in layer.weights for shape in (weight.before, weight.after) if shape)


def _shape(shape: Shape | None) -> str:
    return "none" if shape is None else "x".join(map(str, shape))


def _channels(weight: WeightChange) -> str:
    if weight.before is None or weight.after is None:
        return "new" if weight.before is None else "gone"
    cut = ", ".join(f"{new}/{old}" for _, old, new in weight.channels) or "all"
    if not weight.thinned or weight.kept is None:
        return cut
    return f"{cut}, {weight.kept[1] / max(math.prod(weight.after), 1):.1%} not zero"


def _left(old: float, new: float) -> str:
    return f"{new / old:.1%}" if old else ""
