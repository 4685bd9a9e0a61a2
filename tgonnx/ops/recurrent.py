"""LSTM, GRU and RNN: the hidden units of one direction are tied through W, R, B, states and outputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tgonnx.labels import Labels, Relation, Site, Tie
from tgonnx.ops.cut import Cut
from tgonnx.ops.registry import cost, resize, rule
from tgonnx.ops.view import View

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@rule("LSTM", "GRU", "RNN")
def recurrent(view: View) -> Iterator[Relation]:
    """X [time, batch, in], W [dirs, gates * hidden, in], R [.., gates * hidden, hidden], B [.., 2 * gates * hidden].

    Both directions lose the same units: there is one hidden_size.
    """
    x, w, r = view.input(0), view.input(1), view.input(2)
    gates, unit, batch = GATES[view.op_type], r[2], 1 - view.attribute("layout", 0)
    yield Tie(x[2], w[2])
    yield Site("contract", w.index, 2, w[2])
    yield Site("contract", r.index, 2, r[2])
    for stacked in (w[1], r[1]):
        yield _repeated(unit, stacked, gates)
    if view.has(3):
        yield _repeated(unit, view.input(3)[1], 2 * gates)
    if view.has(4):
        yield Tie(view.input(4)[0], x[batch])
    for i in (5, 6):
        if view.has(i):
            yield Tie(view.input(i)[2], unit)
            yield Tie(view.input(i)[batch if batch == 1 else 0], x[batch])
    if view.has(7):
        yield _repeated(unit, view.input(7)[1], 3)
    for y in view.outputs:
        if y is not None:
            yield Tie(y[y.rank - 1], unit)
            yield Tie(y[0 if not batch else y.rank - 2], x[batch])


def _repeated(unit: Labels, stacked: Labels, times: int) -> Tie:
    return Tie(np.tile(unit, times), stacked)


@resize("LSTM", "GRU", "RNN")
def resize_recurrent(view: View, cut: Cut) -> None:
    cut.set_attribute("hidden_size", cut.size(view.input(2)[2]))


@cost("LSTM", "GRU", "RNN")
def recurrent_cost(view: View) -> list[tuple[float, tuple[Labels, ...]]]:
    x, w, r = view.input(0), view.input(1), view.input(2)
    batch = 1 - view.attribute("layout", 0)
    steps = float(len(x[1 - batch]) * len(w[0]))
    return [(steps, (x[batch], w[1], w[2])), (steps, (x[batch], r[1], r[2]))]
