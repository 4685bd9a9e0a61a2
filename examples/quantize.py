"""Static int8 of a model, calibrated on samples of an .npz with arrays named like the model's inputs.

    python examples/quantize.py model.onnx data.npz int8.onnx

The quantiser is onnxruntime's. Prune first, then quantise: int8 models cannot be trained on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Samples(CalibrationDataReader):
    """One sample at a time, pixels of bytes as the fractions of 255 that the model learned from."""

    def __init__(self, model: Path, data: Path, count: int) -> None:
        graph = onnx.load(model).graph
        stored = {tensor.name for tensor in graph.initializer}
        names = [value.name for value in graph.input if value.name not in stored]
        with np.load(data) as arrays:
            values = {name: arrays[name][:count] for name in names}
        self.rows = iter(self.samples(values))

    def samples(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for at in range(len(next(iter(values.values())))):
            rows = {name: value[at : at + 1] for name, value in values.items()}
            yield {n: np.float32(row / 255.0) if row.dtype == np.uint8 else row for n, row in rows.items()}

    def get_next(self) -> dict[str, Any] | None:
        return next(self.rows, None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=256)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"  # BatchNormalization folded into the convolutions
        quant_pre_process(str(given.model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(given.out),
            Samples(given.model, given.data, given.samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    print(f"wrote {given.out}: {given.out.stat().st_size / given.model.stat().st_size:.0%} of the size")
    return 0


if __name__ == "__main__":
    sys.exit(main())
