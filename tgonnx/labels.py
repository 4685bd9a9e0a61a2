"""Labels, the relations that rules state between them, and the solver.

Every index of every axis of every value is a *label*, an integer. A rule says for one node which labels live or die
together, where an operator sums over labels (a gate acts there), and where an axis is a product that can be cut
along one of its factors only. What a rule does not mention is pinned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]


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


class Classes:
    """Union-find over labels with pins and reasons, vectorised over arrays of labels.

    A class is named by its smallest label. `reason[root]` is the number of the first reason why it is pinned, or
    `FREE`.
    """

    FREE = np.iinfo(np.int32).max

    def __init__(self, size: int) -> None:
        self.parent: Labels = np.arange(size, dtype=np.int64)
        self.reason: npt.NDArray[np.int32] = np.full(size, self.FREE, np.int32)

    def find(self, labels: Labels) -> Labels:
        """The class of each label."""
        root = self.parent[labels]
        while True:
            above = self.parent[root]
            if np.array_equal(above, root):
                break
            root = above
        self.parent[labels] = root
        return root

    def union(self, a: Labels, b: Labels) -> None:
        """Make one class of the classes of `a[i]` and `b[i]`, for each i."""
        a, b = a.ravel(), b.ravel()
        while True:
            ra, rb = self.find(a), self.find(b)
            apart = ra != rb
            if not apart.any():
                return
            low, high = np.minimum(ra, rb)[apart], np.maximum(ra, rb)[apart]
            reason = np.minimum(self.reason[low], self.reason[high])
            np.minimum.at(self.parent, high, low)
            np.minimum.at(self.reason, low, reason)
            np.minimum.at(self.reason, high, reason)
            a, b = a[apart], b[apart]

    def pin(self, labels: Labels, reason: int) -> None:
        """Pin the classes of `labels`; an earlier reason stays."""
        root = self.find(labels.ravel())
        self.reason[root] = np.minimum(self.reason[root], reason)

    def pinned(self, labels: Labels) -> npt.NDArray[np.bool_]:
        return np.asarray(self.reason[self.find(labels)] != self.FREE, bool)

    def state(self) -> tuple[Labels, npt.NDArray[np.int32]]:
        return self.parent.copy(), self.reason.copy()

    def restore(self, state: tuple[Labels, npt.NDArray[np.int32]]) -> None:
        self.parent, self.reason = state[0].copy(), state[1].copy()


@dataclass(eq=False)
class OpenChoice:
    """A choice of a node that is not decided yet.

    `ties` are the relations that the node's rule states outside of the choice. Whatever they tie to labels of an
    alternative, that alternative mentions, too.
    """

    node: int
    alternatives: tuple[Alternative, ...]
    reason: int
    ties: tuple[Tie, ...] = ()
    decided: Alternative | None = None

    def __post_init__(self) -> None:
        self.mentions = [_tied(mentioned(a.relations), self.ties) for a in self.alternatives]
        self.mentioned = np.unique(
            np.concatenate(self.mentions)
        )  # only a chosen alternative keeps these free

    def pinned_by(self, alternative: Alternative | None) -> Labels:
        """What is kept if this alternative, or none, is chosen."""
        for candidate, labels in zip(self.alternatives, self.mentions, strict=True):
            if candidate is alternative:
                return np.setdiff1d(self.mentioned, labels, assume_unique=True)
        return self.mentioned


Preference = Callable[[OpenChoice], list[tuple[int, ...]]]  # a rank for each alternative, the highest first


def solve_choices(classes: Classes, choices: Sequence[OpenChoice], preference: Preference) -> None:
    """Decide every choice: what pins force first, then one free choice at a time, the most preferred first.

    Of its alternatives, the one that costs earlier decisions the fewest units is taken, then the preferred one; one
    that would, with all that it forces, leave its own factor a single unit is refused.
    """
    waiting = _force(classes, list(choices))
    ranks = {id(choice): max(preference(choice)) for choice in waiting}
    decided: list[Labels] = []
    while waiting:
        choice = max(waiting, key=lambda c: ranks[id(c)])
        waiting.remove(choice)
        alive = _alive(classes, choice)
        keys = dict(zip([a.name for a in choice.alternatives], preference(choice), strict=True))
        alternatives = sorted(alive, key=lambda a: keys[a.name], reverse=True)
        waiting = _take_best(classes, choice, alternatives, waiting, decided)
        if choice.decided is not None:
            decided.append(choice.decided.factor)


def _take_best(
    classes: Classes,
    choice: OpenChoice,
    alternatives: Sequence[Alternative],
    waiting: list[OpenChoice],
    decided: Sequence[Labels],
) -> list[OpenChoice]:
    before = classes.state()
    units = [_live(classes, factor) for factor in decided]
    best: tuple[int, Alternative] | None = None
    for alternative in alternatives:
        rest = _attempt(classes, choice, alternative, waiting)
        lost = sum(n - _live(classes, factor) for n, factor in zip(units, decided, strict=True))
        if _live(classes, alternative.factor) > 1:
            if not lost:
                return rest
            if best is None or lost < best[0]:
                best = (lost, alternative)
        classes.restore(before)
    return _attempt(classes, choice, best[1] if best is not None else None, waiting)


def _attempt(
    classes: Classes, choice: OpenChoice, alternative: Alternative | None, waiting: list[OpenChoice]
) -> list[OpenChoice]:
    for other in waiting:
        other.decided = None
    _decide(classes, choice, alternative)
    return _force(classes, waiting)


def _live(classes: Classes, labels: Labels) -> int:
    """How many units these labels are."""
    roots = classes.find(labels)
    return len(np.unique(roots[classes.reason[roots] == Classes.FREE]))


def _force(classes: Classes, choices: list[OpenChoice]) -> list[OpenChoice]:
    """Decide the choices that have at most one alternative left, until none is forced."""
    while True:
        waiting, forced = [], False
        for choice in choices:
            alive = _alive(classes, choice)
            if len(alive) > 1:
                waiting.append(choice)
            else:
                _decide(classes, choice, alive[0] if alive else None)
                forced = True
        if not forced:
            return waiting
        choices = waiting


def _alive(classes: Classes, choice: OpenChoice) -> list[Alternative]:
    return [a for a in choice.alternatives if not classes.pinned(a.factor).all()]


def _decide(classes: Classes, choice: OpenChoice, alternative: Alternative | None) -> None:
    choice.decided = alternative
    for relation in alternative.relations if alternative is not None else ():
        if isinstance(relation, Tie):
            classes.union(relation.a, relation.b)
    kept = choice.pinned_by(alternative)
    if kept.size:
        classes.pin(kept, choice.reason)


def _tied(labels: Labels, ties: Iterable[Tie]) -> Labels:
    """`labels` and all that a chain of these ties connects them with."""
    pairs = [(tie.a.ravel(), tie.b.ravel()) for tie in ties]
    while True:
        parts = [labels]
        for a, b in pairs:
            parts += [b[np.isin(a, labels)], a[np.isin(b, labels)]]
        more = np.unique(np.concatenate(parts))
        if len(more) == len(labels):
            return more
        labels = more


def mentioned(relations: Iterable[Relation]) -> Labels:
    """The distinct labels that relations speak of."""
    parts: list[Labels] = []
    for relation in relations:
        if isinstance(relation, Tie):
            parts += [relation.a.ravel(), relation.b.ravel()]
        elif isinstance(relation, Choice):
            parts += [mentioned(a.relations) for a in relation.alternatives]
        else:
            parts.append(relation.labels.ravel())
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
