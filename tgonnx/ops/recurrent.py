"""LSTM, GRU and RNN: the hidden units of one direction are tied through W, R, B, states and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from tgonnx.graph.builder import Value
from tgonnx.graph.proto import attribute_of
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.products import Draw, Product, plain_rows
from tgonnx.ops.aspects.relations import Labels, Relation, Site, Term, Tie
from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.tables import cost, definition, gradient, products, resize, rule
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import View
from tgonnx.ops.recurrent_steps import REVERSALS, activations, pick, plain, recurrent_steps

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass
class _Sweep:
    """The gradients of one direction."""

    x: Value
    w: Value
    r: Value
    b: Value
    h: Value
    c: Value | None = None


@dataclass
class _Direction:
    """One direction's values, in the order of time in which it reads them. `dys` [T], `dh` arrive at outputs."""

    row: Row
    index: int
    backwards: bool
    count: int  # T
    hidden: int  # H

    def __post_init__(self) -> None:
        self.x, self.y = self.along(self.row.x), self.along(pick(self.row.y, 1, self.index))
        self.w, self.r = (self.own(k) for k in (1, 2))
        self.zero = pick(self.y, 0, 0) * 0.0
        self.h0 = self.own(5) if self.row.has(5) else self.zero
        self.before = self.h0.unsqueeze([0])  # the state before each step, [T, N, H]
        if self.count > 1:
            earlier = self.y.slice([0], [self.count - 1], [0])
            self.before = self.row.emitter.concat([self.before, earlier], 0)
        arrived = self.row.gradient(0)
        self.dys = None if arrived is None else self.steps(self.along(pick(arrived, 1, self.index)))

    def along(self, value: Value) -> Value:
        return value.flip([0]) if self.backwards else value

    def own(self, index: int) -> Value:
        """This direction's part of an input."""
        return pick(self.row.input(index), 0, self.index)

    def last(self, output: int) -> Value:
        """What arrives at the last state, output 1 or 2."""
        arrived = self.row.gradient(output)
        return self.zero if arrived is None else pick(arrived, 0, self.index)

    def steps(self, value: Value) -> list[Value]:
        lengths = self.row.emitter.ints([1] * self.count)
        parts = self.row.emitter.ops("Split", value, lengths, count=self.count, axis=0)
        return [part.squeeze([0]) for part in parts]

    def gates(self, value: Value, count: int, axis: int) -> list[Value]:
        """Split by gates."""
        return self.row.emitter.ops(
            "Split", value, self.row.emitter.ints([self.hidden] * count), count=count, axis=axis
        )

    def biases(self, gates: int) -> tuple[Value, Value] | None:
        if not self.row.has(3):
            return None
        both = self.own(3)
        size = gates * self.hidden
        return both.slice([0], [size], [0]), both.slice([size], [2 * size], [0])

    def product(self, columns: Value, rows: Value) -> Value:
        """The sum over time and batch of outer products, [G H, I or H]."""
        a = columns.reshape(self.row.emitter.concat([self.row.emitter.ints([-1]), columns.shape(2, 3)], 0))
        b = rows.reshape(self.row.emitter.concat([self.row.emitter.ints([-1]), rows.shape(2, 3)], 0))
        return self.row.op("MatMul", a.transpose([1, 0]), b)

    def stack(self, parts: list[Value]) -> Value:
        return self.row.emitter.concat([v.unsqueeze([0]) for v in parts], 0)

    def times(self, a: Value, b: Value) -> Value:
        return self.row.op("MatMul", a, b)


def _unrolled(row: Row, sweep: Callable[[_Direction], _Sweep]) -> Grads:
    shape = row.shape(row.x)
    if not plain(row) or shape is None or not isinstance(shape[0], int):
        raise row.unsupported("the sequence length is not fixed")
    reversals = REVERSALS[row.attribute("direction", "forward")]
    hidden = int(row.attribute("hidden_size"))
    sweeps = [sweep(_Direction(row, d, b, shape[0], hidden)) for d, b in enumerate(reversals)]
    dx = sweeps[0].x if len(sweeps) == 1 else sweeps[0].x + sweeps[1].x

    def stack(parts: list[Value | None]) -> Value | None:
        found = [part.unsqueeze([0]) for part in parts if part is not None]
        return row.emitter.concat(found, 0) if found else None

    w, r, b, h, c = (stack([getattr(s, key) for s in sweeps]) for key in "wrbhc")
    return [dx, w, r, b, None, h, c][: len(row.node.input)]


