"""What a model costs, as a function of how many units of each group are kept.

Every cost is a sum of terms: a coefficient times a product of axis lengths. The length of an axis is its pinned
labels plus, for each group, the labels per unit times the units kept. The same terms are counted here with numpy
and written into the training objective as nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from tgonnx import ops
from tgonnx.analysis.model import Node
from tgonnx.errors import UsageError
from tgonnx.ops.aspects.relations import Labels, distinct
from tgonnx.ops.aspects.view import Unlabelled, View

if TYPE_CHECKING:
    from tgonnx.analysis.coupling import Coupling

Kind = Literal["flops", "params", "channels"]
KINDS: tuple[Kind, ...] = ("flops", "params", "channels")
FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
QUANTISED_TYPES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
PARAMETER_TYPES = FLOAT_TYPES + QUANTISED_TYPES


@dataclass(frozen=True)
class Target:
    """How much may stay, as a ratio of the original; exactly one of the three is given. Raises UsageError."""

    flops: float | None = None
    params: float | None = None
    channels: float | None = None

    def __post_init__(self) -> None:
        given = [k for k in KINDS if getattr(self, k) is not None]
        if len(given) != 1:
            raise UsageError("a target names exactly one of flops, params, channels")
        if not 0 < self.value <= 1:
            raise UsageError(f"target {self}: the ratio must be above 0 and at most 1")

    @classmethod
    def parse(cls, text: str) -> Target:
        """`flops=0.5` and the like. Raises UsageError."""
        kind, equals, value = text.partition("=")
        if kind.strip() not in KINDS or not equals:
            raise UsageError(f"target {text!r} is not one of flops=R, params=R, channels=R with a ratio R")
        try:
            return cls(**{kind.strip(): float(value)})
        except ValueError:
            raise UsageError(f"target {text!r}: {value!r} is not a number") from None

    @property
    def kind(self) -> Kind:
        return next(k for k in KINDS if getattr(self, k) is not None)

    @property
    def value(self) -> float:
        return float(getattr(self, self.kind))

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"


@dataclass(frozen=True)
class Cost:
    """FLOPs per sample (two per multiply-accumulate of Conv, Gemm, MatMul, ...), parameters, and channels."""

    flops: float
    params: int
    channels: int


@dataclass(frozen=True)
class Term:
    """`coefficient` times the product of the lengths of `axes` (numbers into `CostModel.lengths`)."""

    coefficient: float
    axes: tuple[int, ...]
    owner: str  # the node or initializer


class CostModel:
    """FLOPs, parameters and channels of a coupling, for any mask.

    Units are counted by kind (units in exactly the same axes; most groups are of one kind): `kind_of` is [units],
    `sizes` is [kinds]. Every distinct axis has a number; `fixed` is [axes]: pinned labels. `uncounted` names the
    nodes with weights that are missing from the FLOPs, as it is not known what they multiply.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.kind_of = coupling.kind_of
        self.sizes = np.bincount(self.kind_of) if coupling.units else np.zeros(0, np.int64)
        self.uncounted: tuple[str, ...] = ()
        self._rows: dict[tuple[int, ...], int] = {}  # pinned labels, then kind and labels per unit in turn
        self.terms: Mapping[Kind, tuple[Term, ...]] = {
            "flops": tuple(self._flops()),
            "params": tuple(self._params()),
            "channels": tuple(self._channels()),
        }
        self.fixed = np.array([row[0] for row in self._rows], np.int64)
        held = [
            (axis, *pair)
            for axis, row in enumerate(self._rows)
            for pair in zip(row[1::2], row[2::2], strict=True)
        ]
        self._held = np.array(held, np.int64).reshape(-1, 3)
        self._products = {kind: _Products(terms, len(self.fixed)) for kind, terms in self.terms.items()}
        self.totals = {kind: self.count(kind, self.sizes) for kind in KINDS}

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[axes, kinds]: labels of each kind's unit in each distinct axis."""
        table = np.zeros((len(self.fixed), len(self.sizes)), np.int64)
        axis, kind, labels = self._held.T
        table[axis, kind] = labels
        return table

    def axis_lengths(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The length of each distinct axis with `counts` units kept of each kind."""
        axis, kind, labels = self._held.T
        return np.asarray(self.fixed + np.bincount(axis, labels * counts[kind], len(self.fixed)), np.float64)

    def _axis(self, labels: Labels) -> int:
        units = self.coupling.unit_of[distinct(labels)]
        held = units[units >= 0]
        kinds, counts = np.unique(self.kind_of[held], return_counts=True)
        return self._row(kinds, counts // self.sizes[kinds], len(labels) - len(held))

    def _row(self, kinds: npt.NDArray[np.int64], per_unit: npt.NDArray[np.int64], fixed: int) -> int:
        pairs = np.stack([kinds, per_unit], axis=1)[per_unit > 0]
        return self._rows.setdefault((fixed, *pairs.ravel().tolist()), len(self._rows))

    def _flops(self) -> Iterator[Term]:
        model = self.coupling.model
        for node, view in zip(model.nodes, self.coupling.views, strict=True):
            products = self._multiplications(node, view)
            if products is None:
                self.uncounted += (f"{view.label} ({node.op_type})",)
                continue
            for coefficient, axes in products:
                yield Term(2 * coefficient / model.batch, tuple(self._axis(a) for a in axes), view.label)

    def _multiplications(self, node: Node, view: View) -> list[tuple[float, tuple[Labels, ...]]] | None:
        """What a node multiplies and accumulates; None if it has weights and nobody knows what it does to them."""
        entry = ops.cost.get(node.op_type, node.domain)
        if entry is not None and all(o is not None for o in (*view.inputs[:2], *view.outputs[:1])):
            try:
                return list(entry(view))
            except (LookupError, ValueError, TypeError, ArithmeticError, Unlabelled):  # not foreseen
                return None
        understood = entry is None and not node.captures and ops.rule.get(node.op_type, node.domain)
        stored = self.coupling.model.initializers
        held = [stored[name] for name in (*node.inputs, *node.captures) if name in stored]
        weighted = any(len(t.dims) >= 2 and t.data_type in PARAMETER_TYPES for t in held)
        return None if weighted and not understood else []

    def _params(self) -> Iterator[Term]:
        for name, tensor in self.coupling.model.initializers.items():
            if tensor.data_type in PARAMETER_TYPES and name in self.coupling.labelling.axes:
                yield Term(1.0, tuple(self._axis(a) for a in self.coupling.labelling.axes[name]), name)

    def _channels(self) -> Iterator[Term]:
        for group in self.coupling.groups:
            kinds = np.unique(self.kind_of[group.units])
            yield Term(1.0, (self._row(kinds, np.full_like(kinds, group.width), 0),), group.name)

    def open_counts(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Units kept of each kind."""
        return np.bincount(self.kind_of[mask], minlength=len(self.sizes))

    def count(self, kind: Kind, counts: npt.NDArray[np.int64]) -> float:
        """The cost with `counts` units kept of each kind."""
        return float(sum(self._products[kind](self.axis_lengths(counts)).tolist()))

    def ratio(self, mask: npt.NDArray[np.bool_], kind: Kind) -> float:
        """What is left of the original's cost."""
        return self.count(kind, self.open_counts(mask)) / max(self.totals[kind], 1e-30)

    def cost(self, mask: npt.NDArray[np.bool_] | None = None) -> Cost:
        counts = self.sizes if mask is None else self.open_counts(mask)
        flops, params, channels = (self.count(kind, counts) for kind in KINDS)
        return Cost(flops, round(params), round(channels))

    def by_owner(self, kind: Kind, counts: npt.NDArray[np.int64] | None = None) -> dict[str, float]:
        """The cost of each node (flops) or initializer (params)."""
        costs = self._products[kind](self.axis_lengths(self.sizes if counts is None else counts))
        table: dict[str, float] = {}
        for term, cost in zip(self.terms[kind], costs.tolist(), strict=True):
            table[term.owner] = table.get(term.owner, 0.0) + cost
        return table


class _Products:
    """The value of each term at given lengths of the axes: one axis more, of length 1, fills up shorter terms."""

    def __init__(self, terms: Sequence[Term], axes: int) -> None:
        rank = max((len(term.axes) for term in terms), default=0)
        filled = [[*term.axes, *[axes] * (rank - len(term.axes))] for term in terms]
        self.axes = np.array(filled, np.int64).reshape(len(terms), rank)
        self.coefficients = np.array([term.coefficient for term in terms], np.float64)

    def __call__(self, lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        filled = np.append(lengths, 1.0)
        return np.asarray(self.coefficients * filled[self.axes].prod(axis=1), np.float64)
