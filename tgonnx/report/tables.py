"""What the command line shows: tables for people, the same as plain data for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx
from rich.table import Table
from rich.text import Text

from tgonnx.analysis.cost import Cost, CostModel
from tgonnx.analysis.coupling import Coupling, Group, Pinned
from tgonnx.analysis.input_shapes import shapes_text
from tgonnx.analysis.shapes import Shape
from tgonnx.errors import ModelError, UnsupportedError
from tgonnx.graph.declared import describe_type
from tgonnx.io.notes import notes_to_json
from tgonnx.io.summary import amount, byte_count
from tgonnx.io.visible import visible
from tgonnx.pipeline import PruneResult
from tgonnx.pipeline.result import Timed
from tgonnx.report.cells import quiet as _table
from tgonnx.report.cells import row as _row
from tgonnx.report.zeros import weights_line
from tgonnx.runtime.doctor import Diagnosis
from tgonnx.runtime.equivalence import Check
from tgonnx.runtime.latency import Latency, latency
from tgonnx.runtime.one_sample import timing_feeds

SHORT_LIST = 12  # rows of a long table without -v


@dataclass(frozen=True)
class Facts:
    """One model in figures: cost, bytes of its file, milliseconds (p50), and a metric on held-out data.

    `others` are the figures of further outputs by what they are called; `compressed_bytes` are those of the file after
    deflate, if that was looked at.
    """

    cost: Cost
    file_bytes: int
    latency: float | None = None
    metric: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    compressed_bytes: int | None = None


def comparison(
    before: Facts,
    after: Facts,
    check: Check | None = None,
    metric: str = "metric",
    timed: Timed | None = None,
) -> Table:
    """The table that ends a run of `prune`: before, after, and what is left."""
    table = _table("", "", ">before", ">after", ">left")
    rows: list[tuple[str, float | None, float | None, Any]] = [
        ("FLOPs", before.cost.flops, after.cost.flops, amount),
        ("parameters", before.cost.params, after.cost.params, amount),
        ("channels", before.cost.channels, after.cost.channels, amount),
        ("file size", before.file_bytes, after.file_bytes, byte_count),
        ("compressed", before.compressed_bytes, after.compressed_bytes, byte_count),
        ("CPU latency (p50)", before.latency, after.latency, lambda value: f"{value:.2f} ms"),
    ]
    for name, old, new, write in rows:
        if old is not None and new is not None:
            _row(table, name, write(old), write(new), f"{new / old:.1%}" if old else "")
    if timed is not None:
        _row(table, "latency in turns", "", f"{timed.predicted:.1%} predicted", f"{timed.after.share:.1%}")
    if before.metric is not None and after.metric is not None:
        measured = [(metric, before.metric, after.metric)]
        measured += [(name, old, after.others[name]) for name, old in before.others.items()]
        for name, was, now in measured:
            _row(table, name, f"{was:.4g}", f"{now:.4g}", f"{now - was:+.4g}")
    if check is not None:
        _row(
            table,
            "verification",
            "",
            f"{check.max_rel:.1e} relative",
            "ok" if check.ok else check.verdict.upper(),
        )
    return table


def comparison_json(before: Facts, after: Facts, check: Check | None = None) -> dict[str, Any]:
    """The figures of `comparison`."""
    return {
        "before": asdict(before),
        "after": asdict(after),
        "verification": None if check is None else check_json(check),
    }


def facts(result: PruneResult, original: onnx.ModelProto, threads: int = 0) -> tuple[Facts, Facts]:
    """The original and the pruned model in figures, their latencies taken in turns, at the size that is counted at."""
    if result.timed is not None:
        times: list[float | None] = [result.timed.before.p50, result.timed.after.p50]
        return _both(result, times)
    try:
        feeds = timing_feeds(original, result.counted_at, 1, threads)
        times = [t.p50 for t in latency([original, result.model], [feeds, feeds], 50, threads)]
    except (ModelError, UnsupportedError):  # custom operators: nothing here runs them
        times = [None, None]
    return _both(result, times)


def _both(result: PruneResult, times: Sequence[float | None]) -> tuple[Facts, Facts]:
    before, after = (
        Facts(part.cost, part.file_bytes, milliseconds, part.metric, part.others, part.compressed_bytes)
        for part, milliseconds in zip((result.before, result.after), times, strict=True)
    )
    return before, after


def counted_text(shapes: Mapping[str, Shape]) -> str:
    """Where costs depend on it: at which size they are counted."""
    return f"counted at {visible(shapes_text(shapes))}" if shapes else ""


def sweep_table(outs: Sequence[str], results: Sequence[PruneResult]) -> Table:
    """The models of a sweep beside the original."""
    figure = results[0].metric_label
    table = _table("", "file", ">left", ">FLOPs", ">size", f">{figure}", ">change")
    original = results[0].before
    _row(
        table,
        "original",
        "",
        amount(original.cost.flops),
        byte_count(original.file_bytes),
        _figure(original.metric),
        "",
    )
    for out, result in zip(outs, results, strict=True):
        after, metric = result.after, result.after.metric
        change = "" if metric is None or original.metric is None else f"{metric - original.metric:+.4g}"
        left = f"{result.achieved:.1%} {result.target.kind}"
        _row(
            table, out, left, amount(after.cost.flops), byte_count(after.file_bytes), _figure(metric), change
        )
    return table


def _figure(metric: float | None) -> str:
    return "" if metric is None else f"{metric:.4g}"


def prune_json(out: str, result: PruneResult, before: Facts, after: Facts) -> dict[str, Any]:
    """Everything a run of `prune` has to tell."""
    return {
        "out": out,
        "target": {"kind": result.target.kind, "ratio": result.target.value},
        "achieved": result.achieved,
        "also": {
            each.kind: {"ratio": each.value, "left": result.also[each.kind]} for each in result.target.also
        },
        "counted_at": {name: list(shape) for name, shape in result.counted_at.items()},
        "target_met": result.target_met,
        "metric": result.metric_name,
        "samples": dict(result.samples),
        **comparison_json(before, after, result.check),
        "notes": notes_to_json(result.notes),
        "timed": None if result.timed is None else asdict(result.timed),
        "history": [asdict(record) for record in result.history],
    }


# --- inspect ----------------------------------------------------------------------------------------


def named_lines(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what is said of them."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        _row(grid, *row)
    return grid


def overview(name: str, model: onnx.ModelProto, file_bytes: int, coupling: Coupling, cost: Cost) -> Table:
    """The model on a few lines."""
    table = Table(box=None, show_header=False, pad_edge=False)
    prunable = f"{coupling.units:,} units in {len(coupling.groups)} groups"
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    uncounted = coupling.cost_model.uncounted
    without = f", not counting {_abridged(uncounted, 3)}" if uncounted else ""
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    for key, value in (
        ("model", f"{name} ({byte_count(file_bytes)})"),
        ("opset", f"{opsets}; IR {model.ir_version}"),
        ("inputs", "; ".join(f"{value.name} {describe_type(value)}" for value in inputs)),
        ("outputs", "; ".join(f"{value.name} {describe_type(value)}" for value in model.graph.output)),
        ("FLOPs", f"{amount(cost.flops)} per sample{without}"),
        ("", counted_text(coupling.model.counted_at)),
        ("parameters", amount(cost.params)),
        ("prunable", f"{prunable}, {cost.channels:,} channels" if coupling.units else "nothing"),
        ("branches", _counted(len(coupling.branches), "residual branches may go whole")),
        ("single weights", weights_line(coupling.model)),
    ):
        table.add_row(Text(key, style="dim"), Text(visible(value)))
    return table


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number else "none"


@dataclass(frozen=True)
class Layer:
    """A node with its share of the cost; an initializer counts for its first reader."""

    node: str
    op_type: str
    flops: float
    params: float


def layers(costs: CostModel) -> list[Layer]:
    """The nodes that cost something, in the order of the graph."""
    model = costs.coupling.model
    flops, params = costs.by_owner("flops"), dict(costs.by_owner("params"))
    found = []
    for node in model.nodes:
        owned = sum(params.pop(name, 0.0) for name in node.inputs)
        work = flops.get(node.label, 0.0)
        if owned or work:
            found.append(Layer(node.label, node.op_type, work, owned))
    return found


def layer_table(found: Sequence[Layer], everything: bool) -> Table:
    """Layers by FLOPs, the largest only unless `everything`."""
    table = _table("Layers", "node", "operator", ">FLOPs", ">share", ">parameters")
    total = sum(layer.flops for layer in found) or 1.0
    shown = list(found)
    if not everything:
        largest = sorted(found, key=lambda layer: (-layer.flops, -layer.params))[:SHORT_LIST]
        shown = [layer for layer in found if layer in largest]
    for layer in shown:
        share = f"{layer.flops / total:.1%}"
        _row(table, layer.node, layer.op_type, amount(layer.flops), share, amount(layer.params))
    _rest(table, len(found) - len(shown), "smaller layers")
    return table


def group_table(groups: Sequence[Group], members: bool) -> Table:
    """The coupled groups; with `members`, every axis in them."""
    table = _table("Coupled groups", "group", ">units", ">channels per unit", "members")
    for group in groups:
        listed = [str(member) for member in group.members]
        shown = listed if members else _abridged(listed, 3)
        _row(table, group.name, str(group.size), str(group.width), shown)
    return table


def pinned_table(pinned: Sequence[Pinned], everything: bool) -> Table:
    """Axes of weights that cannot be cut, with node and reason; one line a reason unless `everything`."""
    if everything:
        table = _table("Pinned axes", "axis", ">kept", "node", "operator", "reason")
        for pin in pinned:
            _row(table, f"{pin.value}[{pin.axis}]", str(pin.kept), pin.node, pin.op_type, pin.reason)
        return table
    table = _table("Pinned axes (-v lists each)", "reason", "operator", ">axes", "where")
    alike: dict[tuple[str, str], list[Pinned]] = {}
    for pin in pinned:
        alike.setdefault((pin.reason, pin.op_type), []).append(pin)
    for (reason, op_type), pins in alike.items():
        where = _abridged([pin.node or pin.value for pin in pins], 2)
        _row(table, reason, op_type, str(len(pins)), where)
    return table


def why_table(coupling: Coupling, pinned: Sequence[Pinned]) -> Table:
    """How the reason reaches each pinned axis, operator by operator."""
    table = _table("Why they stay", "axis", ">kept", "way", "reason")
    for pin in pinned:
        nodes = [step for step in coupling.why(pin) if isinstance(step, str)]
        way = list(dict.fromkeys([*nodes, pin.node or f"the model's {pin.op_type}"]))
        _row(table, f"{pin.value}[{pin.axis}]", str(pin.kept), way, pin.reason)
    return table


def _rest(table: Table, count: int, what: str) -> None:
    if count > 0:
        _row(table, f"and {count} {what} (-v shows all)", style="dim")


def _abridged(names: Sequence[str], count: int) -> str:
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def inspect_json(
    name: str, model: onnx.ModelProto, file_bytes: int, coupling: Coupling, costs: CostModel
) -> dict[str, Any]:
    """All that `inspect` knows."""
    return {
        "model": name,
        "bytes": file_bytes,
        "ir_version": model.ir_version,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": {value.name: describe_type(value) for value in coupling.model.inputs.values()},
        "outputs": {value.name: describe_type(value) for value in model.graph.output},
        "cost": asdict(costs.cost()),
        "counted_at": {name: list(shape) for name, shape in coupling.model.counted_at.items()},
        "layers": [asdict(layer) for layer in layers(costs)],
        "uncounted": list(costs.uncounted),
        **coupling.to_json(),
    }


# --- verify, bench, doctor --------------------------------------------------------------------------


def check_table(check: Check) -> Table:
    """The result of `verify`."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row(Text("verdict", style="dim"), Text(check.verdict, style="green" if check.ok else "red"))
    for reason in (*check.reasons, *check.inconclusive):
        table.add_row("", Text(visible(reason)))
    if check.samples:
        table.add_row(Text("largest absolute difference", style="dim"), f"{check.max_abs:.3g}")
        allowed = f"{check.max_rel:.3g} (allowed: {check.tolerance:.1g})"
        table.add_row(Text("largest relative difference", style="dim"), allowed)
        table.add_row(Text("samples", style="dim"), str(check.samples))
        table.add_row(Text("sizes", style="dim"), Text("\n".join(check.sizes)))
        for title, entries in (("not tried", check.skipped), ("up to the inputs of", check.up_to)):
            if entries:
                table.add_row(Text(title, style="dim"), Text("\n".join(entries)))
        table.add_row(Text("ran by", style="dim"), Text(check.ran_by))
    return table


