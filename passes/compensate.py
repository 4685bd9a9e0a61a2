"""Compensation: what reads of a cut model is refitted so that it computes what it computed before.

When channels or branches go, those that read them lose a part of their sum. Much of it can be had from the channels
that stay: each weight is set by least squares on calibration inputs so that, given what the cut model really gives
it, it puts out what the original does (He, Zhang and Sun 2017, section 3; here in graph order, for every operator that
has a `products` entry). No labels are needed.

Handled:
* convolutions of any kernel, stride, dilation and group, transposed ones, depthwise ones (each channel by itself);
* matrix products in both orientations and by groups, turned and reshaped weights, recurrent weights;
* weights of several nodes: their sums are added;
* a shortcut that is read in place of the sum with a branch that was removed;
* the mean: a bias, the constant of an addition, the mean of a BatchNormalization behind;
* weights of half precision.

Only sums over rows are kept, of at most `ROWS` rows a weight (more for many terms; for very many, few rows
themselves). The ridge is chosen by the error on rows that were held out, and a weight that does not get better on them
stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.uses import Use, Uses
from tgonnx.graph.proto import with_values
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.products import Draw
from tgonnx.passes.shifts import Shift, find_shift
from tgonnx.runtime.noise import read_by
from tgonnx.runtime.walk import Walk
from tgonnx.selection.least_squares import KeptRows, Moments, S, fitted
from tgonnx.selection.mask import Mask

ROWS, ROWS_A_TERM = 1 << 15, 8
MOST_TERMS, MOST_KEPT = 6144, 2048  # of a weight whose sums are kept; of the others, rows
HELD_OUT = 4  # every so many batches, one is held out
ROOM = 1 << 30  # bytes of activations that may be kept, of both models together


@dataclass(frozen=True)
class Refit:
    """What became of a weight: the error of its products on held-out rows, as a share of their variance."""

    weight: str
    before: float
    after: float


def compensate(
    full: onnx.ModelProto,
    cut: onnx.ModelProto,
    coupling: Coupling,
    mask: Mask,
    batches: Sequence[Mapping[str, Array]],
    threads: int = 0,
    crossed: bool = False,
) -> tuple[onnx.ModelProto, list[Refit]]:
    """`cut`, which `mask` made of `full`, with its weights refitted on `batches` of inputs.

    Both are in normal form. `crossed`: every second batch is of another kind, and what is learnt from either kind is
    judged by the other. Raises ModelError if the models do not run on the batches.
    """
    return _Compensation(full, cut, coupling, mask, batches, threads, crossed).run()


class _Compensation:
    def __init__(
        self,
        full: onnx.ModelProto,
        cut: onnx.ModelProto,
        coupling: Coupling,
        mask: Mask,
        batches: Sequence[Mapping[str, Array]],
        threads: int,
        crossed: bool,
    ) -> None:
        self.cut, self.batches, self.crossed = cut, batches, crossed
        self.coupling, self.kept = coupling, np.append(mask.open, True)
        self.removed = {  # values that are something else now
            name
            for part in coupling.parts(mask.branches)
            for name in coupling.model.nodes[part.add].outputs
            if name
        }
        self.before, self.after = Uses(full), Uses(cut)
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in full.graph.initializer}
        self.values = {tensor.name: numpy_helper.to_array(tensor) for tensor in cut.graph.initializer}
        self._indices: dict[str, list[NDArray[np.int64]] | None] = {}  # by value: asked for with every batch
        self.targets = self._find_targets()
        wanted = {use.output for target in self.targets for use in target.uses}
        self.original = Walk(full, batches, wanted, ROOM // 2, threads)
        self.pruned = Walk(cut, batches, wanted, ROOM // 2, threads)

    def run(self) -> tuple[onnx.ModelProto, list[Refit]]:
        refits: list[Refit] = []
        waiting = [*self.targets]
        for wave in _waves(self.cut, self.targets):
            first = min((use.place, use.output) for target in waiting for use in target.uses)[1]
            self.original.advance(first)
            self.pruned.advance(first)
            refits += self._refit(wave)
            waiting = waiting[len(wave) :]
        return with_values(self.cut, self.values), refits

    def _keeps(self, name: str) -> list[NDArray[np.int64]] | None:
        """The indices that stay of each axis of a value; None if it has no labels."""
        if name not in self._indices:
            axes = self.coupling.labelling.axes.get(name)
            units = None if axes is None else map(self.coupling.units_of, axes)
            self._indices[name] = None if units is None else [np.flatnonzero(self.kept[u]) for u in units]
        return self._indices[name]

    def _find_targets(self) -> list[_Target]:
        """The weights that are given something else than before the cut, in order of the last node that reads them."""
        rewired = self._rewired()
        changed = _changed(self.cut, self.weights, rewired)
        targets = []
        for name, uses in self.after.by_weight.items():
            earlier = {(use.output, use.number): use for use in self.before.by_weight.get(name, ())}
            given_others = any(use.operand in changed or use.output in rewired for use in uses)
            if not given_others or not all((use.output, use.number) in earlier for use in uses):
                continue
            keeps = self._keeps(name)
            if keeps is None or any(self._keeps(use.operand) is None for use in uses):
                continue
            pairs = tuple((earlier[use.output, use.number], use) for use in uses)
            shift = find_shift(self.after, uses[0], self.values) if len(uses) == 1 else None
            target = _Target.of(name, pairs, self.weights[name].shape, keeps, shift)
            if target is not None:
                targets.append(target)
        return sorted(targets, key=lambda target: target.last)

    def _rewired(self) -> set[str]:
        """What is put out by nodes that read a shortcut where they read the sum with a branch."""
        if not self.removed:
            return set()
        before = {name: node for node in self.before.model.graph.node for name in node.output}
        return {
            name
            for node in self.cut.graph.node
            for name in node.output
            if name in before and self.removed & {*before[name].input}
        }

    def _refit(self, wave: Sequence[_Target]) -> Iterator[Refit]:
        """Refit weights that do not depend on one another."""
        kinds = {target.weight: KeptRows if target.terms > MOST_TERMS else Moments for target in wave}
        sums: dict[str, tuple[Any, Any]] = {name: (kind(), kind()) for name, kind in kinds.items()}
        originals = {target.weight: target.originals(self.weights[target.weight]) for target in wave}
        olds = {before.operand for target in wave for before, _ in target.pairs}
        news = {after.operand for target in wave for _, after in target.pairs}
        every = min(2 if self.crossed else HELD_OUT, len(self.batches))
        streams = zip(self.original(sorted(olds)), self.pruned(sorted(news)), strict=True)
        for number, (old, new) in enumerate(streams):
            for target in wave:
                held_out = number % every == every - 1 and len(self.batches) > 1
                for x, y in self._rows(target, originals[target.weight], old, new, number):
                    sums[target.weight][held_out].add(x, y)
        changes: dict[str, Array] = {}
        for target in wave:
            refit = self._solve(target, *sums[target.weight])
            changes |= {name: self.values[name] for name in target.touched}
            yield refit
        self.pruned.change(changes)

    def _rows(
        self,
        target: _Target,
        originals: Sequence[NDArray[np.float32]],
        old: Mapping[str, Array],
        new: Mapping[str, Array],
        number: int,
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Rows of what the cut model gives, and what the original puts out, of each use of a weight."""
        most = MOST_KEPT if target.terms > MOST_TERMS else max(ROWS, ROWS_A_TERM * target.terms)
        most = most // len(self.batches) + 1
        for (before, after), matrix in zip(target.pairs, originals, strict=True):
            draw = Draw(most, number)
            x = after.product.rows(new[after.operand].astype(np.float32), draw)
            given = before.product.rows(self._of_kept_rows(old[before.operand], before), draw)
            yield x, target.pick(given @ matrix)

    def _of_kept_rows(self, operand: Array, use: Use) -> NDArray[np.float32]:
        """The original's operand without the rows that are gone: those along channels that are not summed."""
        keeps = self._keeps(use.operand) or []
        for axis, keep in enumerate(keeps):
            summed = {place % operand.ndim for place in use.product.summed if place >= -operand.ndim}
            if axis not in summed and len(keep) < operand.shape[axis] == self._length(use.operand, axis):
                operand = operand.take(keep, axis)
        return operand.astype(np.float32)

    def _length(self, name: str, axis: int) -> int:
        """The size of an axis in the analysis, whose labels `_keeps` counts."""
        return len(self.coupling.labelling.axes[name][axis])

    def _solve(self, target: _Target, learnt: S, held_out: S) -> Refit:
        """Put the new weight, and what is added, among the values."""
        stored = self.values[target.weight]
        start: NDArray[np.float64] = stored.astype(np.float64).reshape(-1)[target.places]
        start = np.concatenate([start, np.zeros((*start.shape[::2],))[:, None]], 1)
        if not held_out.count:  # a single batch
            held_out = learnt
        if not learnt.count or not (learnt.finite and held_out.finite):
            return Refit(target.weight, float("nan"), float("nan"))
        found = fitted(learnt, held_out, start, target.shift is not None, self.crossed)
        new = np.array(stored, np.float64).reshape(-1)
        new[target.places] = found.weights[:, :-1]
        self.values[target.weight] = new.reshape(stored.shape).astype(stored.dtype)
        if target.shift is not None:
            target.shift.add(self.values, found.weights[:, -1])
        return Refit(target.weight, found.before, found.after)


