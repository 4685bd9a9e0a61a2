"""Deciding choices: products of axes that can be cut along one factor.

A decision may pin classes, and so decide other choices. Only those are asked again that have a label in a class that
changed, so that a model of many choices takes time in proportion.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tgonnx.analysis.classes import Classes
from tgonnx.ops.aspects.relations import Alternative, Labels, Tie, distinct, mentioned, pairs, unique


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
        couples = [pairs(tie.a, tie.b) for tie in self.ties]
        ends = [part for a, b in couples for part in (a, b)]
        others = [part for a, b in couples for part in (b, a)]
        none = np.zeros(0, np.int64)
        tied = np.concatenate([none, *ends]), np.concatenate([none, *others])
        self.mentions = [_tied(mentioned(a.relations), *tied) for a in self.alternatives]
        # only a chosen alternative keeps these free
        self.mentioned = unique(np.concatenate(self.mentions))

    def pinned_by(self, alternative: Alternative | None) -> Labels:
        """What is kept if this alternative, or none, is chosen."""
        for candidate, labels in zip(self.alternatives, self.mentions, strict=True):
            if candidate is alternative:
                return np.setdiff1d(self.mentioned, labels, assume_unique=True)
        return self.mentioned


def _tied(labels: Labels, ends: Labels, others: Labels) -> Labels:
    """`labels` and all that a chain of ties connects them with; `ends[i]` is tied to `others[i]`, and the reverse."""
    while True:
        more = unique(np.concatenate([labels, others[np.isin(ends, labels)]]))
        if len(more) == len(labels):
            return more
        labels = more


Preference = Callable[[OpenChoice], list[tuple[int, ...]]]  # a rank for each alternative, the highest first


def solve_choices(classes: Classes, choices: Sequence[OpenChoice], preference: Preference) -> None:
    """Decide every choice: what pins force first, then one free choice at a time, the most preferred first.

    Of its alternatives, the one that costs earlier decisions the fewest units is taken, then the preferred one; one
    that would, with all that it forces, leave its own factor a single unit is refused.
    """
    _Decider(classes, choices).run(preference)


class _Watchers:
    """Which choices have a label in each free class. What is merged since `begin` can be taken back."""

    def __init__(self) -> None:
        self._of: dict[int, list[int]] = {}
        self._merged: list[tuple[int, list[int] | None, list[int], int]] = []

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, root: int, number: int) -> None:
        self._of.setdefault(root, []).append(number)

    def of(self, root: int) -> list[int]:
        return self._of.get(root, [])

    def merge(self, old: int, new: int) -> list[int]:
        """Class `old` is now a part of `new`. Returns the shorter list of the two: what both have is in it."""
        ours, theirs = self._of.get(new), self._of.get(old)
        if theirs is None:
            return []
        long, short = (theirs, ours or []) if len(theirs) > len(ours or []) else (ours or [], theirs)
        self._merged.append((new, ours, long, len(long)))
        long += short
        self._of[new] = long
        return short

    def begin(self) -> None:
        self._merged = []

    def undo(self) -> None:
        for root, before, grown, length in reversed(self._merged):
            del grown[length:]
            if before is None:
                del self._of[root]
            else:
                self._of[root] = before
        self._merged = []


class _Decider:
    """Choices are numbered as given; `waiting` are not decided, `taken` were decided freely, with their units."""

    def __init__(self, classes: Classes, choices: Sequence[OpenChoice]) -> None:
        self.classes, self.choices = classes, choices
        self.waiting: set[int] = set(range(len(choices)))
        self.taken: dict[int, int] = {}
        self.watchers = _Watchers()
        self.decided: list[int] = []  # since the attempt began
        self.shaken: set[int] = set()  # taken choices that may have lost units since then

    def run(self, preference: Preference) -> None:
        for number in range(len(self.choices)):
            self._force(number)
        for number in sorted(self.waiting):
            factors = [distinct(a.factor) for a in self.choices[number].alternatives]
            roots = unique(self.classes.find(np.concatenate(factors)))
            for root in roots[self.classes.reason[roots] == Classes.FREE].tolist():
                self.watchers.add(root, number)
        self._force_all(sorted(self.waiting))
        ranks = {number: max(preference(self.choices[number])) for number in sorted(self.waiting)}
        for number in sorted(ranks, key=lambda n: ranks[n], reverse=True):
            if number in self.waiting:
                self._take(number, preference)

    def _take(self, number: int, preference: Preference) -> None:
        """Decide for the best alternative."""
        choice = self.choices[number]
        keys = dict(zip([a.name for a in choice.alternatives], preference(choice), strict=True))
        best: tuple[int, Alternative] | None = None
        for alternative in sorted(self._alive(choice), key=lambda a: keys[a.name], reverse=True):
            lost = self._attempt(number, alternative)
            if self.classes.live(alternative.factor) > 1:
                if not lost:
                    return self._commit(number)
                if best is None or lost < best[0]:
                    best = (lost, alternative)
            self._undo()
        self._attempt(number, best[1] if best is not None else None)
        self._commit(number)

    def _attempt(self, number: int, alternative: Alternative | None) -> int:
        """Decide with all that it forces. Returns how many units earlier decisions lose."""
        self.classes.begin()
        self.watchers.begin()
        self.decided, self.shaken = [], set()
        self._force_all(self._decide(number, alternative))
        return sum(self.taken[n] - self._units(n) for n in self.shaken)

    def _commit(self, number: int) -> None:
        self.classes.keep()
        if self.choices[number].decided is not None:
            self.shaken.add(number)
        for n in self.shaken:
            self.taken[n] = self._units(n)

    def _undo(self) -> None:
        self.classes.undo()
        self.watchers.undo()
        self.waiting.update(self.decided)
        for number in self.decided:
            self.choices[number].decided = None

    def _units(self, number: int) -> int:
        decided = self.choices[number].decided
        assert decided is not None
        return self.classes.live(decided.factor)

    def _alive(self, choice: OpenChoice) -> list[Alternative]:
        return [a for a in choice.alternatives if not self.classes.pinned(distinct(a.factor)).all()]

    def _force_all(self, numbers: Sequence[int]) -> None:
        """Decide the choices that have at most one alternative left, pass after pass in their order."""
        queue = [(0, number) for number in numbers]
        heapq.heapify(queue)
        queued = set(queue)
        while queue:
            turn, number = heapq.heappop(queue)
            for other in self._force(number) if number in self.waiting else ():
                entry = (turn + (other <= number), other)
                if entry not in queued:
                    queued.add(entry)
                    heapq.heappush(queue, entry)

    def _force(self, number: int) -> list[int]:
        """Decide a choice that has at most one alternative left. Returns the choices to ask again."""
        alive = self._alive(self.choices[number])
        return self._decide(number, alive[0] if alive else None) if len(alive) < 2 else []

    def _decide(self, number: int, alternative: Alternative | None) -> list[int]:
        """Returns the waiting choices that have a label in a class that is newly pinned."""
        classes, choice = self.classes, self.choices[number]
        choice.decided = alternative
        self.waiting.remove(number)
        self.decided.append(number)
        before = unique(classes.find(choice.mentioned))
        before = before[classes.reason[before] == Classes.FREE]
        for relation in alternative.relations if alternative is not None else ():
            if isinstance(relation, Tie):
                classes.union(relation.a, relation.b)
        kept = choice.pinned_by(alternative)
        if kept.size:
            classes.pin(kept, choice.reason)
        return self._changed(before)

    def _changed(self, before: Labels) -> list[int]:
        """Follow classes that were free before a decision. Returns the waiting choices that a pin reached."""
        if not self.watchers:  # the first choices are forced before there are any
            return []
        after = self.classes.find(before)
        pinned = self.classes.reason[after] != Classes.FREE
        reached = {n for root in before[pinned].tolist() for n in self.watchers.of(root)}
        self.shaken.update(n for n in reached if n in self.taken)
        merged = ~pinned & (before != after)
        for old, new in zip(before[merged].tolist(), after[merged].tolist(), strict=True):
            self.shaken.update(n for n in self.watchers.merge(old, new) if n in self.taken)
        return sorted(reached & self.waiting)
