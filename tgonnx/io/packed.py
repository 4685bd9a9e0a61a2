"""How large a model's file is if it is compressed: exact zeros take next to nothing then."""

from __future__ import annotations

import zlib

import onnx

from tgonnx.io.checker import without_initializers

LEVEL = 6  # of deflate, as gzip and zip have it unless they are asked for another


def compressed_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the file after deflate; of a model above 2 GB, of its initializers one after another."""
    packer = zlib.compressobj(LEVEL)
    if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        parts = iter([model.SerializeToString()])
    else:
        whole = (without_initializers(model), *model.graph.initializer)
        parts = (part.SerializeToString() for part in whole)
    return sum(len(packer.compress(part)) for part in parts) + len(packer.flush())
