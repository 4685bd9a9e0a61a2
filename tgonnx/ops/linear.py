"""Convolutions and matrix products: where channels are summed, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tgonnx.labels import Alternative, Choice, Labels, Relation, Site, Tie
from tgonnx.ops.cut import Cut
from tgonnx.ops.registry import cost, resize, rule
from tgonnx.ops.view import Operand, Unlabelled, View, broadcast, contract

Term = tuple[float, tuple[Labels, ...]]


@rule("Conv")
def conv(view: View) -> Iterator[Relation]:
    x, w, y = view.input(0), view.input(1), view.output()
    yield Tie(x[0], y[0])
    yield Tie(w[0], y[1])
    if view.has(2):
        yield Tie(view.input(2)[0], y[1])
    yield from _channels(x[1], y[1], w, view.attribute("group", 1), summed=1)


@rule("ConvTranspose")
def conv_transpose(view: View) -> Iterator[Relation]:
    x, w, y = view.input(0), view.input(1), view.output()
    yield Tie(x[0], y[0])
    yield Tie(w[0], x[1])
    if view.has(2):
        yield Tie(view.input(2)[0], y[1])
    groups = view.attribute("group", 1)
    if groups == 1:
        yield Tie(w[1], y[1])
        yield Site("contract", w.index, 0, w[0])
        return
    inside, outside = x[1].reshape(groups, -1), y[1].reshape(groups, -1)
    yield Choice((
        _whole_groups(inside, outside),
        Alternative("in each group", np.concatenate([inside[0], outside[0]]), (
            _alike(inside), _alike(outside), Tie(outside[0], w[1]), Site("contract", w.index, 0, w[0]),
        )),
    ))  # fmt: skip


def _channels(x: Labels, y: Labels, w: Operand, groups: int, summed: int) -> Iterator[Relation]:
    """Input channels `x` are summed over axis `summed` of the weight, by groups."""
    if groups == 1:
        yield Tie(x, w[summed])
        yield Site("contract", w.index, summed, w[summed])
        return
    inside, outside = x.reshape(groups, -1), y.reshape(groups, -1)
    within = Alternative("in each group", np.concatenate([inside[0], outside[0]]), (
        _alike(inside), _alike(outside), Tie(inside[0], w[summed]), Site("contract", w.index, summed, w[summed]),
    ))  # fmt: skip
    yield Choice((_whole_groups(inside, outside), within))


def _whole_groups(inside: Labels, outside: Labels) -> Alternative:
    first = inside[:, :1]
    both = (
        Tie(np.broadcast_to(first, inside.shape), inside),
        Tie(np.broadcast_to(first, outside.shape), outside),
    )
    return Alternative("whole groups", np.concatenate([first[:, 0], outside[:, 0]]), both)


def _alike(grouped: Labels) -> Tie:
    """Position i of every group lives or dies together."""
    return Tie(np.broadcast_to(grouped[:1], grouped.shape), grouped)


@resize("Conv", "ConvTranspose")
def resize_groups(view: View, cut: Cut) -> None:
    groups = view.attribute("group", 1)
    if groups > 1:
        kept = cut.keep(view.input(0)[1]).reshape(groups, -1).any(axis=1)
        cut.set_attribute("group", int(kept.sum()))


@cost("Conv")
def conv_cost(view: View) -> list[Term]:
    w, y = view.input(1), view.output()
    return [(float(np.prod(w.shape[2:]) * np.prod(y.shape[2:])), (y[0], y[1], w[1]))]


@cost("ConvTranspose")
def conv_transpose_cost(view: View) -> list[Term]:
    x, w = view.input(0), view.input(1)
    return [(float(np.prod(w.shape[2:]) * np.prod(x.shape[2:])), (x[0], x[1], w[1]))]


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


@rule("MatMul")
def matmul(view: View) -> Iterator[Relation]:
    a, b, y = view.input(0), view.input(1), view.output()
    yield from contract(a, a.rank - 1, b, max(b.rank - 2, 0))
    batch = [Operand(o.name, o.index, o.axes[:-2], o.static) for o in (a, b)]
    tail = (a.rank > 1) + (b.rank > 1)
    yield from broadcast(batch, Operand(y.name, 0, y.axes[: y.rank - tail]))
    if a.rank > 1:
        yield Tie(a[a.rank - 2], y[y.rank - tail])
    if b.rank > 1:
        yield Tie(b[b.rank - 1], y[y.rank - 1])


@cost("MatMul")
def matmul_cost(view: View) -> list[Term]:
    a, y = view.input(0), view.output()
    return [(1.0, (*y.axes, a[a.rank - 1]))]


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


@cost("Einsum")
def einsum_cost(view: View) -> list[Term]:
    operands, _ = _einsum_axes(view)
    sizes: dict[str, Labels] = {}
    for letter, places in _letters(operands).items():
        sizes[letter] = max((view.input(i)[axis] for i, axis in places), key=len)
    return [(1.0, tuple(sizes.values()))]
