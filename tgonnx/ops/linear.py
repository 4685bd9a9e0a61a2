"""Matrix products: Gemm, MatMul, Einsum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise

import numpy as np
from onnx import NodeProto

from tgonnx.graph.builder import Value
from tgonnx.graph.proto import attribute_of
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.products import (
    Draw,
    Product,
    one_group,
    plain_matrix,
    plain_rows,
    turned_matrix,
    turned_rows,
)
from tgonnx.ops.aspects.relations import Labels, Relation, Site, Term, Tie
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.sums import Sum
from tgonnx.ops.aspects.tables import cost, fixes, gradient, products, rule, sums
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Operand, Unlabelled, View, broadcast, contract

traits("Gemm", are=Traits(weights=(0, 1, 2), common=True, native_gradient=True))


@fixes("Gemm")
def gemm_columns(node: NodeProto, weight: tuple[int, ...], rank: int) -> tuple[int, int] | None:
    turned, across = (attribute_of(node, name, 0) for name in ("transA", "transB"))
    return (0 if turned else 1, weight[1 if across else 0]) if rank == 2 else None


@rule("Gemm")
def gemm(view: View) -> Iterator[Relation]:
    a, b, y = view.input(0), view.input(1), view.output()
    m, k = (1, 0) if view.attribute("transA", 0) else (0, 1)
    k2, n = (1, 0) if view.attribute("transB", 0) else (0, 1)
    yield Tie(a[m], y[0])
    yield Tie(b[n], y[1])
    yield from contract(a, k, b, k2)
    if view.has(2):
        yield from broadcast([view.input(2)], y)


@cost("Gemm")
def gemm_cost(view: View) -> list[Term]:
    a, y = view.input(0), view.output()
    return [(1.0, (y[0], y[1], a[0 if view.attribute("transA", 0) else 1]))]


@gradient("Gemm")
def gemm_gradient(row: Row) -> Grads:
    """alpha A' B' + beta C, where ' is an optional transposition."""
    a, b, dy = row.x, row.input(1), row.dy
    ta, tb = int(row.attribute("transA", 0)), int(row.attribute("transB", 0))
    alpha, beta = float(row.attribute("alpha", 1.0)), float(row.attribute("beta", 1.0))
    da = db = dc = None
    if row.need(0):
        operands = (b, dy, tb, 1) if ta else (dy, b, 0, 1 - tb)
        da = row.op("Gemm", *operands[:2], transA=operands[2], transB=operands[3], alpha=alpha)
    if row.need(1):
        operands = (dy, a, 1, ta) if tb else (a, dy, 1 - ta, 0)
        db = row.op("Gemm", *operands[:2], transA=operands[2], transB=operands[3], alpha=alpha)
    if row.need(2):
        dc = row.unbroadcast(dy if beta == 1.0 else dy * beta, row.input(2))
    return [da, db, dc]


@products("Gemm")
def gemm_products(node: NodeProto, constant: Mapping[int, tuple[int, ...]]) -> Iterator[Product]:
    alpha, beta = attribute_of(node, "alpha", 1.0), attribute_of(node, "beta", 1.0)
    turned, across = attribute_of(node, "transA", 0), attribute_of(node, "transB", 0)
    if 1 not in constant:
        return

    def rows(x: Array, draw: Draw) -> Array:
        found: Array = alpha * (turned_rows if turned else plain_rows)(x, draw)
        return found

    along = len(constant.get(2, ())) == 1 and beta == 1.0  # a bias by column
    matrix = turned_matrix if across else plain_matrix
    yield Product(
        0, 1, rows, matrix, 2 if along else None, one_group if along else None, summed=(0 if turned else 1,)
    )


traits("MatMul", are=Traits(weights=(0, 1), common=True))


@rule("MatMul")
def matmul(view: View) -> Iterator[Relation]:
    yield from matrix_product(view.input(0), view.input(1), view.output())


