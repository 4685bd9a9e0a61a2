"""What a run must find again to go on bit by bit: versions, threads, the model and the data."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np
import onnx

from tgonnx.data.array_samples import ArraySamples
from tgonnx.data.samples import Dataset, Split
from tgonnx.graph.types import Array
from tgonnx.io.checker import without_initializers
from tgonnx.runtime.sessions import import_onnxruntime
from tgonnx.selection.mask import Mask

LOOKED_AT = 64  # samples that stand for data that are not in memory


def identity(model: onnx.ModelProto, dataset: Dataset, threads: int | None) -> dict[str, Any]:
    """Plain values by name, equal where a run computes the same bits."""
    return {
        "tgonnx": metadata.version("tgonnx"),
        "onnxruntime": import_onnxruntime().__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": threads or _cores(),
        "model": hash_of_model(model),
        "data": hash_of_data(dataset),
    }


def hash_of_model(model: onnx.ModelProto) -> str:
    """SHA-256 of all of a model, which may be larger than a protobuf can be."""
    digest = hashlib.sha256(without_initializers(model).SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def hash_of_mask(mask: Mask) -> str:
    """SHA-256 of what a mask keeps."""
    size = "\0".join((str(len(mask.open)), *mask.branches))
    digest = hashlib.sha256(np.packbits(mask.open).tobytes() + size.encode())
    for name, part in mask.weights.items():
        digest.update(name.encode() + np.packbits(part).tobytes())
    return digest.hexdigest()


def hash_of_data(dataset: Dataset) -> str:
    """SHA-256 of the data: of all arrays in memory; of files, of the answers and of some samples."""
    digest = hashlib.sha256()
    for split in filter(None, (dataset.train, dataset.held_out)):
        for array in _parts(split):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _parts(split: Split) -> Iterator[Array]:
    yield split.indices
    answers = split.samples.answers
    yield from (answers[name] for name in sorted(answers))
    parts = [part for part in split.samples.parts if isinstance(part, ArraySamples)]
    for part in parts:
        yield np.array(part.scale)
        yield from (part.inputs[name] for name in sorted(part.inputs))
    if not parts:
        alike = split.one_shape()
        some = np.unique(np.linspace(0, len(alike) - 1, LOOKED_AT).astype(np.intp))
        feeds = split.take(alike[some]).feeds
        yield from (feeds[name] for name in sorted(feeds))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
