"""Checkpoints: arrays in a safetensors file, and a manifest that says what they are.

The manifest is written after the arrays and names their checksum and its own: a checkpoint is complete, or it is
none. Both files are written beside their place, flushed and renamed, so that what was there before stays until then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tgonnx.errors import UsageError
from tgonnx.graph.types import Array
from tgonnx.io.save import save_bytes, save_text

FORMAT = "tgonnx-checkpoint-1"
TENSORS, MANIFEST = ".safetensors", ".json"


def write(folder: Path, name: str, tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint over one of the same name. Raises UsageError naming the file and the system's reason."""
    import safetensors.numpy

    data = safetensors.numpy.save(dict(tensors))
    document = {
        "format": FORMAT,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "facts": facts,
    }
    save_bytes(data, folder / f"{name}{TENSORS}", overwrite=True)
    text = json.dumps(document | {"checksum": _checksum(document)}, indent=1) + "\n"
    save_text(text, folder / f"{name}{MANIFEST}", overwrite=True)


def read(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Facts and tensors of a checkpoint. Raises UsageError if it is not there or not what was written."""
    import safetensors.numpy

    place = folder / f"{name}{MANIFEST}"
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        if document.pop("checksum", None) != _checksum(document) or document["format"] != FORMAT:
            raise UsageError(f"{place}: damaged, or not a checkpoint")
        place = folder / f"{name}{TENSORS}"
        data = place.read_bytes()
    except OSError as error:
        raise UsageError(f"{place}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{place}: damaged, or not a checkpoint") from None
    if len(data) != document["bytes"] or hashlib.sha256(data).hexdigest() != document["sha256"]:
        raise UsageError(f"{place}: damaged: its checksum is not the one of the manifest")
    return document["facts"], safetensors.numpy.load(data)


def names(folder: Path) -> list[str]:
    """The complete checkpoints of a folder, in order of their names."""
    return sorted(path.name.removesuffix(MANIFEST) for path in folder.glob(f"*{MANIFEST}"))


def remove_others(folder: Path, kept: Iterable[str]) -> None:
    """Remove all checkpoints but the kept ones, manifest first: what is left over is no checkpoint."""
    chosen = set(kept)
    for ending in (MANIFEST, TENSORS):
        for path in folder.glob(f"*{ending}"):
            if path.name.removesuffix(ending) not in chosen:
                with suppress(OSError):
                    path.unlink()


def _checksum(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
