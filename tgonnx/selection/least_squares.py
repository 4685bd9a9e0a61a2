"""Least squares from sums: what rows of inputs and of wanted outputs leave behind when they have gone by.

Where terms are too many for that, and then rows are few (a picture is one row of a flattened layer), the rows
themselves are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean diagonal


class Moments:
    """Sums over rows x [groups, rows, terms] and wanted y [groups, rows, outputs]. A 1 is added to each row."""

    def __init__(self) -> None:
        self.gram: Numbers = np.zeros(())  # x'x [groups, terms + 1, terms + 1]
        self.cross: Numbers = np.zeros(())  # x'y [groups, terms + 1, outputs]
        self.power: Numbers = np.zeros(())  # the sum of y^2 [groups, outputs]
        self.count = 0

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Take more rows in."""
        x = np.concatenate([x, np.ones((*x.shape[:2], 1), x.dtype)], 2)
        turned = x.swapaxes(1, 2)
        self.gram = self.gram + (turned @ x).astype(np.float64)
        self.cross = self.cross + (turned @ y).astype(np.float64)
        self.power = self.power + np.einsum("gro,gro->go", y, y, dtype=np.float64)
        self.count += x.shape[1]

    def __add__(self, other: Moments) -> Moments:
        result = Moments()
        result.gram, result.cross = self.gram + other.gram, self.cross + other.cross
        result.power, result.count = self.power + other.power, self.count + other.count
        return result

    def centred(self) -> Numbers:
        """The second moments of x about its means [groups, terms, terms], a row's share."""
        total = self.gram[:, :-1, -1:]
        return (self.gram[:, :-1, :-1] - total @ total.swapaxes(1, 2) / self.count) / self.count

    @property
    def finite(self) -> bool:
        return all(bool(np.isfinite(part).all()) for part in (self.gram, self.cross, self.power))

    def error(self, weights: Numbers) -> float:
        """The mean over outputs of the squared error of `weights` [groups, terms + 1, outputs], as a share of the
        variance of what is wanted."""
        squares = self.power - 2 * (weights * self.cross).sum(1) + (weights * (self.gram @ weights)).sum(1)
        spread = self.power - self.cross[:, -1] ** 2 / self.count
        moving = spread > 1e-9 * np.maximum(self.power, 1e-30)
        return float((np.maximum(squares, 0)[moving] / spread[moving]).mean()) if moving.any() else 0.0

    def solve(self, start: Numbers, ridge: float, shifted: bool) -> Numbers:
        """The weights of least squares, drawn to `start` by `ridge` times the mean diagonal; the last term is what is
        added, which stays as it is unless `shifted`."""
        terms = self.gram.shape[1] - 1
        size = terms + shifted
        gram, wanted = self.gram[:, :size, :size], self.cross - self.gram @ start
        pull = ridge * np.trace(self.gram[:, :terms, :terms], axis1=1, axis2=2) / max(terms, 1)
        diagonal = np.zeros((len(gram), size))
        diagonal[:, :terms] = np.maximum(pull, 1e-30)[:, None]
        if shifted:
            diagonal[:, -1] = 1e-9 * max(self.count, 1)
        moved = np.linalg.solve(gram + diagonal[:, :, None] * np.eye(size), wanted[:, :size])
        result = start.copy()
        result[:, :size] += moved
        return result


class KeptRows:
    """The same of few rows of many terms, in half the precision: what is solved has the size of the rows."""

    def __init__(self) -> None:
        self.parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        self.parts.append((x, y))

    def __add__(self, other: KeptRows) -> KeptRows:
        result = KeptRows()
        result.parts = self.parts + other.parts
        return result

    @property
    def count(self) -> int:
        return sum(x.shape[1] for x, _ in self.parts)

    @property
    def finite(self) -> bool:
        return all(bool(np.isfinite(part).all()) for pair in self.parts for part in pair)

    def error(self, weights: NDArray[Any]) -> float:
        """As that of `Moments`."""
        x, y = self._together()
        spread = y.var(1)
        left = x @ weights[:, :-1].astype(np.float32) + weights[:, -1:].astype(np.float32) - y
        moving = spread > 1e-9 * np.maximum(np.square(y).mean(1), 1e-30)
        return float((np.square(left).mean(1)[moving] / spread[moving]).mean()) if moving.any() else 0.0

    def solve(self, start: NDArray[Any], ridge: float, shifted: bool) -> NDArray[np.float32]:
        """As that of `Moments`: X'(XX' + r)^-1 is (X'X + r)^-1 X'."""
        x, y = self._together()
        result = start.astype(np.float32)
        left = y - x @ result[:, :-1] - result[:, -1:]
        pull = ridge * np.einsum("grk,grk->g", x, x, dtype=np.float64) / x.shape[2]
        means = (x.mean(1, keepdims=True), left.mean(1, keepdims=True)) if shifted else (np.float32(0),) * 2
        x, left = x - means[0], left - means[1]
        kernel = (x @ x.swapaxes(1, 2)).astype(np.float64)
        kernel += np.maximum(pull, 1e-30)[:, None, None] * np.eye(x.shape[1])
        moved = x.swapaxes(1, 2) @ np.linalg.solve(kernel, left).astype(np.float32)
        result[:, :-1] += moved
        if shifted:
            result[:, -1:] += means[1] - means[0] @ moved
        return result

    def _together(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.concatenate([x for x, _ in self.parts], 1), np.concatenate([y for _, y in self.parts], 1)


@dataclass(frozen=True)
class Fitted:
    """Weights [groups, terms + 1, outputs], and the error on rows that they were not fitted to, before and after."""

    weights: NDArray[Any]
    before: float
    after: float


S = TypeVar("S", Moments, KeptRows)


def fitted(learnt: S, held_out: S, start: NDArray[Any], shifted: bool, crossed: bool = False) -> Fitted:
    """The weights that compute what is wanted; `start`, if none are better on rows that were not learnt from.

    `crossed`: each of the two parts is held out once, and the mean of the errors decides.
    """
    folds = ((learnt, held_out), (held_out, learnt)) if crossed else ((learnt, held_out),)
    before = fmean(other.error(start) for _, other in folds)
    tried = [
        (fmean(other.error(own.solve(start, ridge, shifted)) for own, other in folds), ridge)
        for ridge in RIDGES
    ]
    after, ridge = min(tried)
    if not after < before:
        return Fitted(start, before, before)
    return Fitted((learnt + held_out).solve(start, ridge, shifted), before, after)
