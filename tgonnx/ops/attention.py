"""Attention and rotary positions: heads, head dimensions, and groups of query heads.

A packed axis [heads * dim] is cut by whole heads or alike in every head. Where several query heads share one key and
value head (grouped queries), heads go in whole groups or alike in every group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.relations import Alternative, Choice, Free, Labels, Relation, Site, Term, Tie
from tgonnx.ops.aspects.tables import cost, resize, rule
from tgonnx.ops.aspects.view import Operand, View


def all_equal(*arrays: Labels) -> list[Tie | Free | Site]:
    """Ties of the first array with the others, to which it is broadcast."""
    first, *others = arrays
    return [Tie(np.broadcast_to(first, other.shape), other) for other in others]


@rule("Attention")
def attention(view: View) -> Iterator[Relation]:
    """Y = softmax(scale Q K^T + mask) V. The axes of time stay."""
    q, k, v, y = view.input(0), view.input(1), view.input(2), view.output()
    keys = [o for o in (*view.inputs[4:5], *view.outputs[1:2]) if o is not None]
    values = [o for o in (*view.inputs[5:6], *view.outputs[2:3]) if o is not None]
    query_heads = [*_mask_heads(view), *(o[1] for o in view.outputs[3:] if o is not None)]
    yield from all_equal(q[0], *(o[0] for o in (k, v, y, *keys, *values, *view.outputs[3:]) if o is not None))
    mask = view.inputs[3] if view.has(3) else None
    if mask is not None and mask.rank == 4 and len(mask[0]) == len(q[0]):
        yield Tie(mask[0], q[0])
    if view.has(6):
        yield Tie(view.input(6)[0], q[0])
    yield Site("contract", 0, q.rank - 1, q[q.rank - 1], paired=True)
    stored = [o[1] for o in (*keys, *values)]
    if q.rank == 4:
        yield from all_equal(k[1], v[1], *stored)
        yield from _heads(k[1], [q[1], y[1], *query_heads])
        yield from all_equal(q[3], k[3], *(o[3] for o in keys))
        yield from all_equal(v[3], y[3], *(o[3] for o in values))
    else:
        yield _packed(view, query_heads, stored, [o[3] for o in keys], [o[3] for o in values])


def _heads(shared: Labels, by_query: Sequence[Labels]) -> Iterator[Relation]:
    """Every head of keys and values (`shared`) serves as many query heads."""
    if len(shared) == len(by_query[0]):
        yield from all_equal(shared, *by_query)
        return
    grouped = [labels.reshape(len(shared), -1) for labels in by_query]
    yield Choice((
        Alternative("whole groups", shared, tuple(all_equal(shared[:, None], *grouped))),
        Alternative("in each group", grouped[0][0], tuple(all_equal(grouped[0][:1], *grouped))),
    ))  # fmt: skip


def _packed(
    view: View,
    query_heads: Sequence[Labels],
    stored: Sequence[Labels],
    keys: Sequence[Labels],
    values: Sequence[Labels],
) -> Choice:
    """Three axes: heads and head dimension are one. `keys`, `values` are head dimensions of caches."""
    groups, heads = view.attribute("kv_num_heads"), view.attribute("q_num_heads")
    q, k, v, y = (o[2] for o in (view.input(0), view.input(1), view.input(2), view.output()))
    whole = whole_heads(heads, groups, [y, q, *query_heads], [k, v, *stored])
    q, k, v, y = q.reshape(heads, -1), k.reshape(groups, -1), v.reshape(groups, -1), y.reshape(heads, -1)
    inside = [
        *all_equal(q[:1], q, k, *(d[None] for d in keys)),
        *all_equal(y[:1], y, v, *(d[None] for d in values)),
    ]
    within = Alternative("in each head", np.concatenate([q[0], y[0]]), tuple(inside))
    return Choice((*whole, within))


def whole_heads(
    heads: int, groups: int, by_query: Sequence[Labels], shared: Sequence[Labels]
) -> list[Alternative]:
    """Ways to cut packed axes [heads * n] by heads; those in `shared` are [groups * n], one for some heads each."""
    queries = [labels.reshape(groups, heads // groups, -1) for labels in by_query]
    first = queries[0]
    whole = all_equal(first[:, :1, :1], *queries, *(labels.reshape(groups, 1, -1) for labels in shared))
    found = [Alternative("heads", first[:, 0, 0], tuple(whole))]
    if heads > groups:
        within = all_equal(first[:1, :, :1], *queries)
        found.append(Alternative("in each group", first[0, :, 0], tuple(within)))
    return found


def _mask_heads(view: View) -> list[Labels]:
    """The axis of the mask that has one entry for each query head, if there is one."""
    heads = view.attribute("q_num_heads") or len(view.input(0)[1])
    mask = view.inputs[3] if view.has(3) else None
    if mask is None or mask.rank < 3 or len(mask[mask.rank - 3]) != heads or heads == 1:
        return []
    return [mask[mask.rank - 3]]


@resize("Attention")
def resize_attention(view: View, cut: Cut) -> None:
    """Numbers of heads, and the scale that was computed from the head dimension."""
    q, k = view.input(0), view.input(1)
    if q.rank == 4:
        size, left = len(q[3]), cut.size(q[3])
        heads = {"q_num_heads": cut.size(q[1]), "kv_num_heads": cut.size(k[1])}
    else:
        queries = cut.keep(q[2]).reshape(view.attribute("q_num_heads"), -1)
        shared = cut.keep(k[2]).reshape(view.attribute("kv_num_heads"), -1)
        size, left = queries.shape[1], int(queries.any(axis=0).sum())
        heads = {"q_num_heads": int(queries.any(axis=1).sum()), "kv_num_heads": int(shared.any(axis=1).sum())}
    for name, number in heads.items():
        if name in view.attributes:
            cut.set_attribute(name, number)
    if left < size and "scale" not in view.attributes:
        cut.set_attribute("scale", 1 / math.sqrt(size))


@cost("Attention")
def attention_cost(view: View) -> list[Term]:
    """Q K^T and the product with V, for all keys, past ones included."""
    q, y = view.input(0), view.output()
    past = [view.input(4)[2]] if view.has(4) else []
    return [(1.0, (*o.axes, time)) for time in (view.input(1)[q.rank - 2], *past) for o in (q, y)]


@rule("RotaryEmbedding")
def rotary_embedding(view: View) -> Iterator[Relation]:
    """Pairs of a head's labels are rotated by one column of the sine and cosine tables each."""
    x, y = view.input(0), view.output()
    tables = [view.input(1), view.input(2)]
    yield from map(Tie, x.axes, y.axes)
    places = [view.input(3)] if view.has(3) else tables
    time = x.rank - 2
    for operand in places:
        yield from (Tie(operand[i], x[j]) for i, j in ((0, 0), (1, time)) if len(operand[i]) == len(x[j]))
    last = x[x.rank - 1]
    if x.rank == 4:
        yield from _rotated(view, last[None], tables)
        return
    grid = last.reshape(view.attribute("num_heads"), -1)
    yield Choice((
        Alternative("heads", grid[:, 0], tuple(all_equal(grid[:, :1], grid))),
        Alternative("in each head", grid[0], tuple(_rotated(view, grid, tables))),
    ))  # fmt: skip


