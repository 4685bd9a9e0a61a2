"""A result as plain data: what its report is made from, small enough to lie beside a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling, Group, Pinned
from tgonnx.analysis.layers import Layer, layers_of
from tgonnx.drawing.page import FORMAT
from tgonnx.io.notes import notes_to_json
from tgonnx.selection.mask import Mask

if TYPE_CHECKING:
    from tgonnx.pipeline.result import PruneResult

Scores = npt.NDArray[np.float64]
Pair = list[float]  # before and after
WHERE = 40  # places of one reason that are named


def story_of(result: PruneResult) -> dict[str, Any]:
    """All that a report tells, for JSON."""
    return {
        "format": FORMAT,
        "model": "model",
        "target": {"kind": result.target.kind, "ratio": result.target.value},
        "achieved": result.achieved,
        "target_met": result.target_met,
        "counted_at": {name: list(shape) for name, shape in result.counted_at.items()},
        "metric": result.metric_name,
        "samples": dict(result.samples),
        "before": asdict(result.before),
        "after": asdict(result.after),
        "verification": {"ok": result.check.ok, "verdict": result.check.verdict, **asdict(result.check)},
        "notes": notes_to_json(result.notes),
        "history": [asdict(record) for record in result.history],
        "layers": [],
        "groups": [],
        "pinned": [],
        "recipe": {},
        **result.details,
    }


def details_of(coupling: Coupling, mask: Mask, scores: Scores | None = None) -> dict[str, Any]:
    """Layers, groups and what is pinned under a mask; `scores` [units] ranked the units, if they are known."""
    layers = layers_of(coupling)
    costs = _Costs(coupling, mask)
    names = [group.name for group in coupling.groups]
    return {
        "model": coupling.model.source,
        "chosen": _chosen(coupling, mask),
        "layers": [_layer(layer, names, mask, costs) for layer in layers],
        "groups": [_group(number, layers, mask, costs, scores) for number in range(len(names))],
        "pinned": _pinned(coupling.pinned),
        "branches": branches_told(coupling, mask.branches),
        "weights": zeros_told(mask),
    }


def branches_told(coupling: Coupling, names: Collection[str] | None = None) -> list[dict[str, Any]]:
    """All branches, or those of these names, by the values that their sums put out, and the shares that go."""
    everything, told = np.ones(coupling.units, bool), []
    for branch in coupling.model.branches:
        if names is not None and branch.name not in names:
            continue
        costs = coupling.closing([branch.name]).cost_model
        told.append({
            "branch": branch.name,
            "node": branch.label,
            "shortcut": branch.shortcut,
            "nodes": len(branch.nodes),
            **{kind: 1 - costs.ratio(everything, kind) for kind in ("flops", "params")},
            "within": list(branch.within),
            "layer": branch.layer,
        })  # fmt: skip
    return told


def zeros_told(mask: Mask) -> list[dict[str, Any]]:
    """How many elements are left of each weight that has zeros."""
    return [
        {"weight": name, "kept": int(part.sum()), "of": int(part.size)} for name, part in mask.weights.items()
    ]


def _chosen(coupling: Coupling, mask: Mask) -> list[dict[str, Any]]:
    """What stays where alternatives met."""
    gone = {*mask.branches}
    return [
        {"node": meeting.label, "kept": [a.value for a in meeting.alternatives if a.name not in gone]}
        for meeting in coupling.meetings
    ]


class _Costs:
    """FLOPs and parameters of nodes before and after, and which groups each node is in."""

    def __init__(self, coupling: Coupling, mask: Mask) -> None:
        self.coupling, model = coupling, coupling.cost_model
        self.counts, self.left = model.open_counts(mask.open), mask.counted(coupling).cost_model
        self.flops = self._both("flops")
        by_weight, self.params = self._both("params"), dict[str, Pair]()
        left = dict(by_weight)
        groups = {axis.value: set[int]() for axis, _ in coupling.cut_axes}
        for axis, units in coupling.cut_axes:
            groups[axis.value].update(np.unique(coupling.group_of[units[units >= 0]]).tolist())
        self.nodes: list[list[str]] = [[] for _ in coupling.groups]
        for node in coupling.model.nodes:
            held = [left.pop(name) for name in dict.fromkeys(node.inputs) if name in left]
            self.params[node.label] = _sum(held)
            for group in set().union(*(groups.get(name, set()) for name in node.inputs)):
                self.nodes[group].append(node.label)

    def _both(self, kind: str) -> dict[str, Pair]:
        model = self.coupling.cost_model
        before, after = model.by_owner(kind), self.left.by_owner(kind, self.counts)
        return {name: [cost, after.get(name, 0.0)] for name, cost in before.items()}

    def of(self, nodes: Iterable[str]) -> dict[str, Pair]:
        """FLOPs and parameters of some nodes."""
        names = list(nodes)
        return {
            "flops": _sum(self.flops.get(name, [0.0, 0.0]) for name in names),
            "params": _sum(self.params.get(name, [0.0, 0.0]) for name in names),
        }

    def saved_alone(self, group: Group) -> float:
        """The share of all FLOPs that closing units of this group and of no other saves."""
        model = self.coupling.cost_model
        kinds = np.unique(model.kind_of[group.units])
        counts = model.sizes.copy()
        counts[kinds] = self.counts[kinds]
        return 1 - model.count("flops", counts) / max(model.total("flops"), 1e-30)


def _sum(pairs: Iterable[Pair]) -> Pair:
    total = np.sum([[0.0, 0.0], *pairs], axis=0)
    return [float(total[0]), float(total[1])]


def _layer(layer: Layer, names: list[str], mask: Mask, costs: _Costs) -> dict[str, Any]:
    return {
        "name": layer.name,
        "node": layer.node,
        "op": layer.op_type,
        "before": layer.channels,
        "after": layer.kept(mask.open),
        "group": None if layer.group is None else names[layer.group],
        **costs.of([layer.node]),
    }


def _group(
    number: int, layers: list[Layer], mask: Mask, costs: _Costs, scores: Scores | None
) -> dict[str, Any]:
    group = costs.coupling.groups[number]
    opened = mask.open[group.units]
    return {
        "name": group.name,
        "units": group.size,
        "kept": int(opened.sum()),
        "width": group.width,
        "layers": [layer.name for layer in layers if layer.group == number],
        "saved": 0.0 if opened.all() else costs.saved_alone(group),
        "scores": None if scores is None else _scores(scores[group.units], opened),
        **costs.of(costs.nodes[number]),
    }


def _scores(scores: Scores, opened: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    """The mean of what is kept and of what is cut."""
    parts = {"kept": scores[opened], "cut": scores[~opened]}
    return {name: float(part.mean()) if len(part) else None for name, part in parts.items()}


def _pinned(pins: Iterable[Pinned]) -> list[Mapping[str, Any]]:
    """By reason and operator, the most frequent first, with the first places of each."""
    alike: dict[tuple[str, str], list[Pinned]] = {}
    for pin in pins:
        alike.setdefault((pin.reason, pin.op_type), []).append(pin)
    found = [
        {
            "reason": reason,
            "op_type": op_type,
            "count": len(held),
            "where": [f"{p.value}[{p.axis}]" + (f" at {p.node}" if p.node else "") for p in held[:WHERE]],
        }
        for (reason, op_type), held in alike.items()
    ]
    return sorted(found, key=lambda entry: -entry["count"])
