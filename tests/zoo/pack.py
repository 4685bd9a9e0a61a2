"""Graphs of real exporters without their weights, a few kilobytes each.

    python tests/zoo/pack.py MODEL.onnx ...     # packs into the folder of this file

A large tensor of floats is kept as its shape and, in its doc string, its mean, spread and sign. Unpacking draws it
again from a generator seeded by its name: everywhere the same numbers, finite outputs, nothing learned.
"""

from __future__ import annotations

import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
SUFFIX = ".onnx.xz"
FLOATS = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.FLOAT16: "int32_data",
}
LARGE = 256  # elements; smaller tensors are kept as they are
DRAWN = "drawn"


def pack(model: onnx.ModelProto) -> bytes:
    """The compressed structure of `model`, which is changed."""
    for tensor in tensors(model.graph):
        if tensor.data_type in FLOATS and int(np.prod(tensor.dims)) >= LARGE:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            if np.isfinite(values).all() and len(np.unique(values.ravel()[:4096])) > 8:  # no mask, no table
                tensor.doc_string = f"{DRAWN} {values.mean():.6g} {values.std():.6g} {values.min():.6g}"
                tensor.ClearField("raw_data")
                tensor.ClearField(FLOATS[tensor.data_type])
    return lzma.compress(model.SerializeToString(), preset=9)


def unpack(packed: Path) -> onnx.ModelProto:
    """The model of a packed file, weights drawn."""
    model = onnx.load_from_string(lzma.decompress(packed.read_bytes()))
    for tensor in tensors(model.graph):
        if tensor.doc_string.startswith(DRAWN):
            mean, spread, least = map(float, tensor.doc_string.split()[1:])
            tensor.ClearField("doc_string")
            rng = np.random.default_rng(zlib.crc32(tensor.name.encode()))
            values = rng.normal(mean, spread, tuple(tensor.dims))
            if least >= 0:  # variances
                values = np.abs(values) + max(least, 1e-3)
            tensor.raw_data = values.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).tobytes()
    return model


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and the values of Constant nodes, those of inner graphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from tensors(attribute.g)


if __name__ == "__main__":
    for name in map(Path, sys.argv[1:]):
        target = HERE / (name.stem + SUFFIX)
        target.write_bytes(pack(onnx.load(name)))
        print(target.name, target.stat().st_size)