def _rotated(view: View, grid: Labels, tables: Sequence[Operand]) -> list[Tie | Free | Site]:
    """`grid` is [heads, dim]: the same pairs go in every head."""
    size = view.attribute("rotary_embedding_dim", 0) or grid.shape[1]
    turned = grid[0, :size]
    pairs = (turned[0::2], turned[1::2]) if view.attribute("interleaved", 0) else np.split(turned, 2)
    columns = [table[table.rank - 1] for table in tables]
    return [*all_equal(grid[:1], grid), *all_equal(pairs[0], pairs[1], *columns)]


@resize("RotaryEmbedding")
def resize_rotary_embedding(view: View, cut: Cut) -> None:
    x = view.input(0)
    heads = view.attribute("num_heads", 0) if x.rank == 3 else 1
    keep = cut.keep(x[x.rank - 1]).reshape(heads, -1)
    if x.rank == 3:
        cut.set_attribute("num_heads", int(keep.any(axis=1).sum()))
    elif "num_heads" in view.attributes and view.attribute("num_heads"):
        cut.set_attribute("num_heads", cut.size(x[1]))
    if size := view.attribute("rotary_embedding_dim", 0):
        cut.set_attribute("rotary_embedding_dim", int(keep[:, :size].any(axis=0).sum()))
