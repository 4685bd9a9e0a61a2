"""What a run tells of weights that became zero."""

from __future__ import annotations

import zlib
from typing import Any

from tgonnx.io.summary import amount, byte_count
from tgonnx.pipeline import PruneResult

LEVEL = 6  # of the compression that a file is measured with


def zeros_text(result: PruneResult) -> str:
    """How many elements are left, and how large the file is if it is compressed."""
    told = zeros_json(result)
    kept, total = (sum(layer[key] for layer in told["layers"]) for key in ("kept", "of"))
    return (
        f"{amount(kept)} of {amount(total)} elements of {len(told['layers'])} weights are not zero; "
        f"the file has {byte_count(told['compressed_bytes'])} if compressed"
    )


def zeros_json(result: PruneResult) -> dict[str, Any]:
    """The same of each weight that has zeros; FLOPs are counted as if a runtime did not skip them."""
    layers = [
        {"weight": name, "kept": int(part.sum()), "of": int(part.size)}
        for name, part in result.mask.weights.items()
    ]
    return {
        "layers": layers,
        "compressed_bytes": len(zlib.compress(result.model.SerializeToString(), LEVEL)),
    }
