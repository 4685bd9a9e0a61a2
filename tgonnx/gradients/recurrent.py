"""Recurrent networks: back-propagation through time, unrolled (the sequence length must be fixed)."""

from __future__ import annotations

from dataclasses import dataclass

from tgonnx.emit import Value
from tgonnx.gradient_row import Row
from tgonnx.ops.registry import gradient

Grads = list[Value | None]


@dataclass
class _Sweep:
    """The gradients of one direction."""

    x: Value
    w: Value
    r: Value
    b: Value
    h: Value
    c: Value


@gradient("LSTM")
def lstm(row: Row) -> Grads:
    """X (T, N, I), W (D, 4H, I), R (D, 4H, H), B (D, 8H), h0 and c0 (D, N, H); gates in the order i, o, f, c.

    Only default activations, without sequence_lens, peepholes, clip, input_forget and layout 1.
    """
    for index, name in ((4, "sequence_lens"), (7, "P")):
        if row.has(index):
            raise row.unsupported(f"the input {name} is used")
    for name in ("activations", "clip", "input_forget", "layout"):
        if row.attr(name) not in (None, 0, ["Sigmoid", "Tanh", "Tanh"], [b"Sigmoid", b"Tanh", b"Tanh"] * 2):
            raise row.unsupported(f"the attribute {name} is used")
    shape = row.shape(row.x)
    if shape is None or not isinstance(shape[0], int):
        raise row.unsupported("the sequence length is not fixed")
    direction = row.attr("direction", "forward")
    reversals = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    sweeps = [_lstm_direction(row, d, backwards, shape[0]) for d, backwards in enumerate(reversals)]
    dx = sweeps[0].x if len(sweeps) == 1 else sweeps[0].x + sweeps[1].x

    def stack(parts: list[Value]) -> Value:
        return row.emitter.concat([part.unsqueeze([0]) for part in parts], 0)

    optional = [stack([getattr(s, key) for s in sweeps]) for key in ("b", "h", "c")]
    grads: Grads = [dx, stack([s.w for s in sweeps]), stack([s.r for s in sweeps]), optional[0], None]
    return [*grads, optional[1], optional[2]][: len(row.node.input)]


def _pick(value: Value, axis: int, index: int) -> Value:
    return value.slice([index], [index + 1], [axis]).squeeze([axis])


def _steps(row: Row, value: Value, count: int) -> list[Value]:
    parts = row.emitter.ops("Split", value, row.emitter.ints([1] * count), count=count, axis=0)
    return [part.squeeze([0]) for part in parts]


def _lstm_direction(row: Row, d: int, backwards: bool, count: int) -> _Sweep:
    def along(value: Value) -> Value:
        return value.flip([0]) if backwards else value

    op, concat = row.op, row.emitter.concat
    hidden = int(row.attr("hidden_size"))
    x, y = along(row.x), along(_pick(row.y, 1, d))
    w, r = _pick(row.input(1), 0, d), _pick(row.input(2), 0, d)
    zero = _pick(y, 0, 0) * 0.0
    h0, c0 = (_pick(row.input(i), 0, d) if row.has(i) else zero for i in (5, 6))
    before = h0.unsqueeze([0])
    if count > 1:
        before = concat([before, y.slice([0], [count - 1], [0])], 0)
    z = op("MatMul", x, w.transpose([1, 0])) + op("MatMul", before, r.transpose([1, 0]))
    if row.has(3):
        both = _pick(row.input(3), 0, d)
        z = z + (both.slice([0], [4 * hidden], [0]) + both.slice([4 * hidden], [8 * hidden], [0]))
    parts = row.emitter.ops("Split", z, row.emitter.ints([hidden] * 4), count=4, axis=2)
    i, o, f = (_steps(row, op("Sigmoid", part), count) for part in parts[:3])
    g = _steps(row, op("Tanh", parts[3]), count)
    cells = [c0]
    for t in range(count):
        cells.append(f[t] * cells[-1] + i[t] * g[t])
    arrived = [row.gradient(k) for k in range(3)]
    dys = None if arrived[0] is None else _steps(row, along(_pick(arrived[0], 1, d)), count)
    dh, dc = (zero if v is None else _pick(v, 0, d) for v in arrived[1:])
    dzs: list[Value] = []
    for t in reversed(range(count)):
        dh = dh if dys is None else dh + dys[t]
        squashed = op("Tanh", cells[t + 1])
        dc = dc + dh * o[t] * (1.0 - squashed * squashed)
        inner = [
            dc * g[t] * i[t] * (1.0 - i[t]),
            dh * squashed * o[t] * (1.0 - o[t]),
            dc * cells[t] * f[t] * (1.0 - f[t]),
            dc * i[t] * (1.0 - g[t] * g[t]),
        ]
        dzs.insert(0, concat(inner, 1))
        dh, dc = op("MatMul", dzs[0], r), dc * f[t]
    dz = concat([v.unsqueeze([0]) for v in dzs], 0)
    columns = dz.reshape([-1, 4 * hidden]).transpose([1, 0])
    rows = [v.reshape(concat([row.emitter.ints([-1]), v.shape(2, 3)], 0)) for v in (x, before)]
    db = dz.sum([0, 1], False)
    dw, dr = (op("MatMul", columns, v) for v in rows)
    return _Sweep(along(op("MatMul", dz, w)), dw, dr, concat([db, db], 0), dh, dc)
