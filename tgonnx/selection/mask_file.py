"""Mask files: JSON that says what is kept, for tgonnx by units, for everybody else by initializer and axis.

Format 2 says which structure of a model the mask belongs to, too; format 1 has neither that nor initializers. Format 3
is format 2 with the branches that are removed, and format 4 with the elements that stay of weights that get zeros:
where there are none, format 2 is written.
`docs/masks.md` describes both.
"""

from __future__ import annotations

import base64
import json
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Attention
from tgonnx.errors import UsageError
from tgonnx.io.checker import describe

Open = npt.NDArray[np.bool_]
Elements = Mapping[str, npt.NDArray[np.bool_]]  # initializer -> which of its elements stay
Kept = Mapping[str, Mapping[int, npt.NDArray[np.int64]]]  # initializer -> axis -> indices that stay

FORMATS = ("tgonnx-mask-1", "tgonnx-mask-2", "tgonnx-mask-3", "tgonnx-mask-4")
MAX_UNITS, MAX_BYTES, MAX_ELEMENTS = 2**24, 2**28, 2**30  # of a mask file
_DIGITS = 64  # of a SHA-256


@dataclass(frozen=True)
class Contents:
    """What a mask file says: see `Mask`, whose first fields these are."""

    open: Open
    groups: tuple[tuple[str, int], ...]
    attention: Attention
    structure: str = ""
    initializers: Kept = field(default_factory=dict)
    branches: tuple[str, ...] = ()
    weights: Elements = field(default_factory=dict)


