"""The labels of every value, handed out node by node.

What an operator does to a long axis is asked first with one label for the whole of it. If all that the rule ties it
to is pinned, or it says nothing of it, the axis can never be cut and stays whole; else it gets a label per index and
the rule is asked again. So memory and time follow channels, not the length of a recording or the size of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.model import Model, Node
from tgonnx.ops.aspects.relations import (
    Choice,
    Free,
    Labels,
    Relation,
    Tie,
    distinct,
    flat,
    is_whole,
    pairs,
    spoken_of,
    whole,
)

LONG = 256  # longer axes stay whole where they can
MOST = 2**23  # labels; once a model has so many, further long axes are not cut

AxisKey = tuple[str, int]  # a value and the number of its axis
AskRule = Callable[[], list[Relation]]


class Labelling:
    """The labels of every value of known shape, further outputs of a node that nothing uses excepted."""

    def __init__(self, model: Model) -> None:
        self.axes: dict[str, tuple[Labels, ...]] = {}
        self.size = 0
        self._shapes = model.shapes
        self._used = {name for node in model.nodes for name in (*node.inputs, *node.captures)}
        self._used |= set(model.outputs)
        self._ignored = {o for node in model.nodes for o in node.outputs[1:]} - self._used
        for name in model.inputs:
            self._add(name, ())
        for name in model.initializers:
            self._add(name, range(len(self._shapes.get(name, ()))))
        self._stays = np.zeros(self.size, bool)  # by label: it certainly stays
        self._said = np.zeros(self.size, bool)
        self.pin(self.all_of(model.inputs))

    def all_of(self, names: Iterable[str]) -> Labels:
        """The distinct labels of some values."""
        parts = [distinct(axis) for name in names for axis in self.axes.get(name, ())]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def lacks(self, name: str) -> bool:
        """Is this a value that somebody reads, of unknown shape?"""
        return bool(name) and name not in self.axes and name not in self._ignored

    def owner(self) -> npt.NDArray[np.int64]:
        """For each label the number of its axis, counted through all values."""
        counts = [1 if is_whole(part) else len(part) for parts in self.axes.values() for part in parts]
        return np.repeat(np.arange(len(counts)), counts)

    def pin(self, labels: Labels) -> None:
        """It is certain that these labels stay."""
        self._stays[distinct(labels)] = True

    def label_outputs(self, node: Node, ask: AskRule) -> tuple[list[Relation], Labels]:
        """Label what `node` makes. Returns what its rule says, and labels that stay because the axis is too long."""
        start = self.size
        made = [name for i, name in enumerate(node.outputs) if name and (i == 0 or name in self._used)]
        made = [name for name in made if name not in self.axes]
        self._add_all(made, set())
        relations = ask()
        cut = self._may_be_cut(made, relations)
        followed = {key for key in cut if self.size + self._length(key) <= MOST}
        if followed:
            for name in made:
                self.axes.pop(name, None)
            self._stays[start : self.size] = False
            self.size = start
            self._add_all(made, followed)
            relations = ask()
        too_long = [self.axes[name][axis] for name, axis in cut - followed]
        return relations, np.unique(np.concatenate([np.zeros(0, np.int64), *map(distinct, too_long)]))

    def unsaid(self, node: Node, relations: list[Relation]) -> Labels:
        """The labels around a node that its rule does not mention: they stay."""
        touched = self.all_of({name for name in [*node.inputs, *node.outputs, *node.captures] if name})
        said = spoken_of(relations)
        self._said[said] = True
        unsaid = touched[~self._said[touched]]
        self._said[said] = False
        return unsaid

    def spread(self, relations: Iterable[Relation]) -> None:
        """What is tied to a label that certainly stays does so, too."""
        for tie in self._in_force(relations):
            a, b = pairs(tie.a, tie.b)
            stays = self._stays[a] | self._stays[b]
            self._stays[a[stays]] = self._stays[b[stays]] = True

    def _add_all(self, names: Iterable[str], per_index: Collection[AxisKey]) -> None:
        for name in names:
            self._add(name, [axis for value, axis in per_index if value == name])
        if self.size > len(self._stays):
            self._stays, self._said = (
                np.append(table, np.zeros(self.size, bool)) for table in (self._stays, self._said)
            )

    def _add(self, name: str, per_index: Collection[int]) -> None:
        """Label a value; its long axes stay whole, but for those in `per_index`."""
        shape = self._shapes.get(name)
        if shape is None or name in self.axes:
            return
        axes: list[Labels] = []
        for axis, length in enumerate(shape):
            if length > LONG and axis not in per_index:
                axes.append(whole(self.size, length))
                self.size += 1
            else:
                axes.append(np.arange(self.size, self.size + length, dtype=np.int64))
                self.size += length
        self.axes[name] = tuple(axes)

    def _length(self, key: AxisKey) -> int:
        return self._shapes[key[0]][key[1]]

    def _may_be_cut(self, names: Iterable[str], relations: list[Relation]) -> set[AxisKey]:
        """The axes kept whole for now of which it is not certain that they stay; the others are pinned."""
        open_axes = {
            (name, axis): labels
            for name in names
            for axis, labels in enumerate(self.axes.get(name, ()))
            if is_whole(labels)
        }
        settled = True
        while open_axes and settled:  # an output may be tied to another one
            settled = False
            for key, labels in list(open_axes.items()):
                if self._is_kept(labels, relations):
                    self.pin(labels)
                    del open_axes[key]
                    settled = True
        return set(open_axes)

    def _is_kept(self, axis: Labels, relations: list[Relation]) -> bool:
        """Whether every index of a whole axis is unsaid, or tied to a label that stays."""
        label, plain = int(axis[0]), [r for r in relations if isinstance(r, Tie)]
        if any((t.a is axis and self._all_stay(t.b)) or (t.b is axis and self._all_stay(t.a)) for t in plain):
            return True
        met = [tie for tie in _ties(relations) if label in distinct(tie.a) or label in distinct(tie.b)]
        if not all(self._all_stay(tie.a) or self._all_stay(tie.b) for tie in met):
            return False
        loose = [r for r in relations if isinstance(r, Free) and label in distinct(r.labels)]
        in_choice = [r for c in relations if isinstance(c, Choice) for r in flat([c]) if isinstance(r, Free)]
        padded = any(tie is other for tie in met for other in plain)  # a long axis in part kept is all kept
        return not any(label in distinct(r.labels) for r in in_choice) and (not loose or padded)

    def _in_force(self, relations: Iterable[Relation]) -> Iterator[Tie]:
        """Plain ties, and those of choices of which every alternative is tied to what stays."""
        for relation in relations:
            if isinstance(relation, Tie):
                yield relation
            elif isinstance(relation, Choice):
                ties = _ties([relation])
                loose = any(isinstance(r, Free) for r in flat([relation]))
                if not loose and all(self._all_stay(tie.a) or self._all_stay(tie.b) for tie in ties):
                    yield from ties

    def _all_stay(self, labels: Labels) -> bool:
        return bool(self._stays[distinct(labels)].all())


def _ties(relations: Iterable[Relation]) -> list[Tie]:
    return [r for r in flat(relations) if isinstance(r, Tie)]
