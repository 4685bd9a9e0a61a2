"""From measurements of a model and of cut copies of it to what each operator takes.

What a runtime records under one name may be several nodes: those that were never recorded belong to the ones beside
them, and are fitted with them. Operators that are alike (same types, work and size) share their figures. The staircase
of a type of operators is the one, of a few, under which all its operators are fitted best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import Axes, Counts, Term
from tgonnx.analysis.time_clusters import Cluster, clusters_of
from tgonnx.analysis.times import FLAT, Lengths, Profile, Rates, Staircase, elements_of, predicted, work_of

STAIRS = tuple(Staircase(block, linear) for block in (16, 8, 4, 1) for linear in (False, True))
CLEAR = 0.9  # finer stairs must fit that much better
ALIGNED = 4  # what fast kernels want; whether it matters is measured
SLOW = 1.1  # a penalty below is none

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One copy of a model: units kept of each kind, microseconds of a run, and of its operators by first output.

    `operators` is empty where only the whole was timed. What belongs to no node has the name "".
    """

    counts: Counts
    us: float
    operators: Mapping[str, float] = field(default_factory=dict)


def fitted(coupling: Coupling, measured: Sequence[Measured]) -> Profile:
    """The profile that fits best; the first measurement is of the whole model."""
    axes = Axes(coupling)
    work, elements = work_of(axes), elements_of(axes)
    records = [{name for name in one.operators if name} for one in measured]
    clusters = clusters_of(coupling, axes, work, elements, records)
    lengths = [axes.lengths(one.counts) for one in measured]
    varies = np.asarray(axes.per_unit.any(axis=1))
    bench = _Bench(lengths, varies, measured)
    if any(records):
        stairs, rates = bench.by_operator(clusters)
    else:
        stairs, rates = bench.by_type(clusters, elements.values())
    profile = Profile(coupling.model.structure, tuple(rates), stairs, original_us=measured[0].us)
    return _as_measured(coupling, profile, measured, bench, bench.added(elements.values()))


@dataclass(frozen=True)
class _Bench:
    """What was measured, with the length of each axis there."""

    lengths: Sequence[Lengths]
    varies: npt.NDArray[np.bool_]
    measured: Sequence[Measured]

    def _priced(self, stairs: Staircase) -> list[Lengths]:
        return [np.where(self.varies, stairs.of(each), each) for each in self.lengths]

    def features(self, cluster: Cluster, stairs: Staircase) -> Numbers:
        """[measurements, 3]: one, work, elements."""
        priced = self._priced(stairs)
        rows = [(1.0, _work(cluster.work, each), _product(cluster.elements, each)) for each in priced]
        return np.array(rows, np.float64)

    def times(self, cluster: Cluster) -> Numbers:
        """[measurements]: microseconds."""
        return np.array(
            [sum(one.operators.get(name, 0.0) for name in cluster.outputs) for one in self.measured]
        )

    def by_operator(self, clusters: Sequence[Cluster]) -> tuple[dict[str, Staircase], list[Rates]]:
        """Figures for each operator by itself, or with those that are alike."""
        families: dict[tuple[object, ...], list[Cluster]] = defaultdict(list)
        for cluster in clusters:
            _, work, size = self.features(cluster, FLAT)[0].round().tolist()
            families[(cluster.op_type, len(cluster.outputs), work, size)].append(cluster)
        by_type: dict[str, list[list[Cluster]]] = defaultdict(list)
        for family in families.values():
            by_type[family[0].op_type].append(family)
        stairs, rates = dict[str, Staircase](), list[Rates]()
        for op_type, alike in by_type.items():
            stairs[op_type] = self._stairs_of(alike)
            for family in alike:
                values, _ = self._solved(family, stairs[op_type])
                rates += [Rates(cluster.outputs, op_type, *values.tolist()) for cluster in family]
        return stairs, rates

    def _stairs_of(self, families: Sequence[Sequence[Cluster]]) -> Staircase:
        """The stairs that fit a type of operators best, the coarsest unless finer ones are clearly better."""
        if not any(cluster.work for family in families for cluster in family):
            return FLAT
        best, least = FLAT, np.inf
        for stairs in STAIRS:
            error = sum(self._solved(family, stairs)[1] for family in families)
            if error < CLEAR * least:
                best, least = stairs, error
        return (
            replace(best, aligned=ALIGNED, penalty=penalty)
            if (penalty := self._penalty(families, best))
            else best
        )

    def _penalty(self, families: Sequence[Sequence[Cluster]], stairs: Staircase) -> float:
        """How many times as long odd counts take, beside what even ones lead to expect; 0 if no longer."""
        odd = self.odd
        if odd.all() or not odd.any():
            return 0.0
        ratios = [
            self.times(cluster)[odd] / np.maximum(self.features(cluster, stairs)[odd] @ values, 1e-9)
            for family in families
            for values, _ in [self._solved(family, stairs)]
            for cluster in family
            if cluster.work
        ]
        slower = float(np.median(np.concatenate(ratios))) if ratios else 0.0
        return slower if slower > SLOW else 0.0

    @cached_property
    def odd(self) -> npt.NDArray[np.bool_]:
        """[measurements]: whether most counts are no multiples that fast kernels want."""
        return np.array(
            [
                np.mean(each[self.varies] % ALIGNED != 0) > 0.5 if self.varies.any() else False
                for each in self.lengths
            ]
        )

    def _solved(self, family: Sequence[Cluster], stairs: Staircase) -> tuple[Numbers, float]:
        """The figures that operators share, and the sum of squared errors; odd counts are left out."""
        even = ~self.odd
        rows = np.concatenate([self.features(cluster, stairs)[even] for cluster in family])
        taken = np.concatenate([self.times(cluster)[even] for cluster in family])
        weight = 1 / np.sqrt(taken + 1)  # a tenth of a long time weighs more than half of a short one
        values = non_negative(rows * weight[:, None], taken * weight)
        return values, float(np.square((rows @ values - taken) * weight).sum())

    def by_type(
        self, clusters: Sequence[Cluster], elements: Iterable[tuple[int, ...]]
    ) -> tuple[dict[str, Staircase], list[Rates]]:
        """Figures for each type of operators: all that the times of whole models can tell."""
        types = list(dict.fromkeys(cluster.op_type for cluster in clusters if cluster.work))
        taken = np.array([one.us for one in self.measured])
        sizes = np.array([sum(_product(numbers, each) for numbers in elements) for each in self.lengths])
        best, least, values = FLAT, np.inf, np.zeros(len(types) + 2)
        for stairs in STAIRS:
            columns = [np.ones_like(taken), sizes]
            for op_type in types:
                mine = [term for cluster in clusters if cluster.op_type == op_type for term in cluster.work]
                columns.append(np.array([_work(mine, each) for each in self._priced(stairs)]))
            rows = np.stack(columns, 1)
            found = non_negative(rows, taken)
            error = float(np.square((rows @ found - taken) / taken).sum())
            if error < CLEAR * least:
                best, least, values = stairs, error, found
        per_work = dict(zip(types, values[2:].tolist(), strict=True))
        rates = [
            Rates(cluster.outputs, cluster.op_type, 0.0, per_work[cluster.op_type], float(values[1]))
            for cluster in clusters
            if cluster.work
        ]
        return dict.fromkeys(types, best), rates

    def added(self, elements: Iterable[tuple[int, ...]]) -> Numbers:
        """[measurements, 2]: the microseconds that belong to no node, and the elements of all values."""
        axes = list(elements)
        return np.array(
            [
                (one.operators.get("", 0.0), sum(_product(numbers, each) for numbers in axes))
                for one, each in zip(self.measured, self.lengths, strict=True)
            ]
        )