def as_text(contents: Contents) -> str:
    """JSON with one line for each group and initializer; format 1 if the structure of the model is not known."""
    number = 3 if contents.weights else 2 if contents.branches else int(bool(contents.structure))
    document: dict[str, Any] = {"format": FORMATS[number]}
    if contents.structure:
        document |= {"tgonnx": metadata.version("tgonnx"), "structure": contents.structure}
    start, groups = 0, []
    for name, size in contents.groups:
        kept = np.flatnonzero(contents.open[start : start + size]).tolist()
        groups.append({"group": name, "units": size, "keep": kept})
        start += size
    document |= {"attention": contents.attention, "groups": groups}
    if contents.branches:
        document["removed branches"] = [*contents.branches]
    if contents.weights:
        document["weights"] = {name: _bits_of(part) for name, part in contents.weights.items()}
    if contents.structure:
        document["initializers"] = {
            name: {f"axis {axis}": indices.tolist() for axis, indices in axes.items()}
            for name, axes in contents.initializers.items()
        }
    entries = (f" {json.dumps(key)}: {_lines(value)}" for key, value in document.items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _lines(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(f"\n  {json.dumps(entry)}" for entry in value) + "\n ]"
    if isinstance(value, dict):
        entries = (f"\n  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
        return "{" + ",".join(entries) + "\n }"
    return json.dumps(value)


def read(path: str | os.PathLike[str]) -> Contents:
    """What a file says. Raises UsageError naming the file and what is wrong with it."""
    try:
        return _parsed(json.loads(_text(Path(path))))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, zlib.error, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path}: not a mask file ({describe(error, 120)})") from None


def _parsed(data: Any) -> Contents:
    if data["format"] not in FORMATS:
        raise ValueError(f"format {data['format']!r} is not {' or '.join(FORMATS)}")
    attention: Attention = data["attention"]
    if attention not in ("heads", "head-dim"):
        raise ValueError(f"attention {attention!r} is not heads or head-dim")
    groups = tuple((str(entry["group"]), _size(entry["units"])) for entry in data["groups"])
    if sum(size for _, size in groups) > MAX_UNITS:
        raise ValueError(f"more than {MAX_UNITS:,} units")
    parts = [_open(entry["keep"], size) for entry, (_, size) in zip(data["groups"], groups, strict=True)]
    opened = np.concatenate(parts) if parts else np.zeros(0, bool)
    if data["format"] == FORMATS[0]:
        return Contents(opened, groups, attention)
    kept = _initializers(data["initializers"])
    branches = _branches(data["removed branches"]) if data["format"] == FORMATS[2] else ()
    weights = _weights(data["weights"]) if data["format"] == FORMATS[3] else {}
    return Contents(opened, groups, attention, _hash(data["structure"]), kept, branches, weights)


def _text(path: Path) -> str:
    """The text of a file, unless it is one that does not end."""
    if not path.exists() or path.is_dir():
        return path.read_text()  # which says what is wrong
    if not path.is_file():
        raise ValueError("it is a device or a pipe")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
    return path.read_text(encoding="utf-8")


def _size(units: object) -> int:
    if type(units) is not int or units < 1:
        raise ValueError(f"a group of {units!r} units")
    return units


def _open(keep: object, size: int) -> Open:
    """One bool for each of `size` units, from the numbers of those that stay."""
    numbers = np.array(keep) if keep else np.zeros(0, np.int64)
    if numbers.dtype.kind != "i" or numbers.ndim != 1 or (numbers < 0).any() or (numbers >= size).any():
        raise ValueError(f"what is kept are no numbers below {size}")
    part = np.zeros(size, bool)
    part[numbers] = True
    return part


def _hash(text: object) -> str:
    if not isinstance(text, str) or len(text) != _DIGITS or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"structure {text!r} is not a SHA-256")
    return text


def _bits_of(part: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Shape and bits of an array of bools, the first bit being the highest of its byte."""
    packed = base64.b64encode(zlib.compress(np.packbits(part).tobytes(), 9)).decode()
    return {"shape": [*part.shape], "kept": int(part.sum()), "bits": packed}


def _weights(data: object) -> Elements:
    if not isinstance(data, dict):
        raise ValueError("weights are no mapping of names")
    return {str(name): _bits(name, entry) for name, entry in data.items()}


def _bits(name: str, entry: object) -> npt.NDArray[np.bool_]:
    if not isinstance(entry, dict):
        raise ValueError(f"weight {name!r} has neither shape nor bits")
    shape = tuple(_size(n) for n in entry["shape"])
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise ValueError(f"a weight of more than {MAX_ELEMENTS:,} elements")
    most = -(-count // 8)
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(base64.b64decode(entry["bits"], validate=True), most)
    if len(found) != most or unpacker.decompress(unpacker.unconsumed_tail, 1):
        raise ValueError(f"the bits of {name!r} of shape {list(shape)} are not {count:,}")
    return np.unpackbits(np.frombuffer(found, np.uint8), count=count).astype(bool).reshape(shape)


def _branches(data: object) -> tuple[str, ...]:
    """The names of sums whose branches are removed."""
    if (
        not isinstance(data, list)
        or not all(isinstance(name, str) for name in data)
        or len({*data}) < len(data)
    ):
        raise ValueError("removed branches are no list of different names")
    return tuple(data)


def _initializers(data: object) -> Kept:
    if not isinstance(data, dict):
        raise ValueError("initializers are no mapping of names")
    return {str(name): _axes(name, axes) for name, axes in data.items()}


def _axes(name: str, axes: object) -> dict[int, npt.NDArray[np.int64]]:
    if not isinstance(axes, dict):
        raise ValueError(f"initializer {name!r} has no mapping of axes")
    found = {}
    for key, keep in axes.items():
        word, _, number = key.partition(" ")
        indices = np.array(keep)
        if word != "axis" or not number.isdecimal():
            raise ValueError(f"initializer {name!r}: {key!r} is not an axis")
        if indices.dtype.kind != "i" or indices.ndim != 1 or (np.diff(indices, prepend=-1) < 1).any():
            raise ValueError(f"initializer {name!r}, {key}: what is kept are no rising indices")
        found[int(number)] = indices.astype(np.int64)
    return found
