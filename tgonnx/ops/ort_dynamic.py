"""Products of onnxruntime (com.microsoft) with 8- or 4-bit weights: dynamic quantisation and what its optimiser fuses.

Ranges of dynamically quantised operands always include zero, so zeros in the place of closed channels do not change
them, and a closed channel is multiplied by zero as anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator

from tgonnx.ops.aspects.gating import Gating
from tgonnx.ops.aspects.relations import Relation, Site, Term, Tie
from tgonnx.ops.aspects.row import Outputs, Row, Shapes
from tgonnx.ops.aspects.tables import cost, definition, gated, rule, sizes
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import View
from tgonnx.ops.linear import matmul_cost, matrix_product
from tgonnx.ops.ort_fused import MICROSOFT
from tgonnx.ops.quantized import for_each, gate_quantized, on_data


def _on_columns(view: View, places: tuple[int, ...]) -> Iterator[Relation]:
    """Scales, zero points and biases that have one number for each column of B."""
    b = view.input(1)
    yield from for_each(b[b.rank - 1], [view.input(i) for i in places if view.has(i)])


traits(
    "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", are=Traits(quantizes=True), domain=MICROSOFT
)


@rule("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_matmul(view: View) -> Iterator[Relation]:
    """A is float: A, B, and scale, zero point and bias of B's columns. Gates act on A."""
    a, b = view.input(0), view.input(1)
    for relation in matrix_product(a, b, view.output()):
        gate = isinstance(relation, Site)
        yield Site("contract", 0, a.rank - 1, a[a.rank - 1]) if gate else relation
    yield from _on_columns(view, (2, 3, 4))


@rule("MatMulIntegerToFloat", domain=MICROSOFT)
def integer_matmul(view: View) -> Iterator[Relation]:
    """A, B, scales of both, zero points of both, bias. Gates act on A."""
    a = view.input(0)
    yield from on_data(matrix_product(a, view.input(1), view.output()), a, a.rank - 1)
    yield from _on_columns(view, (3, 5, 6))


@gated("MatMulIntegerToFloat", domain=MICROSOFT)
def gated_integer_matmul(g: Gating) -> None:
    gate_quantized(g, 4)


cost("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", domain=MICROSOFT)(matmul_cost)


@definition("MatMulIntegerToFloat", domain=MICROSOFT)
def integer_matmul_definition(row: Row, opset: int) -> Outputs:
    factors = []
    for place, zero in ((0, 4), (1, 5)):
        step = row.input(zero) if row.has(zero) else None
        factors.append(row.op("DequantizeLinear", row.input(place), row.input(place + 2), step, axis=-1))
    y = row.op("MatMul", *factors)
    return [y + row.input(6) if row.has(6) else y]


@sizes("DynamicQuantizeMatMul", domain=MICROSOFT)
def matmul_sizes(row: Row) -> Shapes:
    a, b = row.shape(row.x), row.shape(row.input(1))
    return [(*a[:-1], b[-1])] if a is not None and b is not None and len(b) == 2 else []


@rule("MatMulNBits", domain=MICROSOFT)
def packed_matmul(view: View) -> Iterator[Relation]:
    """Several weights share a byte and a scale: both axes of the weight stay."""
    yield from map(Tie, view.input(0).axes[:-1], view.output().axes[:-1])


@sizes("MatMulNBits", domain=MICROSOFT)
def packed_matmul_sizes(row: Row) -> Shapes:
    a = row.shape(row.x)
    return [] if a is None else [(*a[:-1], int(row.attribute("N")))]


@rule("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_lstm(view: View) -> Iterator[Relation]:
    """X [time, batch, in], W [dirs, in, 4 hidden], R [dirs, hidden, 4 hidden].

    Hidden units stay: the state is quantised at every step, with one range for all of them.
    """
    x, w = view.input(0), view.input(1)
    yield Tie(x[2], w[1])
    yield Site("contract", 0, 2, x[2])
    for operand in (*view.inputs[5:7], *view.outputs):
        if operand is not None:
            yield Tie(operand[operand.rank - 2], x[1])
    if view.has(4):
        yield Tie(view.input(4)[0], x[1])


@cost("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_lstm_cost(view: View) -> list[Term]:
    x, w, r = view.input(0), view.input(1), view.input(2)
    steps = float(len(x[0]) * len(w[0]))
    return [(steps, (x[1], o[1], o[2])) for o in (w, r)]


@sizes("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_lstm_sizes(row: Row) -> Shapes:
    x, w = row.shape(row.x), row.shape(row.input(1))
    if x is None or w is None:
        return []
    state = (w[0], x[1], int(row.attribute("hidden_size")))
    return [(x[0], *state), state, state]


@rule("QAttention", domain=MICROSOFT)
def quantised_attention(view: View) -> Iterator[Relation]:
    """Batch and time go through; heads stay."""
    yield from map(Tie, view.input(0).axes[:2], view.output().axes[:2])


@cost("QAttention", domain=MICROSOFT)
def quantised_attention_cost(view: View) -> list[Term]:
    """The projections, then queries with keys and weights with values."""
    x, w, y = view.input(0), view.input(1), view.output()
    return [(1.0, (x[0], x[1], *w.axes)), (2.0, (*y.axes, x[1]))]


@sizes("QAttention", domain=MICROSOFT)
def quantised_attention_sizes(row: Row) -> Shapes:
    x, w = row.shape(row.x), row.static(row.input(1))
    return [] if x is None or w is None or row.has(8) else [(x[0], x[1], w[1] // 3)]
