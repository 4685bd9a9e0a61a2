"""What `eval` shows: a row for each model, as a table and as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from tgonnx.io.summary import byte_count
from tgonnx.pipeline import Evaluation
from tgonnx.report.cells import quiet, row


def evaluation_table(found: Evaluation) -> Table:
    """Metric and agreement of each model, size of its file, latency; speed is relative to the first."""
    titles = [found.metric] if found.metric else []
    others = [*found.models[0].others]
    columns = [*titles, found.agreement, *others, "size", "latency", "speed"]
    table = quiet("", "model", *(f">{title}" for title in columns))
    for model in found.models:
        figures = [model.metric, model.agreement] if model.metric is not None else [model.agreement]
        row(
            table,
            model.name,
            *(f"{figure:.4g}" for figure in (*figures, *model.others.values())),
            byte_count(model.file_bytes),
            f"{model.latency.p50:.2f} ms",
            f"{found.models[0].latency.p50 / model.latency.p50:.2f} x",
        )
    return table


def measured_on(found: Evaluation) -> str:
    """Which samples, and what is compared with what."""
    return f"measured on {found.samples:,} samples ({found.part}); {found.agreement} is with {found.models[0].name}"


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    """All that `eval` knows."""
    return {
        "samples": found.samples,
        "part": found.part,
        "metric": found.metric,
        "agreement": found.agreement,
        "models": [asdict(model) for model in found.models],
    }
