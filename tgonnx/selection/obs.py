"""Block optimal brain surgeon: which units are missed least once least squares have made up for them.

Whoever reads a unit can be refitted (`tgonnx.passes.compensate`); what then is still wrong is known beforehand. With G
the second moments of a reader's inputs, H their inverse and W its weights, taking away the terms S adds

    tr(W_S' (H_SS)^-1 W_S)                                            (Hassibi and Stork 1993; Kwon et al. 2022)

to its squared error. In each group the unit for which this, summed over its readers, is least goes first; H and W
are brought up to date, and so on. The errors of a reader count as shares of the spread of what it puts out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.uses import Use, Uses
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.products import Draw
from tgonnx.runtime.walk import Walk
from tgonnx.selection.least_squares import Moments, Numbers
from tgonnx.selection.norms import unit_norms

RIDGE = 1e-3  # of the mean diagonal
AT_ONCE = 64  # a group's units go in so many steps
ROWS, ROWS_A_TERM = 1 << 15, 4
MOST_TERMS = 8192  # of a reader whose moments are taken
ROOM = 1 << 29  # numbers in the moments that are taken in one go

Indices = NDArray[np.int64]


def order_of_removal(
    coupling: Coupling, inputs: Sequence[Mapping[str, Array]], threads: int = 0
) -> NDArray[np.float64]:
    """A number for each unit, [units]: the later a unit goes in its group, the higher.

    Groups that nothing reads which could be refitted are ranked by their norms. Raises ModelError if the model does
    not run on the inputs.
    """
    scores = unit_norms(coupling)
    for readers in _in_portions(_readers(coupling)):
        sums = _moments(coupling, readers, inputs, threads)
        by_group: dict[int, list[_Brain]] = defaultdict(list)
        for reader in readers:
            for number, terms in reader.groups.items():
                by_group[number] += _brains(reader, terms, sums[reader.name])
        for number, brains in by_group.items():
            group = coupling.groups[number]
            scores[group.units[_greedy(brains, group.size)]] = np.arange(group.size)
    return scores


@dataclass(frozen=True)
class _Reader:
    """A weight that sums over units: for each group it reads, the terms [matrix, term] and their units."""

    name: str
    uses: tuple[Use, ...]
    weight: Numbers  # [matrices, terms, outputs]
    groups: Mapping[int, Indices]  # number of a group -> unit within it of each term [matrices, terms], or -1

    @property
    def room(self) -> int:
        """Numbers in its moments."""
        return int(self.weight.shape[0]) * int(self.weight.shape[1]) ** 2


def _readers(coupling: Coupling) -> list[_Reader]:
    """The weights whose terms belong to units, and whose moments are of a size that can be handled."""
    place = np.full(coupling.units + 1, -1)  # of a unit within its group
    for group in coupling.groups:
        place[group.units] = np.arange(group.size)
    group_of = np.append(coupling.group_of, -1)
    stored = coupling.model.initializers
    readers = []
    for name, uses in Uses(coupling.model.proto).by_weight.items():
        axes = coupling.labelling.axes.get(name)
        weight: Numbers = uses[0].matrix(numpy_helper.to_array(stored[name])).astype(np.float64)
        if axes is None or weight.shape[1] > MOST_TERMS:
            continue
        units = _units_of_terms([coupling.units_of(labels) for labels in axes], uses[0])
        if units is None:
            continue
        numbers = group_of[units]
        groups = {
            int(number): np.where(numbers == number, place[units], -1)
            for number in np.unique(numbers[numbers >= 0])
        }
        if groups:
            readers.append(_Reader(name, tuple(uses), weight, groups))
    return readers


def _units_of_terms(axes: list[Indices], use: Use) -> Indices | None:
    """The unit that each term of a weight goes with [matrices, terms], -1 where it stays; None if none goes."""
    shape = [len(axis) for axis in axes]
    for place, units in enumerate(axes):
        if (units < 0).all():
            continue
        spread = units.reshape([-1 if i == place else 1 for i in range(len(axes))])
        matrix = use.matrix(np.ascontiguousarray(np.broadcast_to(spread, shape)))
        along_outputs = (matrix == matrix[:, :, :1]).all()
        along_terms = (matrix == matrix[:, :1]).all()
        if along_outputs and not along_terms:
            found: Indices = matrix[:, :, 0]
            return found
    return None


def _in_portions(readers: list[_Reader]) -> Iterator[list[_Reader]]:
    """Readers of the same groups together, as many as there is room for their moments."""
    left = [*readers]
    portion: list[_Reader] = []
    while left:
        together, groups = [left.pop(0)], set[int]()
        while groups != {number for reader in together for number in reader.groups}:
            groups = {number for reader in together for number in reader.groups}
            together += [reader for reader in left if groups & set(reader.groups)]
            left = [reader for reader in left if not groups & set(reader.groups)]
        if portion and sum(reader.room for reader in portion + together) > ROOM:
            yield portion
            portion = []
        portion += together
    if portion:
        yield portion


def _moments(
    coupling: Coupling, readers: list[_Reader], inputs: Sequence[Mapping[str, Array]], threads: int
) -> dict[str, Numbers]:
    """The second moments of each reader's terms about their means, [matrices, terms, terms]."""
    walk = Walk(
        coupling.model.proto, inputs, {use.output for reader in readers for use in reader.uses}, 0, threads
    )
    operands = sorted({use.operand for reader in readers for use in reader.uses})
    sums = {reader.name: Moments() for reader in readers}
    for number, values in enumerate(walk(operands)):
        for reader in readers:
            draw = Draw(max(ROWS, ROWS_A_TERM * reader.weight.shape[1]) // len(inputs) + 1, number)
            for use in reader.uses:
                rows = use.product.rows(values[use.operand].astype(np.float32), draw)
                sums[reader.name].add(rows, rows[:, :, :0])
    return {name: found.centred() for name, found in sums.items()}


class _Brain:
    """One matrix of a reader, and what is left of it as units go. `terms[u]` are those of unit u, filled up with -1."""

    def __init__(self, gram: Numbers, weight: Numbers, terms: Indices) -> None:
        size = len(gram)
        spread = max(float(np.einsum("ko,kl,lo->", weight, gram, weight, optimize=True)), 1e-30)
        ridge = RIDGE * max(float(np.trace(gram)) / size, 1e-30)
        self.inverse: Numbers = np.linalg.inv(gram + ridge * np.eye(size)).astype(np.float64)
        self.weight: Numbers = weight / np.sqrt(spread)
        self.terms, self.there = terms, terms >= 0

    def errors(self) -> Numbers:
        """What each unit's going would add to the error, [units]."""
        blocks = self.inverse[self.terms[:, :, None], self.terms[:, None, :]]
        both = self.there[:, :, None] & self.there[:, None, :]
        blocks = np.where(both, blocks, np.eye(self.terms.shape[1]))
        mine = np.where(self.there[:, :, None], self.weight[self.terms], 0.0)
        found: Numbers = (mine * np.linalg.solve(blocks, mine)).sum((1, 2))
        return found

    def remove(self, units: Indices) -> None:
        """Let units go; the others make up for them."""
        gone = self.terms[units][self.there[units]]
        across = self.inverse[:, gone]
        moved = np.linalg.solve(across[gone], np.concatenate([across.T, self.weight[gone]], 1))
        self.inverse -= across @ moved[:, : len(self.inverse)]
        self.weight -= across @ moved[:, len(self.inverse) :]
        self.there[units] = False  # asked no more


def _brains(reader: _Reader, units: Indices, moments: Numbers) -> list[_Brain]:
    """One for each matrix of the reader that holds units of the group."""
    brains = []
    for gram, weight, mine in zip(moments, reader.weight, units, strict=True):
        if not (mine >= 0).any() or not np.isfinite(gram).all():
            continue
        counts = np.bincount(mine[mine >= 0])
        terms = np.full((len(counts), int(counts.max())), -1)
        for unit in np.flatnonzero(counts):
            own = np.flatnonzero(mine == unit)
            terms[unit, : len(own)] = own
        brains.append(_Brain(gram, weight, terms))
    return brains


def _greedy(brains: list[_Brain], size: int) -> Indices:
    """The units of a group in the order in which they go."""
    order: list[int] = []
    left = np.ones(size, bool)
    while left.any():
        errors = np.zeros(size)
        for brain in brains:
            found = brain.errors()
            errors[: len(found)] += found
        errors[~left] = np.inf
        count = min(max(1, size // AT_ONCE), int(left.sum()))
        lowest = np.argsort(errors, kind="stable")[:count]
        for brain in brains:
            mine = lowest[lowest < len(brain.terms)]
            brain.remove(mine[brain.there[mine].any(1)])
        left[lowest] = False
        order += lowest.tolist()
    return np.array(order)
