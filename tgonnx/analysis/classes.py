"""Classes of labels that live or die together: union-find, vectorised over arrays of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tgonnx.ops.aspects.relations import Labels, distinct, pairs, unique


class Classes:
    """Union-find over labels with pins, reasons and marks.

    A class is named by its smallest label. `reason[root]` is the number of the first reason why it is pinned, or
    `FREE`; `marked[root]` says whether a label of the class was marked. What happens between `begin` and `undo` can
    be taken back, at the cost of what was written in between.
    """

    FREE = np.iinfo(np.int32).max

    def __init__(self, size: int) -> None:
        self.parent: Labels = np.arange(size, dtype=np.int64)
        self.reason: npt.NDArray[np.int32] = np.full(size, self.FREE, np.int32)
        self.marked: npt.NDArray[np.bool_] = np.zeros(size, bool)
        self._written: list[tuple[npt.NDArray[Any], Labels, npt.NDArray[Any]]] | None = None

    def find(self, labels: Labels) -> Labels:
        """The class of each label."""
        root, above = labels, self.parent[labels]
        while True:
            top = self.parent[above]
            if np.array_equal(above, top):
                break
            self._write(self.parent, root, top)  # halves the path
            root, above = top, self.parent[top]
        if root is not labels:
            self._write(self.parent, labels, above)
        return above

    def union(self, a: Labels, b: Labels) -> None:
        """Make one class of the classes of `a[i]` and `b[i]`, for each i."""
        a, b = pairs(a, b)
        while True:
            ra, rb = self.find(a), self.find(b)
            apart = ra != rb
            if not apart.any():
                return
            low, high = np.minimum(ra, rb)[apart], np.maximum(ra, rb)[apart]
            both = np.concatenate([low, high])
            reason = np.minimum(self.reason[low], self.reason[high])
            marked = self.marked[low] | self.marked[high]
            for table in (self.parent, self.reason, self.marked):
                self._note(table, both)
            np.minimum.at(self.parent, high, low)
            np.minimum.at(self.reason, both, np.concatenate([reason, reason]))
            self.marked[low[marked]] = True
            a, b = a[apart], b[apart]

    def pin(self, labels: Labels, reason: int) -> None:
        """Pin the classes of `labels`; an earlier reason stays."""
        root = self.find(distinct(labels))
        self._write(self.reason, root, np.minimum(self.reason[root], reason))

    def mark(self, labels: Labels) -> None:
        self._write(self.marked, self.find(distinct(labels)), np.array(True))

    def pinned(self, labels: Labels) -> npt.NDArray[np.bool_]:
        return np.asarray(self.reason[self.find(labels)] != self.FREE, bool)

    def live(self, labels: Labels) -> int:
        """How many classes these labels are that are not pinned."""
        roots = self.find(distinct(labels))
        return len(unique(roots[self.reason[roots] == self.FREE]))

    def begin(self) -> None:
        """Note from now on what is overwritten."""
        self._written = []

    def keep(self) -> None:
        """Keep what happened since `begin`."""
        self._written = None

    def undo(self) -> None:
        """Take back what happened since `begin`."""
        for table, where, before in reversed(self._written or []):
            table[where] = before
        self._written = None

    def _write(self, table: npt.NDArray[Any], where: Labels, values: npt.NDArray[Any]) -> None:
        self._note(table, where)
        table[where] = values

    def _note(self, table: npt.NDArray[Any], where: Labels) -> None:
        if self._written is not None:
            self._written.append((table, where, table[where]))
