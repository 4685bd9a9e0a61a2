"""Stored numbers that stand for the length of an axis: 1/N behind a sum, N / (N - 1) of an unbiased variance.

Exporters write a mean as a sum times 1/N, and norms by hand. Where the axis is cut, the number must become that of
the length which is left: in the gated model of the open channels, in the pruned one of the kept ones. A value that is a
sum, mean or norm over an axis is followed through arithmetic that treats it by itself. A number that it is multiplied
with, or divided by, is taken for a length if it makes a sum, a mean or an unbiased mean of it and equals that power of
N or N - 1. Nothing else is: the scale of attention, for one, is no statistic.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tgonnx.analysis.model import Model, Node
from tgonnx.ops.aspects.relations import Labels
from tgonnx.ops.aspects.sums import Sum
from tgonnx.ops.aspects.tables import sums
from tgonnx.ops.aspects.traits import traits_of
from tgonnx.ops.aspects.view import View

Exponents = tuple[float, float]  # of n and of n - 1

SUM, MEAN, UNBIASED = (0.0, 0.0), (-1.0, 0.0), (0.0, -1.0)
MEANINGS: tuple[Exponents, ...] = (
    MEAN,
    UNBIASED,
    SUM,
    (-1.0, -1.0),
)  # the last: a mean before it is made unbiased
TOLERANCE: dict[int, float] = {
    onnx.TensorProto.FLOAT16: 1e-3,
    onnx.TensorProto.BFLOAT16: 8e-3,
}  # of others 1e-6


@dataclass(frozen=True)
class Length:
    """Input `input` of node `node` is a number that goes with n^a (n - 1)^b, n being how many of `axes` are left."""

    node: int
    input: int
    axes: tuple[Labels, ...]
    exponents: Exponents

    @property
    def full(self) -> int:
        """n before any cut."""
        return prod(len(labels) for labels in self.axes)

    def factor(self, left: int) -> float:
        """What the number is multiplied with if `left` of n are left."""
        return _length(left, self.exponents) / _length(self.full, self.exponents)


def _length(n: int, exponents: Exponents) -> float:
    """n^a (n - 1)^b; a single index has a variance of 0 whatever it is divided by."""
    return float(n ** exponents[0] * max(n - 1, 1) ** exponents[1])


@dataclass(frozen=True)
class _Statistic:
    """A value that is (sum over `axes` * n^a (n - 1)^b)^power, `meaning` being (a, b), of the values named `of`.

    `whole`: those values themselves, each times that.
    """

    axes: tuple[Labels, ...]
    of: frozenset[str]
    meaning: Exponents
    power: float
    whole: bool = False

    @property
    def full(self) -> int:
        return prod(len(labels) for labels in self.axes)


def find_lengths(model: Model, views: Sequence[View]) -> tuple[Length, ...]:
    """All stored numbers of a model that stand for the length of a static axis."""
    search = _Search(model)
    for node, view in zip(model.nodes, views, strict=True):
        search.visit(node, view)
    return tuple(search.found)


@dataclass(frozen=True)
class Rescaled:
    """A stored number after a cut: `factor` times what it was, for the uses `lengths`. `alone`: it has no other use."""

    name: str
    factor: float
    lengths: tuple[Length, ...]
    alone: bool


def rescaled(model: Model, lengths: Sequence[Length], left: Callable[[Labels], int]) -> tuple[Rescaled, ...]:
    """The numbers that change, `left` saying how many labels of an axis are left."""
    uses: Counter[str] = Counter(name for node in model.nodes for name in (*node.inputs, *node.captures))
    uses.update(model.outputs)
    found: dict[tuple[str, float], list[Length]] = defaultdict(list)
    for length in lengths:
        factor = length.factor(prod(left(labels) for labels in length.axes))
        if factor != 1:
            found[model.nodes[length.node].inputs[length.input], factor].append(length)
    return tuple(
        Rescaled(name, factor, tuple(members), uses[name] == len(members))
        for (name, factor), members in found.items()
    )


class _Search:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.numbers = dict(_numbers(model))
        self.uses = [name for node in model.nodes for name in (*node.inputs, *node.captures)]
        self.makers = {name: node for node in model.nodes for name in node.outputs if name}
        self.statistics: dict[str, _Statistic] = {}
        self.found: list[Length] = []

    def visit(self, node: Node, view: View) -> None:
        operands = (*view.inputs[:1], *view.outputs[:1])
        if node.domain or len(operands) < 2 or any(operand is None for operand in operands):
            return
        statistic = self._source(node, view) or self._derived(node)
        if statistic is not None:
            self.statistics[node.outputs[0]] = statistic

    def _source(self, node: Node, view: View) -> _Statistic | None:
        """The statistic that an operator makes of its first input, which it sums."""
        entry = sums.get(node.op_type)
        made = None if entry is None else entry(view)
        if made is None or not made.axes or not self._static(node.inputs[0], made.axes):
            return None
        labels = tuple(view.input(0)[axis] for axis in made.axes)
        if made.divides:
            return _Statistic(labels, frozenset(), SUM, made.power, whole=True)
        if made.times is None:
            return self._sum(node.inputs[0], labels, made)
        tensor = self.model.initializers.get(node.inputs[made.times])
        number = None if tensor is None else _equal(tensor)
        if number is None:  # a product like any other
            return None
        start = self._sum(node.inputs[0], labels, made)
        return start if number == 1 else self._times(node, made.times, number, start, 1)

    def _sum(self, source: str, labels: tuple[Labels, ...], made: Sum) -> _Statistic:
        """A sum of the value `source`, which may be a sum, a square or a multiple itself."""
        meaning = MEAN if made.averages else SUM
        before, maker = self.statistics.get(source), self.makers.get(source)
        plain = made.of == "elements" and not made.averages
        if plain and before is not None and not before.whole and before.meaning == SUM:
            return replace(before, axes=(*before.axes, *labels))  # one axis after the other
        start = _Statistic(labels, frozenset({source}), meaning, made.power)
        if maker is None:
            return start
        does = traits_of(maker)
        if (does.times > 0 or does.raises) and len(set(maker.inputs) - set(self.numbers)) == 1:
            start = replace(start, of=start.of | set(maker.inputs))  # a square
        feels_twice = made.of == "squares" and made.power == 1  # a factor goes in squared
        if not does.times or feels_twice or self.uses.count(source) > 1:
            return start
        return self._scaled(maker, start) or start  # x / N is summed

    def _static(self, name: str, axes: Sequence[int]) -> bool:
        first, second = (sweep.shapes.get(name) for sweep in (self.model.first, self.model.second))
        return first is not None and second is not None and all(first[a] == second[a] for a in axes)

    def _derived(self, node: Node) -> _Statistic | None:
        known = [self.statistics.get(name) for name in node.inputs]
        statistic = next((s for s in known if s is not None), None)
        if statistic is None:
            return None
        does = traits_of(node)
        if does.times:
            return self._scaled(node, statistic) or self._normalised(node, known)
        others = [
            n for n, s in zip(node.inputs, known, strict=True) if n and n not in self.numbers and s is None
        ]
        if statistic.whole or any(s is not None and s.full != statistic.full for s in known):
            return None
        if does.raises and node.inputs[1] in self.numbers:
            exponent = self.numbers[node.inputs[1]]
            return replace(statistic, power=statistic.power * (exponent if abs(exponent) <= 1 else 1))
        if does.power != 1:
            return replace(statistic, power=statistic.power * does.power)
        # what moves elements has other inputs that say where to
        return statistic if does.proportional and (does.moves or not others) else None

    def _scaled(self, node: Node, statistic: _Statistic) -> _Statistic | None:
        """A statistic times a number, or divided by it, or a number divided by it."""
        divides = traits_of(node).times < 0
        for index, name in enumerate(node.inputs):
            if name in self.numbers:
                turned = replace(statistic, power=-statistic.power) if divides and index == 0 else statistic
                return self._times(node, index, self.numbers[name], turned, -1 if divides and index else 1)
        if len(set(node.inputs)) == 1 and not divides and not statistic.whole:
            return statistic  # a square
        return None

    def _times(
        self, node: Node, index: int, number: float, statistic: _Statistic, sign: int
    ) -> _Statistic | None:
        """The statistic times number^sign, which may be a length."""
        kind = self.model.initializers[node.inputs[index]].data_type
        best, found = TOLERANCE.get(kind, 1e-6), None
        for meaning in MEANINGS if not statistic.whole else (MEAN,):
            change = [
                sign * statistic.power * (to - now)
                for to, now in zip(meaning, statistic.meaning, strict=True)
            ]
            wanted = _length(statistic.full, (change[0], change[1]))
            error = abs(number - wanted) / wanted
            if wanted != 1 and error < best:
                best, found = error, (meaning, (change[0], change[1]))
        known = any((length.node, length.input) == (node.index, index) for length in self.found)
        if found is None or known:
            return None if statistic.whole else statistic
        self.found.append(Length(node.index, index, statistic.axes, found[1]))
        return replace(statistic, meaning=found[0])

    def _normalised(self, node: Node, known: list[_Statistic | None]) -> _Statistic | None:
        """x / ||x||, which some multiply with the root of n."""
        quotient = traits_of(node).times < 0
        for index, statistic in enumerate(known):
            if statistic is None or statistic.whole or statistic.meaning != SUM or index >= 2:
                continue
            power = -statistic.power if quotient else statistic.power
            divides = index == 1 if quotient else True
            if divides and power == -0.5 and node.inputs[1 - index] in statistic.of:
                return replace(statistic, power=power, whole=True)
        return None


def _numbers(model: Model) -> Iterator[tuple[str, float]]:
    """Stored single numbers."""
    for name, tensor in model.initializers.items():
        if prod(tensor.dims) == 1 and helper.tensor_dtype_to_np_dtype(tensor.data_type).kind not in "biuO":
            number = float(np.ravel(numpy_helper.to_array(tensor))[0])
            if np.isfinite(number) and number > 0:
                yield name, number


def _equal(tensor: onnx.TensorProto) -> float | None:
    """The number that all elements of a floating-point matrix are."""
    if helper.tensor_dtype_to_np_dtype(tensor.data_type).kind != "f" or not prod(tensor.dims):
        return None
    values = numpy_helper.to_array(tensor)
    first = float(values.flat[0])
    alike = (
        values.flat[0] == values.flat[-1] and (values == values.flat[0]).all()
    )  # few are: the last one tells
    return first if first > 0 and alike else None
