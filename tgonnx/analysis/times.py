"""The kind of cost `latency`: microseconds, as a function of how many units are kept.

Runtimes compute in whole blocks of channels: 20 channels take as long as 32, and a count that is no multiple of four
may leave the fast kernels. So the time of an operator is not a product of lengths, but one of `Staircase`s of them:

    fixed + per_work * stairs of what it multiplies + per_element * stairs of what it puts out

`Rates` says what was found for one operator, or for several that a runtime has fused, and `Profile` holds those of a
model on one machine (`tgonnx.pipeline.profiling` measures them). In the objective the stairs are ramps: gates can learn
where a slope leads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.kinds import Axes, Counts, Products, Term, multiplications
from tgonnx.errors import UsageError
from tgonnx.graph.structure import first_output

ADDED = "layout changes"  # what runtimes add between operators
Lengths = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Staircase:
    """What a number of channels costs, in channels: whole blocks.

    `linear`: below one block each channel counts. Counts that are no multiple of `aligned` cost `penalty` times as
    much.
    """

    block: int = 1
    linear: bool = False
    aligned: int = 1
    penalty: float = 1.0

    def of(self, lengths: Lengths) -> Lengths:
        """The price of each length."""
        whole = np.ceil(lengths / self.block) * self.block
        if self.linear:
            whole = np.where(lengths < self.block, lengths, whole)
        return np.where(lengths % self.aligned == 0, whole, whole * self.penalty)


FLAT = Staircase()


@dataclass(frozen=True)
class Rates:
    """Microseconds of operators that run as one; `outputs` are the first outputs of their nodes, the first names it."""

    outputs: tuple[str, ...]
    op_type: str
    fixed: float = 0.0
    per_work: float = 0.0
    per_element: float = 0.0


@dataclass(frozen=True)
class Profile:
    """What each operator of one model takes on one machine.

    `stairs` are those of operators by type. `added` is the time of a value's element where layouts change, summed over
    all values. `structure` is the hash of the model that was measured; `about` says where and how, `original_us` what
    the model took, `error` how far predicted shares of that were off on average.
    """

    structure: str
    rates: tuple[Rates, ...]
    stairs: Mapping[str, Staircase]
    added: float = 0.0
    fixed: float = 0.0
    original_us: float = 0.0
    error: float = 0.0
    about: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """What was measured, if it was another device than this one."""
        return str(self.about.get("device", ""))

    @property
    def block(self) -> int:
        """Channels that are computed at once, and that a choice should keep multiples of."""
        return max((max(stairs.block, stairs.aligned) for stairs in self.stairs.values()), default=1)


class Times(Products):
    """A sum of terms, each a coefficient times the stairs of some lengths."""

    def __init__(self, axes: Axes, terms: Sequence[tuple[Term, Staircase]], block: int, aligned: int) -> None:
        super().__init__(axes, [term for term, _ in terms])
        self.block, self.aligned = block, aligned
        styles = list(dict.fromkeys(style for _, style in terms))
        self._styles = styles or [FLAT]
        self._style_of = np.array([styles.index(style) for _, style in terms], np.int64)
        self._varies = np.append(axes.per_unit.any(axis=1), False)

    def values(self, counts: Counts) -> Lengths:
        lengths = np.append(self.axes.lengths(counts), 1.0)
        table = np.stack([np.where(self._varies, style.of(lengths), lengths) for style in self._styles])
        return np.asarray(
            self._coefficients * table[self._style_of[:, None], self._factors].prod(axis=1), np.float64
        )

    def count(self, counts: Counts) -> float:
        return float(self.values(counts).sum())


def predicted(axes: Axes, profile: Profile) -> Times:
    """The time of a model by its profile. Raises UsageError if it is another model's."""
    model = axes.coupling.model
    if profile.structure != model.structure:
        raise UsageError(f"the latency profile is of another model than {model.source}: measure this one")
    work, elements = work_of(axes), elements_of(axes)
    terms: list[tuple[Term, Staircase]] = [(Term(profile.fixed, (), ADDED), FLAT)]
    labels = {first_output(node.outputs): node.label for node in model.nodes}
    gone = {first_output(model.nodes[index].outputs) for index in axes.coupling.gone.nodes}
    for rates in profile.rates:
        if gone.issuperset(rates.outputs):
            continue
        owner, style = labels[rates.outputs[0]], profile.stairs.get(rates.op_type, FLAT)
        terms.append((Term(rates.fixed, (), owner), FLAT))
        for output in rates.outputs:
            terms += [
                (Term(rates.per_work * t.coefficient, t.axes, owner), style) for t in work.get(output, ())
            ]
        if (largest := largest_of(axes, rates.outputs, elements)) is not None:
            terms.append((Term(rates.per_element, largest, owner), style))
    terms += [(Term(profile.added, numbers, ADDED), FLAT) for numbers in elements.values()]
    aligned = max((stairs.aligned for stairs in profile.stairs.values()), default=1)
    return Times(axes, [pair for pair in terms if pair[0].coefficient], profile.block, aligned)


def work_of(axes: Axes) -> dict[str, list[Term]]:
    """Multiply-accumulates by the first output of each node that has some."""
    coupling, found = axes.coupling, dict[str, list[Term]]()
    for node, view in zip(coupling.model.nodes, coupling.views, strict=True):
        if node.index in coupling.gone.nodes:
            continue
        products = multiplications(coupling, node, view) or []
        if products and (output := first_output(node.outputs)):
            found[output] = [
                Term(coefficient, tuple(axes.number(labels) for labels in factors), output)
                for coefficient, factors in products
            ]
    return found


def elements_of(axes: Axes) -> dict[str, tuple[int, ...]]:
    """The axes of the first output of each node that has labels."""
    labelled, found = axes.coupling.labelling.axes, dict[str, tuple[int, ...]]()
    for node in axes.coupling.model.nodes:
        if node.index in axes.coupling.gone.nodes:
            continue
        if (output := first_output(node.outputs)) in labelled:
            found[output] = tuple(axes.number(labels) for labels in labelled[output])
    return found


def largest_of(
    axes: Axes, outputs: Sequence[str], elements: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...] | None:
    """The axes of the largest of some values, the later of equal ones; None if none has labels."""
    full = axes.lengths(axes.sizes)
    known = [elements[output] for output in outputs if output in elements]
    return max(reversed(known), key=lambda numbers: float(full[list(numbers)].prod()), default=None)
