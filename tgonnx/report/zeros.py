"""What a run tells of weights that became zero."""

from __future__ import annotations

from typing import Any

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
