"""The choice: one bool for each unit, and the file that holds it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Attention, Coupling
from tgonnx.errors import UsageError
from tgonnx.io.checker import describe
from tgonnx.io.save import save_text

Open = npt.NDArray[np.bool_]
MAX_UNITS, MAX_BYTES = 2**24, 2**28  # of a mask file


@dataclass(frozen=True)
class Mask:
    """Which units stay. `open[u]` is True where unit u is kept; `groups` names and sizes the groups in unit order.

    `attention` is how the coupling was analysed that the mask belongs to.
    """

    open: Open
    groups: tuple[tuple[str, int], ...] = field(default=())
    attention: Attention = "heads"

    @classmethod
    def all_open(cls, coupling: Coupling) -> Mask:
        return cls(np.ones(coupling.units, bool), _outline(coupling), coupling.attention)

    @classmethod
    def of(cls, coupling: Coupling, open_units: Open) -> Mask:
        """Raises UsageError if the size does not fit or a group would be emptied."""
        mask = cls(np.asarray(open_units, bool), _outline(coupling), coupling.attention)
        mask.check(coupling)
        return mask

    def check(self, coupling: Coupling) -> None:
        """Raise UsageError unless the mask belongs to this model and leaves every group something."""
        if len(self.open) != coupling.units or self.groups != _outline(coupling):
            raise UsageError(
                f"the mask has {len(self.open)} units in other groups than the model's {coupling.units}"
            )
        for group in coupling.groups:
            if not self.open[group.units].any():
                raise UsageError(f"the mask empties group {group.name}")
        counts = np.bincount(coupling.kind_of[self.open], minlength=int(coupling.kind_of.max(initial=-1)) + 1)
        if any(not counts[list(kinds)].any() for kinds in coupling.guards):
            raise UsageError("the mask leaves an axis without channels")

    def save(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        protect: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        """Write JSON, completely or not at all: for each group its name, size and the kept units.

        `protect` lists files that must not be overwritten. Raises UsageError.
        """
        start, entries = 0, []
        for name, size in self.groups:
            kept = np.flatnonzero(self.open[start : start + size]).tolist()
            entries.append({"group": name, "units": size, "keep": kept})
            start += size
        document = {"format": "tgonnx-mask-1", "attention": self.attention, "groups": entries}
        save_text(json.dumps(document, indent=1) + "\n", path, overwrite, protect)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mask:
        """Read a mask. Raises UsageError naming the file and what is wrong with it."""
        try:
            data = json.loads(_read(Path(path)))
            if data["format"] != "tgonnx-mask-1":
                raise ValueError(f"format {data['format']!r} is not tgonnx-mask-1")
            attention: Attention = data["attention"]
            if attention not in ("heads", "head-dim"):
                raise ValueError(f"attention {attention!r} is not heads or head-dim")
            groups = tuple((str(entry["group"]), _size(entry["units"])) for entry in data["groups"])
            if sum(size for _, size in groups) > MAX_UNITS:
                raise ValueError(f"more than {MAX_UNITS:,} units")
            parts = [
                _kept(entry["keep"], size) for entry, (_, size) in zip(data["groups"], groups, strict=True)
            ]
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise UsageError(f"{path}: not a mask file ({describe(error, 120)})") from None
        return cls(np.concatenate(parts) if parts else np.zeros(0, bool), groups, attention)


def _read(path: Path) -> str:
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


def _kept(keep: object, size: int) -> Open:
    """One bool for each of `size` units, from the numbers of those that stay."""
    numbers = np.array(keep) if keep else np.zeros(0, np.int64)
    if numbers.dtype.kind != "i" or numbers.ndim != 1 or (numbers < 0).any() or (numbers >= size).any():
        raise ValueError(f"what is kept are no numbers below {size}")
    part = np.zeros(size, bool)
    part[numbers] = True
    return part


def _outline(coupling: Coupling) -> tuple[tuple[str, int], ...]:
    return tuple((group.name, group.size) for group in coupling.groups)
