"""What a pruned file says of where it comes from: `tgonnx.*` in its metadata, beside what the original says there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata

import onnx

from tgonnx.io.checker import without_initializers

VERSION, TARGET, MASK, ORIGINAL = "tgonnx.version", "tgonnx.target", "tgonnx.mask", "tgonnx.original"
STAMPS = (VERSION, TARGET, MASK, ORIGINAL)
Indices = Mapping[str, Mapping[int, Iterable[int]]]  # initializer -> axis -> rising indices that stay


def stamp(pruned: onnx.ModelProto, original: str, mask: str, target: str = "") -> None:
    """Write into `pruned`, in place, what cut it; what an earlier cut wrote goes.

    `original` is a `hash_of`, `mask` a `hash_of_kept`; `target` is left out where the choice was made without one.
    """
    told = {
        VERSION: metadata.version("tgonnx"),
        TARGET: target,
        MASK: mask,
        ORIGINAL: original,
    }
    others = [entry for entry in pruned.metadata_props if entry.key not in STAMPS]
    others += [onnx.StringStringEntryProto(key=key, value=value) for key, value in told.items() if value]
    del pruned.metadata_props[:]
    pruned.metadata_props.extend(others)


def cut_from(model: onnx.ModelProto, original: onnx.ModelProto) -> bool:
    """Whether a model says that it was cut from this one, whose names it then has."""
    said = {entry.value for entry in model.metadata_props if entry.key == ORIGINAL}
    return bool(said) and hash_of(original) in said


def say_original(pruned: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Name another original in a model that was stamped: the whole of which a part was cut."""
    for entry in pruned.metadata_props:
        if entry.key == ORIGINAL:
            entry.value = hash_of(original)


def hash_of_kept(kept: Indices, more: Mapping[str, object] | None = None) -> str:
    """SHA-256 of `initializers` of a mask file, {initializer: {"axis 0": [index, ...]}}: sorted, without spaces.

    `more` stands beside the initializers: what goes that no index says.
    """
    plain: dict[str, object] = {
        name: {f"axis {axis}": [int(i) for i in at] for axis, at in axes.items()}
        for name, axes in kept.items()
    }
    text = json.dumps(plain | dict(more or {}), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_of(model: onnx.ModelProto) -> str:
    """SHA-256 of the model as protobuf writes it, which is that of the file if protobuf wrote it into one.

    A model above 2 GB has no such bytes: there its graph and its initializers are hashed one after another.
    """
    if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        return hashlib.sha256(model.SerializeToString()).hexdigest()
    digest = hashlib.sha256(without_initializers(model).SerializeToString())
    for tensor in model.graph.initializer:
        digest.update(tensor.SerializeToString())
    return digest.hexdigest()
