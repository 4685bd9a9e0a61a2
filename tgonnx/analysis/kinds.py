"""Kinds of cost: what a target can be a share of, counted for a choice of units and written into the objective.

FLOPs, parameters and channels are sums of terms, each a coefficient times a product of axis lengths (`Products`). The
length of an axis is its pinned labels plus, for each kind of unit, the labels per unit times the units kept. `latency`
is a sum of such terms, too, of lengths in whole blocks (`tgonnx.analysis.times`). A new kind is a function that makes
a `Measure`, and a word in `KINDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from tgonnx import ops
from tgonnx.analysis.model import Node
from tgonnx.errors import OptionError
from tgonnx.graph.builder import Emitter, Value
from tgonnx.io.checker import byte_size
from tgonnx.ops.aspects.relations import Labels, distinct
from tgonnx.ops.aspects.view import Unlabelled, View
from tgonnx.strategies import find

if TYPE_CHECKING:
    from tgonnx.analysis.coupling import Coupling, Group

Kind = str  # a name in the table
Counts = npt.NDArray[Any]  # units kept of each kind of unit
FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
QUANTISED_TYPES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
PARAMETER_TYPES = FLOAT_TYPES + QUANTISED_TYPES


class Measure(Protocol):
    """One kind of cost of one model. `uncounted` names the nodes that are missing from it.

    `block` is the number of channels that are paid for at once, 0 where each counts.
    """

    uncounted: tuple[str, ...]
    block: int

    def count(self, counts: Counts) -> float:
        """The cost with `counts` units kept of each kind of unit."""

    def emit(self, emitter: Emitter, kept: Value) -> Value:
        """The same as nodes, divided by the cost of all units: a scalar, from how far each unit is kept, [units, 1]."""

    def by_owner(self, counts: Counts) -> dict[str, float]:
        """The cost of each node or initializer."""


@dataclass(frozen=True, kw_only=True)
class CostKind:
    """A kind of cost by name: one entry of the table `KINDS`.

    `even` maps a share of the cost to the share of channels that leaves it, if all groups are cut alike.
    """

    name: str
    measure: Callable[[Axes], Measure]
    even: Callable[[float], float] = math.sqrt


class Axes:
    """The distinct axes of a coupling, by number: those that are asked for, before any length is.

    Units are counted by kind (units in exactly the same axes): `kind_of` is [units], `sizes` is [kinds].
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.kind_of = coupling.kind_of
        self.sizes = np.bincount(self.kind_of) if coupling.units else np.zeros(0, np.int64)
        self._rows: dict[tuple[int, ...], int] = {}  # pinned labels, then kind and labels per unit in turn

    def number(self, labels: Labels) -> int:
        """The axis that holds these labels."""
        units = self.coupling.unit_of[distinct(labels)]
        held = units[units >= 0]
        kinds, counts = np.unique(self.kind_of[held], return_counts=True)
        return self._row(kinds, counts // self.sizes[kinds], len(labels) - len(held))

    def of_group(self, group: Group) -> int:
        """An axis of all channels of a group."""
        kinds = np.unique(self.kind_of[group.units])
        return self._row(kinds, np.full_like(kinds, group.width), 0)

    def _row(self, kinds: npt.NDArray[np.int64], per_unit: npt.NDArray[np.int64], fixed: int) -> int:
        pairs = np.stack([kinds, per_unit], axis=1)[per_unit > 0]
        return self._rows.setdefault((fixed, *pairs.ravel().tolist()), len(self._rows))

    @cached_property
    def fixed(self) -> npt.NDArray[np.int64]:
        """[axes]: pinned labels."""
        return np.array([row[0] for row in self._rows], np.int64)

    @cached_property
    def _held(self) -> npt.NDArray[np.int64]:
        """Axis, kind of unit, labels per unit."""
        held = [
            (axis, *pair)
            for axis, row in enumerate(self._rows)
            for pair in zip(row[1::2], row[2::2], strict=True)
        ]
        return np.array(held, np.int64).reshape(-1, 3)

    @cached_property
    def per_unit(self) -> npt.NDArray[np.int64]:
        """[axes, kinds]: labels of each kind's unit in each distinct axis."""
        table = np.zeros((len(self.fixed), len(self.sizes)), np.int64)
        axis, kind, labels = self._held.T
        table[axis, kind] = labels
        return table

    def lengths(self, counts: Counts) -> npt.NDArray[np.float64]:
        """The length of each distinct axis with `counts` units kept of each kind."""
        axis, kind, labels = self._held.T
        return np.asarray(self.fixed + np.bincount(axis, labels * counts[kind], len(self.fixed)), np.float64)


@dataclass(frozen=True)
class Term:
    """`coefficient` times the product of the lengths of `axes`, by number."""

    coefficient: float
    axes: tuple[int, ...]
    owner: str  # the node or initializer


class Products:
    """A sum of terms."""

    block = 0

    def __init__(self, axes: Axes, terms: Sequence[Term], uncounted: Sequence[str] = ()) -> None:
        self.axes, self.terms, self.uncounted = axes, tuple(terms), tuple(uncounted)
        rank = max((len(term.axes) for term in terms), default=0)
        filled = [[*term.axes, *[-1] * (rank - len(term.axes))] for term in terms]
        self._factors = np.array(filled, np.int64).reshape(len(terms), rank)
        self._coefficients = np.array([term.coefficient for term in terms], np.float64)

    def values(self, counts: Counts) -> npt.NDArray[np.float64]:
        """The value of each term. One axis more, the last, of length 1, fills up shorter terms."""
        lengths = np.append(self.axes.lengths(counts), 1.0)
        return np.asarray(self._coefficients * lengths[self._factors].prod(axis=1), np.float64)

    def count(self, counts: Counts) -> float:
        return float(sum(self.values(counts).tolist()))

    def by_owner(self, counts: Counts) -> dict[str, float]:
        table: dict[str, float] = {}
        for term, cost in zip(self.terms, self.values(counts).tolist(), strict=True):
            table[term.owner] = table.get(term.owner, 0.0) + cost
        return table

    def emit(self, emitter: Emitter, kept: Value) -> Value:
        """Each term is its share of the total times the kept fraction of every axis."""
        e, axes = emitter, self.axes
        full = axes.fixed + axes.per_unit @ axes.sizes
        values = self.values(axes.sizes)
        kept_terms = [
            (t, v) for t, v in zip(self.terms, values.tolist(), strict=True) if all(full[a] for a in t.axes)
        ]
        terms = [term for term, _ in kept_terms]
        rank = max((len(t.axes) for t in terms), default=0)
        share = [value / float(values.sum()) for _, value in kept_terms]
        per_unit = axes.per_unit[:, axes.kind_of] / np.maximum(full, 1)[:, None]
        fixed = axes.fixed / np.maximum(full, 1)
        # one axis more, of fraction 1, fills up terms of fewer axes
        per_unit = np.vstack([per_unit, np.zeros(per_unit.shape[1])]).astype(np.float32)
        fraction = e.matmul(e.constant(per_unit), kept).reshape([-1])
        fraction = fraction + e.constant(np.append(fixed, 1.0).astype(np.float32))
        factors = np.array([[*t.axes, *[len(full)] * (rank - len(t.axes))] for t in terms], np.int64)
        product = e.constant(np.array(share, np.float32))
        for column in factors.T:
            product = product * e.op("Gather", fraction, e.constant(column), axis=0)
        return product.sum(None, False)


def _flops(axes: Axes) -> Products:
    """FLOPs per sample: two per multiply-accumulate of Conv, Gemm, MatMul, ..."""
    coupling, terms, uncounted = axes.coupling, list[Term](), list[str]()
    for node, view in zip(coupling.model.nodes, coupling.views, strict=True):
        if node.index in coupling.gone.nodes:
            continue
        products = multiplications(coupling, node, view)
        if products is None:
            uncounted.append(f"{view.label} ({node.op_type})")
            continue
        for coefficient, factors in products:
            numbers = tuple(axes.number(a) for a in factors)
            terms.append(Term(2 * coefficient / coupling.model.batch, numbers, view.label))
    return Products(axes, terms, uncounted)


def multiplications(
    coupling: Coupling, node: Node, view: View
) -> list[tuple[float, tuple[Labels, ...]]] | None:
    """What a node multiplies and accumulates; None if it has weights and nobody knows what it does to them."""
    entry = ops.cost.get(node.op_type, node.domain)
    if entry is not None and all(o is not None for o in (*view.inputs[:2], *view.outputs[:1])):
        try:
            return list(entry(view))
        except (LookupError, ValueError, TypeError, ArithmeticError, Unlabelled):  # not foreseen
            return None
    understood = entry is None and not node.captures and ops.rule.get(node.op_type, node.domain)
    stored = coupling.model.initializers
    held = [stored[name] for name in (*node.inputs, *node.captures) if name in stored]
    weighted = any(len(t.dims) >= 2 and t.data_type in PARAMETER_TYPES for t in held)
    return None if weighted and not understood else []


def _params(axes: Axes) -> Products:
    return Products(axes, list(_parameters(axes)))


def _parameters(axes: Axes) -> Iterator[Term]:
    labelled, gone = axes.coupling.labelling.axes, axes.coupling.gone.initializers
    for name, tensor in axes.coupling.model.initializers.items():
        if tensor.data_type in PARAMETER_TYPES and name in labelled and name not in gone:
            yield Term(1.0, tuple(axes.number(a) for a in labelled[name]), name)


def _channels(axes: Axes) -> Products:
    groups, gone = axes.coupling.groups, axes.coupling.gone_groups
    left = (group for number, group in enumerate(groups) if number not in gone)
    return Products(axes, [Term(1.0, (axes.of_group(group),), group.name) for group in left])


def _size(axes: Axes) -> Products:
    """Bytes of the file: those of the initializers, and the rest of it, which stays as it is.

    Near enough: surgery may store a size or two more.
    """
    labelled, model = axes.coupling.labelling.axes, axes.coupling.model
    terms = list[Term]()
    for name, tensor in model.initializers.items():
        elements = math.prod(tensor.dims)
        if name in labelled and elements and tensor.data_type != TensorProto.STRING:
            numbers = tuple(axes.number(a) for a in labelled[name])
            terms.append(Term(byte_size(tensor) / elements, numbers, name))
    stored = sum(byte_size(model.initializers[term.owner]) for term in terms)
    terms.append(Term(float(max(model.file_bytes - stored, 0)), (), "the rest of the file"))
    terms = [term for term in terms if term.owner not in axes.coupling.gone.initializers]
    return Products(axes, terms)


def _nonzeros(axes: Axes) -> Products:
    """Elements of kernels and matrices that are not zero."""
    coupling, labelled = axes.coupling, axes.coupling.labelling.axes
    terms = [
        Term(coupling.thinned.get(name, size) / size, tuple(axes.number(a) for a in labelled[name]), name)
        for name, size in coupling.model.single_weights.items()
        if name in labelled and name not in coupling.gone.initializers
    ]
    return Products(axes, terms)


def _latency(axes: Axes) -> Products:
    raise OptionError(
        "target",
        f"latency is known once {axes.coupling.model.source} was measured: give a profile (`tgonnx profile`)",
    )


KINDS: dict[str, CostKind] = {
    kind.name: kind
    for kind in (
        CostKind(name="flops", measure=_flops),
        CostKind(name="params", measure=_params),
        CostKind(name="channels", measure=_channels, even=float),
        CostKind(name="size", measure=_size),
        CostKind(name="nonzeros", measure=_nonzeros),
        CostKind(name="latency", measure=_latency),
    )
}


def register(kind: CostKind) -> None:
    """Let `target="NAME=0.5"` mean this kind of cost; one of the same name is replaced."""
    KINDS[kind.name] = kind


def named(name: str) -> CostKind:
    """The kind of cost of that name. Raises UsageError that lists the known ones."""
    return find(KINDS, name, "kind of cost")