def matrix_product(a: Operand, b: Operand, y: Operand) -> Iterator[Relation]:
    """Sums over the last axis of `a`; leading axes broadcast."""
    yield from contract(a, a.rank - 1, b, max(b.rank - 2, 0))
    batch = [Operand(o.name, o.index, o.axes[:-2], o.static) for o in (a, b)]
    tail = (a.rank > 1) + (b.rank > 1)
    yield from broadcast(batch, Operand(y.name, 0, y.axes[: y.rank - tail]))
    if a.rank > 1:
        yield Tie(a[a.rank - 2], y[y.rank - tail])
    if b.rank > 1:
        yield Tie(b[b.rank - 1], y[y.rank - 1])


@fixes("MatMul")
def matmul_columns(node: NodeProto, weight: tuple[int, ...], rank: int) -> tuple[int, int] | None:
    return (rank - 1, weight[-2]) if len(weight) > 1 and rank else None


@products("MatMul")
def matmul_products(node: NodeProto, constant: Mapping[int, tuple[int, ...]]) -> Iterator[Product]:
    """A weight on either side; one of three axes and more is a matrix for each place of the first ones."""
    if 1 in constant and len(constant[1]) == 2:
        yield Product(0, 1, plain_rows, plain_matrix)
    elif 1 in constant and len(constant[1]) > 2:
        lead = constant[1][:-2]
        rows, summed = partial(_rows_by_matrix, lead=lead), (-1, *range(-2 - len(lead), -2))
        yield Product(0, 1, rows, lambda w: w.reshape(-1, *w.shape[-2:]), summed=summed)
    elif 0 in constant and len(constant[0]) == 2:
        yield Product(1, 0, turned_rows, turned_matrix, summed=(-2,))


def _rows_by_matrix(x: Array, draw: Draw, lead: tuple[int, ...]) -> Array:
    """[..., *lead, rows, terms] -> [groups, rows, terms]; the axes before `lead` are rows, too."""
    n = len(lead)
    if x.ndim < n + 2:
        x = x.reshape((1,) * (n + 2 - x.ndim) + x.shape)
    x = np.broadcast_to(x, (*x.shape[: -n - 2], *lead, *x.shape[-2:]))
    front = x.ndim - n - 2
    x = x.transpose(*range(front, front + n), *range(front), x.ndim - 2, x.ndim - 1)
    x = x.reshape(math.prod(lead), -1, x.shape[-1])
    return x[:, draw(x.shape[1])]


@sums("MatMul")
def summed_by_ones(view: View) -> Sum | None:
    """The product with a matrix of equal numbers."""
    matrix = view.has(1) and view.input(1).rank == 2
    return Sum([view.input(0).rank - 1], times=1) if matrix else None


@cost("MatMul")
def matmul_cost(view: View) -> list[Term]:
    a, y = view.input(0), view.output()
    return [(1.0, (*y.axes, a[a.rank - 1]))]


@gradient("MatMul")
def matmul_gradient(row: Row) -> Grads:
    """dA = dY B^T and dB = A^T dY, batch axes un-broadcast; vectors are matrices with one row or column."""
    a, b, dy = row.x, row.input(1), row.dy
    ra, rb = row.rank(a), row.rank(b)
    if ra == 1 and rb == 1:
        return [dy * b if row.need(0) else None, dy * a if row.need(1) else None]
    if ra == 1:
        return _vector_left(row, a, b, dy, rb)
    if rb == 1:
        return [
            row.op("MatMul", dy.unsqueeze([-1]), b.unsqueeze([0])) if row.need(0) else None,
            (a * dy.unsqueeze([-1])).sum(list(range(ra - 1)), False) if row.need(1) else None,
        ]
    if rb == 2 and ra > 2:  # a plain layer over tokens: one product over all of them
        da = row.op("MatMul", dy, b.transpose([1, 0])) if row.need(0) else None
        if not row.need(1):
            return [da]
        flat_a, flat_dy = (_rows(row, v, like) for v, like in ((a, b), (dy, None)))
        return [da, row.op("MatMul", flat_a.transpose([1, 0]), flat_dy)]
    da = row.op("MatMul", dy, _swap(b, rb)) if row.need(0) else None
    db = row.op("MatMul", _swap(a, ra), dy) if row.need(1) else None
    return [_batched(row, da, a), _batched(row, db, b)]


