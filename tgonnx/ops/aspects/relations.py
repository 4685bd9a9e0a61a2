"""Labels and the relations that rules state between them.

Every index of every axis of every value is a *label*, an integer. A rule says for one node which labels live or die
together, where an operator sums over labels (a gate acts there), and where an axis is a product that can be cut
along one of its factors only. What a rule does not mention is pinned.

A long axis that is never cut (time, space, batch) stays *whole*: one pinned label stands for all of its indices, as
an array of stride 0. Rules index and reshape it like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Term = tuple[
    float, tuple[Labels, ...]
]  # of a cost: a coefficient, and the axes whose lengths it is multiplied with


@dataclass(frozen=True)
class Tie:
    """`a[i]` and `b[i]` live or die together. Arrays of one shape."""

    a: Labels
    b: Labels

    def __post_init__(self) -> None:
        if self.a.shape != self.b.shape:
            raise ValueError(f"tie between shapes {self.a.shape} and {self.b.shape}")


@dataclass(frozen=True)
class Free:
    """These labels may be removed for all that the node cares."""

    labels: Labels


@dataclass(frozen=True)
class Site:
    """A place where gates act: an axis of a node's input.

    `contract`: the operator sums over the axis, so the operand is multiplied by the gates. `normalize`: the operator
    takes statistics over the axis, which must be taken over the open labels only. `paired` marks a sum over two
    activations (the head dimension of attention).
    """

    kind: Literal["contract", "normalize"]
    input: int
    axis: int
    labels: Labels
    paired: bool = False


@dataclass(frozen=True)
class Alternative:
    """One way to cut a product of axes: along the factor whose labels are `factor`; the others are pinned."""

    name: str
    factor: Labels
    relations: tuple[Tie | Free | Site, ...]


@dataclass(frozen=True)
class Choice:
    """A product of axes, cut along at most one of its factors."""

    alternatives: tuple[Alternative, ...]


Relation = Tie | Free | Site | Choice


def whole(label: int, length: int) -> Labels:
    """The labels of an axis that stays whole."""
    return np.broadcast_to(np.array(label, np.int64), (length,))


def is_whole(labels: Labels) -> bool:
    return labels.ndim == 1 and len(labels) > 1 and labels.strides[0] == 0


def distinct(labels: Labels) -> Labels:
    """The labels in one row, those left out that are only repeated by broadcasting."""
    return (labels[_once(labels)] if 0 in labels.strides else labels).ravel()


def unique(labels: Labels) -> Labels:
    """Each label once, sorted: `np.unique`, which hashes integers and takes three times as long."""
    ordered = np.sort(labels)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def pairs(a: Labels, b: Labels) -> tuple[Labels, Labels]:
    """`a` and `b` in one row each, those pairs left out that are only repeated by broadcasting."""
    if 0 in a.strides and 0 in b.strides:
        index = _once(a, b)
        a, b = a[index], b[index]
    return a.ravel(), b.ravel()


def lookup(table: npt.NDArray[Any], labels: Labels) -> npt.NDArray[Any]:
    """`table[labels]`, without an entry for each index of an axis that stays whole."""
    return np.broadcast_to(table[labels[:1]], labels.shape) if is_whole(labels) else table[labels]


def _once(*arrays: Labels) -> tuple[slice, ...]:
    """An index that takes axes once along which all arrays are broadcast."""
    repeated = [not any(strides) for strides in zip(*(a.strides for a in arrays), strict=True)]
    return tuple(slice(0, 1) if same else slice(None) for same in repeated)


def flat(relations: Iterable[Relation]) -> Iterator[Tie | Free | Site]:
    """All relations, those of a choice's alternatives in its place."""
    for relation in relations:
        if isinstance(relation, Choice):
            for alternative in relation.alternatives:
                yield from alternative.relations
        else:
            yield relation


def spoken_of(relations: Iterable[Relation]) -> Labels:
    """The labels that relations speak of, some of them several times."""
    parts: list[Labels] = []
    for relation in flat(relations):
        parts += [relation.a, relation.b] if isinstance(relation, Tie) else [relation.labels]
    return np.concatenate([distinct(p) for p in parts]) if parts else np.zeros(0, np.int64)


def mentioned(relations: Iterable[Relation]) -> Labels:
    """The distinct labels that relations speak of, sorted."""
    return unique(spoken_of(relations))
