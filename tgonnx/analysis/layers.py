"""The layers of a model as people count them: nodes with a matrix or kernel, and which channels they write and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.difference import Weight, known_as, weights_of
from tgonnx.analysis.model import Node
from tgonnx.ops.aspects.relations import distinct

Open = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """A node with its largest weight, whose channels are along `axis`.

    `writes` has the unit of each channel that the node makes, -1 where that is pinned. `makes` are the numbers of the
    groups that these are in, `reads` those of the other axes.
    """

    name: str
    node: str
    op_type: str
    weight: str
    axis: int
    writes: npt.NDArray[np.int64]
    makes: tuple[int, ...]
    reads: tuple[int, ...]
    group: int | None  # the group that most of its channels are in; None: all are pinned

    @property
    def channels(self) -> int:
        return len(self.writes)

    def kept(self, opened: Open) -> int:
        """Channels that stay; `opened` is [units]."""
        return int(np.append(opened, True)[self.writes].sum())


def layers_of(coupling: Coupling) -> list[Layer]:
    """The layers in the order of the graph."""
    largest: dict[str, Weight] = {}
    for weight in weights_of(coupling.model):
        held = largest.get(weight.node)
        if len(weight.shape) > 1 and (held is None or np.prod(weight.shape) > np.prod(held.shape)):
            largest[weight.node] = weight
    finder = _Finder(coupling)
    nodes = {node.label: node for node in coupling.model.nodes}
    found = (finder.layer(nodes[name], weight) for name, weight in largest.items())
    return [layer for layer in found if layer is not None]


@dataclass(frozen=True)
class _Finder:
    coupling: Coupling

    @cached_property
    def group_of(self) -> npt.NDArray[np.int64]:
        """The group of each unit, and -1 at the end, for what is pinned."""
        return np.append(self.coupling.group_of, -1)

    def layer(self, node: Node, weight: Weight) -> Layer | None:
        """None for a weight of which no axis is one of channels."""
        labels = self.coupling.labelling.axes.get(weight.name, ())
        if len(labels) != len(weight.shape):
            return None
        axis = self._written(node, weight)
        if axis is None:
            return None
        units = self.coupling.units_of(labels[axis])
        others = [self.coupling.units_of(part) for i, part in enumerate(labels) if i != axis]
        held = self.group_of[units]
        makes, reads = self._groups([units]), self._groups(others)
        group = int(np.bincount(held[held >= 0]).argmax()) if (held >= 0).any() else None
        name = known_as(weight.name, weight.node).removesuffix(".weight")
        return Layer(name, node.label, node.op_type, weight.name, axis, units, makes, reads, group)

    def _groups(self, parts: Sequence[npt.NDArray[np.int64]]) -> tuple[int, ...]:
        return tuple(sorted({int(g) for part in parts for g in np.unique(self.group_of[part]) if g >= 0}))

    def _written(self, node: Node, weight: Weight) -> int | None:
        """The axis of a weight whose labels are those of an axis of what the node makes, first one that can be cut."""
        labelling = self.coupling.labelling.axes
        made = [part for name in node.outputs for part in labelling.get(name, ())]
        classes = np.concatenate([np.zeros(0, np.int64), *(self._classes(part) for part in made)])
        labels = labelling[weight.name]
        units = [int((self.coupling.units_of(part) >= 0).sum()) for part in labels]
        made_of = [
            axis
            for axis, part in enumerate(labels)
            if weight.shape[axis] > 1 and np.isin(self._classes(part), classes).all()
        ]
        if made_of:
            return next((axis for axis in made_of if units[axis]), made_of[0])
        return int(np.argmax(units)) if any(units) else None

    def _classes(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.unique(self.coupling.class_of[distinct(labels)])