def _rows(row: Row, value: Value, weight: Value | None) -> Value:
    """All leading axes merged; the last axis is the weight's first (or second) one."""
    length = row.input(1).shape(0, 1) if weight is not None else row.input(1).shape(1, 2)
    static = row.static(row.input(1))
    if static is not None:
        return value.reshape([-1, static[0 if weight is not None else 1]])
    return value.reshape(row.emitter.concat([row.emitter.ints([-1]), length], 0))


def _vector_left(row: Row, a: Value, b: Value, dy: Value, rank: int) -> Grads:
    da = None
    if row.need(0):
        da = (b * dy.unsqueeze([-2])).sum([*range(rank - 2), rank - 1], False)
    return [da, a.unsqueeze([-1]) * dy.unsqueeze([-2]) if row.need(1) else None]


def _swap(value: Value, rank: int) -> Value:
    return value.transpose([*range(rank - 2), rank - 1, rank - 2])


def _batched(row: Row, grad: Value | None, like: Value) -> Value | None:
    """Sum over broadcast batch axes; the two matrix axes already fit."""
    if grad is None:
        return None
    out, own = row.shape(row.y), row.shape(like)
    if out is not None and own is not None and len(out) == len(own):
        pairs = list(zip(out[:-2], own[:-2], strict=True))
        if all(o == s and o is not None for o, s in pairs):
            return grad
        if all((o == s and o is not None) or s == 1 for o, s in pairs):
            return grad.sum([i for i, (o, s) in enumerate(pairs) if s == 1 and o != 1])
    return row._unbroadcast_dynamic(grad, like)


traits("Einsum", are=Traits(weights=(0, 1)))


@rule("Einsum")
def einsum(view: View) -> Iterator[Relation]:
    operands, output, y = *_einsum_axes(view), view.output()
    if any(len(set(term)) < len(term) for term in operands):
        raise Unlabelled("a letter is used twice in one operand")
    for letter, places in _letters(operands).items():
        for (i, axis), (j, other) in pairwise(places):
            if len(view.input(i)[axis]) == len(view.input(j)[other]):
                yield Tie(view.input(i)[axis], view.input(j)[other])
        if letter in output:
            for i, axis in places:
                if len(view.input(i)[axis]) == len(y[output.index(letter)]):
                    yield Tie(view.input(i)[axis], y[output.index(letter)])
        else:
            yield _einsum_site(view, places)


def _einsum_site(view: View, places: list[tuple[int, int]]) -> Site:
    i, axis = next(((i, a) for i, a in places if view.input(i).static), places[-1])
    paired = len(places) > 1 and not any(view.input(j).static for j, _ in places)
    return Site("contract", i, axis, view.input(i)[axis], paired)


def _letters(operands: list[str]) -> dict[str, list[tuple[int, int]]]:
    places: dict[str, list[tuple[int, int]]] = {}
    for i, letters in enumerate(operands):
        for axis, letter in enumerate(letters):
            places.setdefault(letter, []).append((i, axis))
    return places