@dataclass(frozen=True)
class _Target:
    """A weight to refit: its uses before and after the cut, and where its elements stand in matrices."""

    weight: str
    pairs: tuple[tuple[Use, Use], ...]
    places: NDArray[np.int64]  # of the stored weight after the cut [groups, terms, outputs]
    columns: NDArray[np.int64]  # of the original's outputs that stay [groups, outputs]
    shift: Shift | None

    @classmethod
    def of(
        cls,
        weight: str,
        pairs: tuple[tuple[Use, Use], ...],
        shape: tuple[int, ...],
        keeps: list[NDArray[np.int64]],
        shift: Shift | None,
    ) -> _Target | None:
        """None if the cut does not leave whole columns of the original's matrices, or its uses differ in form."""
        numbers = np.arange(int(np.prod(shape))).reshape(shape)
        smaller = numbers[np.ix_(*keeps)]
        forms = []
        for before, after in pairs:
            whole, left = before.matrix(numbers), after.matrix(smaller)
            column = np.empty(numbers.size, np.int64)
            column[whole] = np.arange(whole.shape[0] * whole.shape[2]).reshape(whole.shape[0], 1, -1)
            columns = column[left]
            places = after.matrix(np.arange(smaller.size).reshape(smaller.shape))
            if not left.size or (columns != columns[:, :1]).any():
                return None
            forms.append((places, columns[:, 0]))
        alike = all(np.array_equal(a, b) for form in forms[1:] for a, b in zip(form, forms[0], strict=True))
        return cls(weight, pairs, *forms[0], shift) if alike else None

    def originals(self, weight: Array) -> list[NDArray[np.float32]]:
        """The original's matrices, one for each use."""
        return [before.matrix(weight.astype(np.float32)) for before, _ in self.pairs]

    @property
    def uses(self) -> list[Use]:
        return [after for _, after in self.pairs]

    @property
    def last(self) -> int:
        return max(use.place for use in self.uses)

    @property
    def terms(self) -> int:
        return int(self.places.shape[1])

    @property
    def touched(self) -> list[str]:
        """The initializers that a refit changes."""
        return [self.weight, *([self.shift.name] if self.shift else [])]

    def pick(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """The outputs that stay, of [groups, rows, outputs] of the original, as after the cut."""
        groups, rows, count = outputs.shape
        flat = outputs.swapaxes(0, 1).reshape(rows, groups * count)
        return flat[:, self.columns].swapaxes(0, 1)


def _changed(cut: onnx.ModelProto, before: Mapping[str, Array], rewired: set[str]) -> set[str]:
    """The values of a cut model that are not what they were; `rewired` are some that others are made from now."""
    changed = {
        tensor.name
        for tensor in cut.graph.initializer
        if tensor.name in before and tuple(tensor.dims) != before[tensor.name].shape
    }
    for node in cut.graph.node:
        if changed & read_by(node) or rewired & {*node.output}:
            changed.update(filter(None, node.output))
    return changed


def _waves(cut: onnx.ModelProto, targets: Sequence[_Target]) -> list[list[_Target]]:
    """The weights in order, those that do not depend on one another together."""
    waves: list[list[_Target]] = []
    fresh: set[str] = set()  # what depends on the weights of the last wave
    reads = [(read_by(node), [name for name in node.output if name]) for node in cut.graph.node]
    for target in targets:
        operands = {use.operand for use in target.uses}
        if not waves or operands & fresh:
            waves.append([])
            fresh = set()
        waves[-1].append(target)
        fresh.update(name for use in target.uses for name in reads[use.place][1])
        for names, made in reads[min(use.place for use in target.uses) :]:
            if not fresh.isdisjoint(names):
                fresh.update(made)
    return waves
