"""What a rule sees of one node, and the relations that many operators share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tgonnx.ops.aspects.relations import Alternative, Choice, Free, Labels, Relation, Site, Tie


@dataclass(frozen=True)
class Operand:
    """An input or output of a node: the labels of its axes, and its value where that is known and static."""

    name: str
    index: int
    axes: tuple[Labels, ...]
    static: bool = False  # computed from initializers alone
    known: np.ndarray | None = None
    elements: list[int | float | None] | None = None  # of a vector: None where it depends on a dynamic axis

    def __getitem__(self, axis: int) -> Labels:
        return self.axes[axis]

    @property
    def rank(self) -> int:
        return len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(a) for a in self.axes)


@dataclass(frozen=True)
class View:
    """One node with labelled operands; an operand is None if it is left out.

    No rule is asked about a node with an operand of unknown shape: everything that touches it is pinned.
    """

    label: str
    op_type: str
    opset: int
    attributes: dict[str, Any]
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand | None, ...]
    sizes_read: frozenset[int]  # axes of input 0 whose size is read as a number (Shape, Size)
    standard_opset: int = 0  # of the standard domain, where the node is of another one

    def attribute(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def input(self, index: int) -> Operand:
        operand = self.inputs[index] if index < len(self.inputs) else None
        if operand is None:
            raise Unlabelled(f"input {index} has no known shape")
        return operand

    def output(self, index: int = 0) -> Operand:
        operand = self.outputs[index] if index < len(self.outputs) else None
        if operand is None:
            raise Unlabelled(f"output {index} has no known shape")
        return operand

    def known(self, index: int) -> np.ndarray | None:
        """The static value of an input, or None if it is absent or not known."""
        operand = self.inputs[index] if index < len(self.inputs) else None
        return None if operand is None else operand.known

    def constant(self, index: int, name: str) -> list[int] | None:
        """Integers given by an attribute (older opsets) or by an input; None if absent or not known."""
        value = self.attributes.get(name)
        if value is None:
            value = self.known(index)
        return None if value is None else [int(v) for v in np.atleast_1d(value)]

    def elements(self, index: int, name: str) -> list[int | float | None] | None:
        """Numbers given by an attribute or by an input, None for each that is not static; None if nothing is known."""
        if name in self.attributes:
            return list(self.attributes[name])
        operand = self.inputs[index] if index < len(self.inputs) else None
        return None if operand is None else operand.elements

    def needs_sizes(self, index: int) -> None:
        """Raise Unlabelled if an input that says how large the output is comes from the user or from data.

        What the file states of the output's shape is then no more than a remark: the size would not follow a cut.
        """
        if self.has(index) and self.input(index).elements is None:
            raise Unlabelled(f"{self.op_type}: the sizes in its input {index} are not known before it runs")


class Unlabelled(Exception):
    """An operand that a rule needs has no known shape; the driver pins what touches the node."""


def broadcast(operands: Sequence[Operand | None], out: Operand) -> Iterator[Relation]:
    """Numpy broadcasting: axes are aligned at the end; an axis of size 1 that is stretched stays by itself."""
    for operand in operands:
        if operand is None:
            continue
        offset = out.rank - operand.rank
        for axis, labels in enumerate(operand.axes):
            if len(labels) == len(out[axis + offset]):
                yield Tie(labels, out[axis + offset])


def same(a: Operand, b: Operand, skip: Sequence[int] = ()) -> Iterator[Relation]:
    """Axis for axis alike, but for the axes in `skip`, of which nothing is said."""
    for axis, (x, y) in enumerate(zip(a.axes, b.axes, strict=True)):
        if axis not in skip and len(x) == len(y):
            yield Tie(x, y)


def contract(a: Operand, axis: int, b: Operand, b_axis: int) -> Iterator[Relation]:
    """The operator sums products over these axes. The gate goes onto a weight if one operand is one."""
    yield Tie(a[axis], b[b_axis])
    gated, where = (a, axis) if a.static and not b.static else (b, b_axis)
    yield Site("contract", gated.index, where, gated[where], paired=not (a.static or b.static))


def product(inputs: Sequence[Labels], outputs: Sequence[Labels]) -> Relation | None:
    """Axes regrouped in row-major order: `[heads * dim]` to `[heads, dim]`, `[c, h, w]` to `[c * h * w]`, ...

    Returns the tie or choice, or None if the sizes have no common factors to speak of (all stay pinned).
    """
    factors = common_factors([len(a) for a in inputs], [len(b) for b in outputs])
    if factors is None:
        return None
    alternatives = []
    for number, size in enumerate(factors):
        if size == 1:
            continue
        holders = [
            h for h in (_holder(inputs, factors, number), _holder(outputs, factors, number)) if h is not None
        ]
        patterns = [labels.reshape(before, size, after) for labels, before, after in holders]
        ties: list[Tie | Free | Site] = []
        first = patterns[0][0, :, 0]
        for pattern in patterns:
            ties.append(Tie(np.broadcast_to(first[None, :, None], pattern.shape), pattern))
        # what the rest of the graph says of this factor
        alone = min(patterns, key=lambda pattern: pattern.size)
        alternatives.append(
            Alternative(f"factor {number} of {'x'.join(map(str, factors))}", alone[0, :, 0], tuple(ties))
        )
    if not alternatives:
        return Free(np.zeros(0, np.int64))
    return Choice(tuple(alternatives))


def common_factors(a: Sequence[int], b: Sequence[int]) -> list[int] | None:
    """The coarsest row-major factors that refine both lists of sizes: ([6, 4], [2, 12]) -> [2, 3, 4]."""
    marks = sorted({*np.cumprod(a).tolist(), *np.cumprod(b).tolist()})
    factors, previous = [], 1
    for mark in marks:
        if mark % previous:
            return None
        factors.append(mark // previous)
        previous = mark
    return factors


def _holder(axes: Sequence[Labels], factors: Sequence[int], number: int) -> tuple[Labels, int, int] | None:
    """The axis that contains a factor, and the sizes of its other factors before and after it."""
    position = 0
    for labels in axes:
        size, inside = 1, []
        while size < len(labels):
            inside.append(position)
            size *= factors[position]
            position += 1
        while not inside and position < len(factors) and factors[position] == 1 and len(labels) == 1:
            inside.append(position)
            position += 1
        if number in inside:
            before = int(np.prod([factors[i] for i in inside if i < number], dtype=np.int64))
            return labels, before, size // before // factors[number]
    return None


def regroup(inputs: Sequence[Labels], outputs: Sequence[Labels]) -> Iterator[Relation]:
    """A reshape: the axes are cut into the smallest blocks of equal size, each of which is a product."""
    i = j = 0
    while i < len(inputs) or j < len(outputs):
        block_in, block_out = [i], [j]
        i, j = i + 1, j + 1
        size_in = len(inputs[block_in[0]]) if block_in[0] < len(inputs) else 1
        size_out = len(outputs[block_out[0]]) if block_out[0] < len(outputs) else 1
        while size_in != size_out:
            if size_in < size_out:
                block_in.append(i)
                size_in, i = size_in * len(inputs[i]), i + 1
            else:
                block_out.append(j)
                size_out, j = size_out * len(outputs[j]), j + 1
        yield from _block(
            [inputs[k] for k in block_in if k < len(inputs)],
            [outputs[k] for k in block_out if k < len(outputs)],
        )


def _block(inputs: list[Labels], outputs: list[Labels]) -> Iterator[Relation]:
    inputs = [a for a in inputs if len(a) != 1] or inputs[:1]
    outputs = [a for a in outputs if len(a) != 1] or outputs[:1]
    if len(inputs) == len(outputs) == 1:
        yield Tie(inputs[0], outputs[0])
    elif inputs and outputs and (relation := product(inputs, outputs)) is not None:
        yield relation
