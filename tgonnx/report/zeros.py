"""What is told of single weights: of those that may become zero, and of those that did."""

from __future__ import annotations

from typing import Any

from tgonnx.analysis.model import Model
from tgonnx.analysis.weights import counted_weights
from tgonnx.io.summary import amount
from tgonnx.pipeline import PruneResult
from tgonnx.pipeline.story import zeros_told


def zeros_text(result: PruneResult) -> str:
    """How many elements are left, and how many weights are stored sparsely."""
    layers = zeros_told(result.mask)
    kept, total = (sum(layer[key] for layer in layers) for key in ("kept", "of"))
    sparse = len(result.model.graph.sparse_initializer)
    stored = f"; {sparse} are stored sparsely" if sparse else ""
    return f"{amount(kept)} of {amount(total)} elements of {len(layers)} weights are not zero{stored}"


def zeros_json(result: PruneResult) -> dict[str, Any]:
    """What is left of each weight that has zeros; FLOPs are counted as if a runtime did not skip them."""
    return {
        "layers": zeros_told(result.mask),
        "compressed_bytes": result.after.compressed_bytes,
        "sparse": [tensor.values.name for tensor in result.model.graph.sparse_initializer],
    }


def weights_line(model: Model) -> str:
    """How many elements may become zero, and how many are not."""
    counts = counted_weights(model)
    kept, total = (sum(part[place] for part in counts.values()) for place in (0, 1))
    if not total:
        return "none"
    return f"{amount(total)} elements of {len(counts)} kernels and matrices, {kept / total:.1%} not zero"


def weights_json(model: Model) -> dict[str, Any]:
    """The same of each weight."""
    counts = counted_weights(model).items()
    return {"weights": [{"weight": name, "kept": kept, "of": total} for name, (kept, total) in counts]}