def _einsum_axes(view: View) -> tuple[list[str], str]:
    """The letters of each operand and of the output, an ellipsis spelled out in capital letters."""
    left, arrow, right = view.attribute("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    capitals = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in left]
    operands = []
    for i, term in enumerate(terms):
        hidden = view.input(i).rank - len(term.replace("...", ""))
        operands.append(term.replace("...", "".join(reversed(capitals[:hidden]))))
    if not arrow:
        counts = "".join(operands)
        right = "..." + "".join(sorted({c for c in left if c.isalpha() and counts.count(c) == 1}))
    hidden = view.output().rank - len(right.replace("...", ""))
    return operands, right.replace("...", "".join(reversed(capitals[:hidden])))


@sums("Einsum")
def summed_letters(view: View) -> Sum | None:
    """The letters of its only operand that are left out."""
    letters, arrow, kept = view.attribute("equation").replace(" ", "").partition("->")
    plain = arrow and letters.isalpha() and len(set(letters)) == len(letters)
    return Sum([i for i, letter in enumerate(letters) if letter not in kept]) if plain else None


@cost("Einsum")
def einsum_cost(view: View) -> list[Term]:
    operands, _ = _einsum_axes(view)
    sizes: dict[str, Labels] = {}
    for letter, places in _letters(operands).items():
        sizes[letter] = max((view.input(i)[axis] for i, axis in places), key=len)
    return [(1.0, tuple(sizes.values()))]


@gradient("Einsum")
def einsum_gradient(row: Row) -> Grads:
    """Each operand's gradient is an Einsum of dy and the other operands; lost indices are expanded."""
    equation = row.attribute("equation").replace(" ", "")
    if "..." in equation:
        equation = _without_ellipsis(row, equation)
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if "->" not in equation:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    grads: Grads = []
    for i, term in enumerate(terms):
        grads.append(_einsum_operand(row, terms, right, i, term) if row.need(i) else None)
    return grads


def _einsum_operand(row: Row, terms: list[str], right: str, i: int, term: str) -> Value:
    others = [(t, row.input(j)) for j, t in enumerate(terms) if j != i]
    if len(set(term)) != len(term):
        raise row.unsupported(f"the operand {term!r} repeats an index")
    known = set(right).union(*(t for t, _ in others))
    kept = "".join(c for c in term if c in known)
    if others:
        names = ",".join([right, *(t for t, _ in others)])
        grad = row.op("Einsum", row.dy, *(v for _, v in others), equation=f"{names}->{kept}")
    else:
        grad = row.op("Identity", row.dy).transpose([right.index(c) for c in kept])
    if kept != term:
        grad = grad.unsqueeze([k for k, c in enumerate(term) if c not in known])
        grad = grad.expand(row.shape_of(row.input(i)))
    return grad


@rule("Det")
def determinant(view: View) -> Iterator[Relation]:
    yield from map(Tie, view.input(0).axes[:-2], view.output().axes)


@gradient("Det")
def determinant_gradient(row: Row) -> Grads:
    """dy times the cofactors, each the determinant of a minor."""
    shape = row.shape(row.x)
    size = shape[-1] if shape else None
    if not isinstance(size, int) or size > 8:
        raise row.unsupported("the matrices are larger than 8 x 8 or of unknown size")
    op, ints = row.op, row.emitter.ints
    dy = row.dy.unsqueeze([-1, -2])
    if size == 1:
        return [dy.expand(row.x.shape())]
    lines = []
    for i in range(size):
        upper = op("Gather", row.x, ints([k for k in range(size) if k != i]), axis=-2)
        minors = [
            op("Det", op("Gather", upper, ints([k for k in range(size) if k != j]), axis=-1))
            for j in range(size)
        ]
        signed = [-m if (i + j) % 2 else m for j, m in enumerate(minors)]
        lines.append(row.emitter.concat([m.unsqueeze([-1]) for m in signed], -1).unsqueeze([-2]))
    return [dy * row.emitter.concat(lines, -2)]


def _without_ellipsis(row: Row, equation: str) -> str:
    """Name the axes that `...` stands for (they must not broadcast)."""
    left, arrow, right = equation.partition("->")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in equation]
    counts = []
    for i, term in enumerate(left.split(",")):
        if "..." in term:
            counts.append(row.rank(row.input(i)) - len(term.replace("...", "")))
    if len(set(counts)) != 1 or not arrow:
        raise row.unsupported("its ellipsis broadcasts")
    names = "".join(free[: counts[0]])
    return f"{left}->{right}".replace("...", names)
