"""Attention as onnxruntime has it (com.microsoft): cut by whole heads. Forms that pack Q, K and V in one value stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.gating import Gating
from tgonnx.ops.aspects.relations import Choice, Labels, Relation, Site, Term, Tie
from tgonnx.ops.aspects.row import Dim, Outputs, Row, Shapes
from tgonnx.ops.aspects.tables import cost, definition, gated, resize, rule, sizes
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Operand, Unlabelled, View
from tgonnx.ops.attention import all_equal, whole_heads
from tgonnx.ops.norm import normalised
from tgonnx.ops.ort_fused import MICROSOFT


@rule("MultiHeadAttention", "GroupQueryAttention", domain=MICROSOFT)
def attention(view: View) -> Iterator[Relation]:
    """Q, K and V [batch, time, heads * n]; caches [batch, heads, time, n]. Batch and time stay."""
    q, y = view.input(0), view.output()
    k, v = view.inputs[1], view.inputs[2]
    if k is None or v is None or not q.rank == k.rank == v.rank == 3:
        raise Unlabelled("queries, keys and values are packed in one value")
    heads, groups = _numbers(view)
    first = 6 if view.op_type == "MultiHeadAttention" else 3
    caches = [o for o in (*view.inputs[first : first + 2], *view.outputs[1:3]) if o is not None]
    queries = [y[2], q[2]]
    if view.op_type == "MultiHeadAttention":
        if view.has(3):
            yield Tie(view.input(3)[0], np.concatenate([q[2], k[2], v[2]]))
        bias = view.inputs[5] if view.has(5) else None
        queries += [bias[1]] if bias is not None and len(bias[1]) == heads else []
    yield Choice(tuple(whole_heads(heads, groups, queries, [k[2], v[2], *(o[1] for o in caches)])))


def _numbers(view: View) -> tuple[int, int]:
    """How many heads queries have, and keys and values."""
    heads = int(view.attribute("num_heads"))
    return heads, int(view.attribute("kv_num_heads", heads))


@resize("MultiHeadAttention", "GroupQueryAttention", domain=MICROSOFT)
def resize_attention(view: View, cut: Cut) -> None:
    for name, operand, number in zip(
        ("num_heads", "kv_num_heads"), view.inputs, _numbers(view), strict=False
    ):
        if operand is not None and name in view.attributes:
            cut.set_attribute(name, int(cut.keep(operand[2]).reshape(number, -1).any(axis=1).sum()))


@cost("MultiHeadAttention", "GroupQueryAttention", domain=MICROSOFT)
def attention_cost(view: View) -> list[Term]:
    k = view.inputs[1]
    time = k[1] if k is not None and k.rank == 3 else view.input(0)[1]
    return [(1.0, (*o.axes, time)) for o in (view.input(0), view.output())]


@sizes("MultiHeadAttention", domain=MICROSOFT)
def attention_sizes(row: Row) -> Shapes:
    q, k, v = (row.shape(row.input(i)) if row.has(i) else None for i in range(3))
    if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 3:
        return []
    return [(q[0], q[1], v[2]), *_cached(row, 6, k, v, int(row.attribute("num_heads")))]


@sizes("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention_sizes(row: Row) -> Shapes:
    q, k, v = (row.shape(row.input(i)) if row.has(i) else None for i in range(3))
    return [q] if k is None or v is None else [q, *_cached(row, 3, k, v, int(row.attribute("kv_num_heads")))]


def _cached(row: Row, first: int, k: Sequence[Dim], v: Sequence[Dim], heads: int) -> Shapes:
    """Present keys and values; a buffer that is shared with past ones has their length, which is not followed."""
    if any(row.has(i) for i in (first, first + 1)):
        return []
    return [(o[0], heads, o[1], o[2] // heads if isinstance(o[2], int) else None) for o in (k, v)]


@rule("Attention", domain=MICROSOFT)
def projected_attention(view: View) -> Iterator[Relation]:
    """The weight [in, q + k + v] makes queries, keys and values of input 0."""
    x, w, y = view.input(0), view.input(1), view.output()
    heads, parts = int(view.attribute("num_heads")), _parts(view, w[1])
    yield Tie(x[2], w[0])
    yield Site("contract", 1, 0, w[0])
    caches = [o for o in (*view.inputs[4:5], *view.outputs[1:2]) if o is not None]
    if view.has(2):
        yield Tie(view.input(2)[0], w[1])
    bias = view.inputs[5] if view.has(5) else None
    by_head = [y[2], *(o[2] for o in caches)]
    if bias is not None and len(bias[1]) == heads:
        by_head.append(bias[1])
    yield Choice(tuple(whole_heads(heads, heads, by_head, parts)))


def _parts(view: View, labels: Labels) -> list[Labels]:
    """The columns that make queries, keys and values."""
    lengths = view.attribute("qkv_hidden_sizes") or [len(labels) // 3] * 3
    return np.split(labels, np.cumsum(lengths)[:2])


@resize("Attention", domain=MICROSOFT)
def resize_projected_attention(view: View, cut: Cut) -> None:
    w, heads = view.input(1), int(view.attribute("num_heads"))
    kept = [cut.keep(part) for part in _parts(view, w[1])]
    cut.set_attribute("num_heads", int(kept[0].reshape(heads, -1).any(axis=1).sum()))
    if "qkv_hidden_sizes" in view.attributes:
        cut.set_attribute("qkv_hidden_sizes", [int(keep.sum()) for keep in kept])


@cost("Attention", domain=MICROSOFT)
def projected_attention_cost(view: View) -> list[Term]:
    x, w, y = view.input(0), view.input(1), view.output()
    queries = _parts(view, w[1])[0]
    return [(1.0, (x[0], x[1], *w.axes)), (1.0, (*y.axes, x[1])), (1.0, (x[0], x[1], queries, x[1]))]


@sizes("Attention", domain=MICROSOFT)
def projected_attention_sizes(row: Row) -> Shapes:
    x, w, given = row.shape(row.x), row.static(row.input(1)), row.attribute("qkv_hidden_sizes")
    if x is None or w is None or row.has(4):
        return []
    return [(x[0], x[1], given[2] if given else w[1] // 3)]


@rule("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(view: View) -> Iterator[Relation]:
    """Whole heads only."""
    x, y = view.input(0), view.output()
    if x.rank == 4:
        yield Tie(x[1], y[1])
        return
    heads = _rotated_heads(view)
    yield Choice(tuple(whole_heads(heads, heads, [y[2], x[2]], [])))


def _rotated_heads(view: View) -> int:
    return view.attribute("num_heads", 0) or len(view.input(0)[2]) // (2 * len(view.input(2)[1]))


@resize("RotaryEmbedding", domain=MICROSOFT)
def resize_rotary_embedding(view: View, cut: Cut) -> None:
    x = view.input(0)
    if view.attribute("num_heads", 0):
        keep = cut.keep(x[2]).reshape(_rotated_heads(view), -1).any(axis=1) if x.rank == 3 else cut.keep(x[1])
        cut.set_attribute("num_heads", int(keep.sum()))


@sizes("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding_sizes(row: Row) -> Shapes:
    return [row.shape(row.x)]


EMBEDDINGS = ((2, 0), (3, 8), (4, 1))  # tables and what indexes them: words, positions, segments


# the second of them has no rule
traits(
    "EmbedLayerNormalization",
    "QEmbedLayerNormalization",
    are=Traits(looks_up=((0, 2), (1, 4))),
    domain=MICROSOFT,
)


@rule("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(view: View) -> Iterator[Relation]:
    """The sum of embeddings, normalised; output 2 is the sum."""
    words, y = view.input(2), view.output()
    tables: list[Operand] = [view.input(i) for i, _ in EMBEDDINGS if view.has(i)]
    yield from all_equal(y[2], *(table[1] for table in tables), *(view.input(i)[0] for i in (5, 6)))
    yield from (Tie(y[axis], view.input(0)[axis]) for axis in (0, 1))
    for total in view.outputs[2:3]:
        yield from map(Tie, total.axes, y.axes) if total is not None else ()
    yield Site("normalize", 2, 1, words[1])


@gated("EmbedLayerNormalization", domain=MICROSOFT)
def gated_embed_layer_norm(g: Gating) -> None:
    """The node stays for the index of its mask."""
    inputs, outputs, total = list(g.node.inputs), list(g.node.outputs), None
    for table, index in EMBEDDINGS:
        if not g.view.has(table):
            continue
        part = inputs[table]
        if g.view.has(index):
            part = g.emit("Gather", part, inputs[index])
        else:  # positions count from 0
            length = g.emit("Slice", g.emit("Shape", inputs[0]), *(g.constant(np.array([i])) for i in (1, 2)))
            part = g.emit("Slice", part, g.constant(np.array([0])), length, g.constant(np.array([0])))
        total = part if total is None else g.emit("Add", total, part)
    y = g.standardize(total, [2], g.view.attribute("epsilon", 1e-12))
    y = g.emit("Add", g.emit("Mul", y, inputs[5]), inputs[6])
    g.detach(0, 2)
    g.keep(g.node)
    g.emit("Identity", y, into=outputs[0])
    if len(outputs) > 2 and outputs[2].name:
        g.emit("Identity", total, into=outputs[2])


@definition("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm_definition(row: Row, opset: int) -> Outputs:
    total: Value | None = None
    for table, index in EMBEDDINGS:
        if not row.has(table):
            continue
        part = row.input(table)
        if row.has(index):
            part = row.op("Gather", part, row.input(index))
        else:
            part = part.slice(row.emitter.ints([0]), row.x.shape(1, 2), [0])
        total = part if total is None else total + part
    assert total is not None  # words are required
    y = normalised(row, total, [2], float(row.attribute("epsilon", 1e-12)), center=True)
    lengths = row.input(7).sum([1], False) if row.has(7) else None  # of the masks
    return [y * row.input(5) + row.input(6), lengths, total]