traits("LSTM", are=Traits(weights=(1, 2, 3, 7)))
traits("GRU", "RNN", are=Traits(weights=(1, 2, 3)))


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
def recurrent_cost(view: View) -> list[Term]:
    x, w, r = view.input(0), view.input(1), view.input(2)
    batch = 1 - view.attribute("layout", 0)
    steps = float(len(x[1 - batch]) * len(w[0]))
    return [(steps, (x[batch], w[1], w[2])), (steps, (x[batch], r[1], r[2]))]


@products("LSTM", "GRU", "RNN")
def recurrent_products(node: NodeProto, constant: Mapping[int, tuple[int, ...]]) -> Iterator[Product]:
    """Gates before their activations: of inputs, and of the state one step before. Directions are groups.

    A GRU that resets the state before it is multiplied does not multiply the state that it puts out.
    """
    batch_first = attribute_of(node, "layout", 0) == 1
    ways = attribute_of(node, "direction", b"forward").decode()

    def inputs(x: Array, draw: Draw) -> Array:
        rows = plain_rows(x, draw)
        return np.repeat(rows, 2, 0) if ways == "bidirectional" else rows

    def states(y: Array, draw: Draw) -> Array:  # [steps, directions, samples, hidden]
        y = y.transpose(1, 2, 0, 3) if batch_first else y
        parts = [y[1:, way] if ways == "reverse" or way else y[:-1, way] for way in range(y.shape[1])]
        return np.concatenate([plain_rows(part, draw) for part in parts])

    def matrix(weight: Array) -> Array:  # [directions, gates, inputs]
        return weight.swapaxes(1, 2)

    if 1 in constant:
        yield Product(0, 1, inputs, matrix, 3, lambda b: b[:, : b.shape[1] // 2])
    if 2 in constant and (node.op_type != "GRU" or attribute_of(node, "linear_before_reset", 0)):
        yield Product(0, 2, states, matrix, 3, lambda b: b[:, b.shape[1] // 2 :], state=0)


definition("LSTM", "GRU", "RNN")(recurrent_steps)


@gradient("LSTM")
def lstm(row: Row) -> Grads:
    """Gates in the order i, o, f, c; c = f c_before + i g, y = o tanh(c)."""
    return _unrolled(row, _lstm_direction)


def _lstm_direction(at: _Direction) -> _Sweep:
    op, concat = at.row.op, at.row.emitter.concat
    c0 = at.own(6) if at.row.has(6) else at.zero
    z = at.times(at.x, at.w.transpose([1, 0])) + at.times(at.before, at.r.transpose([1, 0]))
    biases = at.biases(4)
    if biases is not None:
        z = z + (biases[0] + biases[1])
    parts = at.gates(z, 4, 2)
    i, o, f = (at.steps(op("Sigmoid", part)) for part in parts[:3])
    g = at.steps(op("Tanh", parts[3]))
    cells = [c0]
    for t in range(at.count):
        cells.append(f[t] * cells[-1] + i[t] * g[t])
    dh, dc = at.last(1), at.last(2)
    dzs: list[Value] = []
    for t in reversed(range(at.count)):
        dh = dh if at.dys is None else dh + at.dys[t]
        squashed = op("Tanh", cells[t + 1])
        dc = dc + dh * o[t] * (1.0 - squashed * squashed)
        inner = [
            dc * g[t] * i[t] * (1.0 - i[t]),
            dh * squashed * o[t] * (1.0 - o[t]),
            dc * cells[t] * f[t] * (1.0 - f[t]),
            dc * i[t] * (1.0 - g[t] * g[t]),
        ]
        dzs.insert(0, concat(inner, 1))
        dh, dc = at.times(dzs[0], at.r), dc * f[t]
    dz = at.stack(dzs)
    db = dz.sum([0, 1], False)
    dx = at.along(at.times(dz, at.w))
    return _Sweep(dx, at.product(dz, at.x), at.product(dz, at.before), concat([db, db], 0), dh, dc)


@gradient("GRU")
def gru(row: Row) -> Grads:
    """Gates in the order z, r, h; y = (1 - z) h + z y_before, with linear_before_reset 0 and 1."""
    linear = bool(row.attribute("linear_before_reset", 0))
    return _unrolled(row, lambda at: _gru_direction(at, linear))


def _gru_direction(at: _Direction, linear: bool) -> _Sweep:
    op, concat = at.row.op, at.row.emitter.concat
    rz, rr, rh = at.gates(at.r, 3, 0)
    ax, ah = at.gates(at.times(at.x, at.w.transpose([1, 0])), 3, 2), at.before
    biases = at.biases(3)
    if biases is not None:
        wb, rb = (at.gates(b, 3, 0) for b in biases)
        ax = [a + b for a, b in zip(ax, wb, strict=True)]
    az, ar = (a + at.times(ah, m.transpose([1, 0])) for a, m in zip(ax[:2], (rz, rr), strict=True))
    if biases is not None:
        az, ar = az + rb[0], ar + rb[1]
    z, r = op("Sigmoid", az), op("Sigmoid", ar)
    inner = at.times(ah if linear else r * ah, rh.transpose([1, 0]))
    inner = inner if biases is None else inner + rb[2]
    h = op("Tanh", ax[2] + (r * inner if linear else inner))
    # what each step multiplies the arriving gradient with
    to_h = at.steps((1.0 - z) * (1.0 - h * h))
    to_z = at.steps((ah - h) * z * (1.0 - z))
    to_r = at.steps((inner if linear else ah) * r * (1.0 - r))
    keep, reset = at.steps(z), at.steps(r)
    dz, dr, dn, dq = list[Value](), list[Value](), list[Value](), list[Value]()
    dh = at.last(1)
    for t in reversed(range(at.count)):
        dh = dh if at.dys is None else dh + at.dys[t]
        dn.insert(0, dh * to_h[t])
        dz.insert(0, dh * to_z[t])
        if linear:
            dq.insert(0, dn[0] * reset[t])
            dr.insert(0, dn[0] * to_r[t])
            back = at.times(dq[0], rh)
        else:
            behind = at.times(dn[0], rh)
            dr.insert(0, behind * to_r[t])
            back = behind * reset[t]
        dh = dh * keep[t] + back + at.times(dz[0], rz) + at.times(dr[0], rr)
    zs, rs, ns = at.stack(dz), at.stack(dr), at.stack(dn)
    qs = at.stack(dq) if linear else ns
    da = concat([zs, rs, ns], 2)
    outer = [at.product(zs, ah), at.product(rs, ah), at.product(qs, ah if linear else r * ah)]
    sums = [v.sum([0, 1], False) for v in (zs, rs, ns, zs, rs, qs)]
    dx = at.along(at.times(da, at.w))
    return _Sweep(dx, at.product(da, at.x), concat(outer, 0), concat(sums, 0), dh)


@gradient("RNN")
def rnn(row: Row) -> Grads:
    """y = f(x W' + h R' + b), f being Tanh, Relu or Sigmoid."""
    kind = (activations(row) or ["tanh"])[0]

    def sweep(at: _Direction) -> _Sweep:
        slope = {
            "tanh": lambda y: 1.0 - y * y,
            "relu": lambda y: (y > 0.0).cast_like(y),
            "sigmoid": lambda y: y * (1.0 - y),
        }[kind](at.y)
        slopes, dzs, dh = at.steps(slope), list[Value](), at.last(1)
        for t in reversed(range(at.count)):
            dh = dh if at.dys is None else dh + at.dys[t]
            dzs.insert(0, dh * slopes[t])
            dh = at.times(dzs[0], at.r)
        dz = at.stack(dzs)
        db = dz.sum([0, 1], False)
        return _Sweep(
            at.along(at.times(dz, at.w)),
            at.product(dz, at.x),
            at.product(dz, at.before),
            row.emitter.concat([db, db], 0),
            dh,
        )

    return _unrolled(row, sweep)