def _as_measured(
    coupling: Coupling, profile: Profile, measured: Sequence[Measured], bench: _Bench, added: Numbers
) -> Profile:
    """The profile with what runtimes add, brought to the time that whole models take.

    Recording takes its time, too, the same for each operator: what does not depend on counts is fitted anew.
    """
    even = ~bench.odd
    per_element = float(added[:, 0].sum() / max(added[:, 1].sum(), 1e-30))
    profile = replace(profile, added=per_element)
    moving = replace(profile, rates=tuple(replace(one, fixed=0.0) for one in profile.rates))
    costs, still = predicted(Axes(coupling), moving), sum(one.fixed for one in profile.rates)
    taken = np.array([one.us for one in measured])
    foreseen = np.array([costs.count(one.counts) for one in measured])
    rows = np.stack([np.ones_like(taken), foreseen], 1) / taken[:, None]
    fixed, scale = non_negative(rows[even], np.ones_like(taken)[even])
    share = fixed / still if still else 1.0
    rates = tuple(
        replace(
            one, fixed=one.fixed * share, per_work=one.per_work * scale, per_element=one.per_element * scale
        )
        for one in profile.rates
    )
    profile = replace(profile, rates=rates, added=per_element * scale, fixed=0.0 if still else float(fixed))
    foreseen = scale * foreseen + fixed
    error = float(np.abs(foreseen / foreseen[0] - taken / taken[0])[even].mean())
    return replace(profile, error=error)


def non_negative(rows: Numbers, wanted: Numbers) -> Numbers:
    """Least squares with coefficients that are not negative: rows [n, k], wanted [n]. Tries all sets of columns."""
    scale = np.maximum(np.sqrt(np.square(rows).sum(0)), 1e-30)
    columns = range(rows.shape[1])
    best, least = np.zeros(len(scale)), float(np.square(wanted).sum())
    for chosen in (list(some) for count in columns for some in combinations(columns, count + 1)):
        part = rows[:, chosen] / scale[chosen]
        values = np.linalg.lstsq(part, wanted, rcond=1e-9)[0]
        error = float(np.square(part @ values - wanted).sum())
        if (values >= 0).all() and error < least - 1e-12:
            best, least = np.zeros(len(scale)), error
            best[chosen] = values
    return np.asarray(best / scale, np.float64)


def _work(terms: Iterable[Term], lengths: Lengths) -> float:
    return sum(term.coefficient * _product(term.axes, lengths) for term in terms)


def _product(numbers: tuple[int, ...] | None, lengths: Lengths) -> float:
    return 0.0 if numbers is None else float(lengths[list(numbers)].prod())