def check_json(check: Check) -> dict[str, Any]:
    """The result of `verify` with its verdict."""
    return {"ok": check.ok, "verdict": check.verdict, **asdict(check)}


def latency_table(names: Iterable[str], results: Sequence[Latency]) -> Table:
    """The result of `bench`; speed is relative to the first model."""
    table = _table("CPU latency", "model", ">p50", ">p90", ">runs", ">speed")
    for name, result in zip(names, results, strict=True):
        speed = f"{results[0].p50 / result.p50:.2f} x"
        _row(table, name, f"{result.p50:.3f} ms", f"{result.p90:.3f} ms", str(result.runs), speed)
    return table


def step_table(names: Iterable[str], results: Sequence[Latency], batch: int) -> Table:
    """The result of `bench --train`; a step beside that of the first model."""
    table = _table(
        f"Training steps of {batch} samples", "model", "engine", ">p50", ">p90", ">CPU", ">steps", ">time"
    )
    for name, result in zip(names, results, strict=True):
        times = (f"{each:.1f} ms" for each in (result.p50, result.p90, result.cpu))
        _row(table, name, result.ran_by, *times, str(result.runs), f"{result.share:.2f} x")
    return table


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    """The result of `doctor`."""
    table = Table(box=None, show_header=False, pad_edge=False)
    versions = ", ".join(
        f"{name} {version or 'not installed'}" for name, version in diagnosis.versions.items()
    )
    installed = ", ".join(f"{name} {version}" for name, version in diagnosis.runtimes.items()) or "none"
    for key, value in (
        ("Python", f"{diagnosis.python} on {diagnosis.platform}"),
        ("packages", versions),
        ("onnxruntime packages", installed),
        ("onnxruntime importable", diagnosis.importable or "no"),
        ("engine", f"{diagnosis.engine or 'none'}: {diagnosis.why}"),
    ):
        table.add_row(Text(key, style="dim"), Text(value))
    for problem in diagnosis.problems:
        table.add_row(Text("problem", style="red"), Text(problem))
    if diagnosis.remedy:
        table.add_row(Text("remedy", style="green"), Text(diagnosis.remedy, overflow="fold"))
    if diagnosis.ok:
        table.add_row(Text("verdict", style="dim"), Text("everything works", style="green"))
    return table
