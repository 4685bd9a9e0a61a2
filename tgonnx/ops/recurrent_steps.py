"""LSTM, GRU and RNN decomposed step by step: every form that the standard has (ONNX, opset 14).

For training where the rows of `recurrent` do not reach: lengths of sequences, peepholes, other activations, clip,
input_forget, layout 1. The number of steps must be known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from tgonnx.graph.builder import Value
from tgonnx.ops.aspects.row import Outputs, Row

Activation = Callable[[Value], Value]
DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
REVERSALS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
# alpha and beta by default, of the activations that take them
_ALPHA = {
    "affine": 1.0,
    "leakyrelu": 0.01,
    "thresholdedrelu": 1.0,
    "scaledtanh": 1.0,
    "hardsigmoid": 0.2,
    "elu": 1.0,
}
_BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}
_PLAIN = {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softsign": "Softsign",
    "softplus": "Softplus",
}
_WITH_ALPHA = {"leakyrelu": "LeakyRelu", "thresholdedrelu": "ThresholdedRelu", "elu": "Elu"}


def pick(value: Value, axis: int, index: int) -> Value:
    return value.slice([index], [index + 1], [axis]).squeeze([axis])


def plain(row: Row) -> bool:
    """Is this a form that the gradient rules reach? Others are trained step by step (`recurrent_steps`)."""
    if row.has(4) or row.has(7) or any(row.attribute(name) for name in ("clip", "input_forget", "layout")):
        return False
    directions = 2 if row.attribute("direction") == "bidirectional" else 1
    named = activations(row)
    if row.node.op_type == "RNN" and named:
        return set(named) <= {"tanh"} or set(named) <= {"relu"} or set(named) <= {"sigmoid"}
    return named in ([], DEFAULTS[row.node.op_type] * directions)


def activations(row: Row) -> list[str]:
    """The names of the activations as given, in lower case."""
    given = row.attribute("activations", [])
    return [(a.decode() if isinstance(a, bytes) else a).lower() for a in given]


def recurrent_steps(row: Row, opset: int) -> Outputs | None:
    """X [T, N, in] to Y [T, directions, N, H], Y_h and Y_c [directions, N, H]; layout 1 has the batch first."""
    shape, layout = row.shape(row.x), int(row.attribute("layout", 0))
    steps = None if shape is None else shape[layout]
    if plain(row) or not isinstance(steps, int):
        return None
    reversals = REVERSALS[row.attribute("direction", "forward")]
    functions = list(_functions(row, len(reversals)))
    per_direction = len(functions) // len(reversals)
    x = row.x.transpose([1, 0, 2]) if layout else row.x
    outputs: list[list[Value]] = []
    for index, backwards in enumerate(reversals):
        chosen = functions[index * per_direction : (index + 1) * per_direction]
        outputs.append(_Cell(row, x, index, backwards, steps, chosen).run())
    join = row.emitter.concat
    y = join([found[0].unsqueeze([1]) for found in outputs], 1)
    states = [
        join([v.unsqueeze([0]) for v in column], 0) for column in zip(*(f[1:] for f in outputs), strict=True)
    ]
    if layout:
        y, states = y.transpose([2, 0, 1, 3]), [state.transpose([1, 0, 2]) for state in states]
    return [y, *states]


def _functions(row: Row, directions: int) -> Iterator[Activation]:
    """The activations in order; each takes its alpha and beta from lists of those that were given."""
    named = activations(row) or DEFAULTS[row.node.op_type] * directions
    alphas, betas = (iter(row.attribute(f"activation_{name}", [])) for name in ("alpha", "beta"))
    for name in named:
        if name not in _PLAIN and name not in _ALPHA:
            raise row.unsupported(f"the activation {name!r} is unknown")
        alpha = float(next(alphas, _ALPHA[name])) if name in _ALPHA else 0.0
        beta = float(next(betas, _BETA[name])) if name in _BETA else 0.0
        yield _function(row, name, alpha, beta)


def _function(row: Row, name: str, alpha: float, beta: float) -> Activation:
    op = row.op
    if name in _PLAIN:
        return lambda v: op(_PLAIN[name], v)
    if name in _WITH_ALPHA:
        return lambda v: op(_WITH_ALPHA[name], v, alpha=alpha)
    if name == "hardsigmoid":
        return lambda v: op("HardSigmoid", v, alpha=alpha, beta=beta)
    if name == "scaledtanh":
        return lambda v: op("Tanh", v * beta) * alpha
    return lambda v: v * alpha + beta


@dataclass
class _Cell:
    """One direction. Time runs forwards here: a backward direction reads x reversed, each sequence by itself."""

    row: Row
    x: Value  # [T, N, in]
    index: int
    backwards: bool
    steps: int
    functions: Sequence[Activation]

    def __post_init__(self) -> None:
        row = self.row
        lengths = row.input(4) if row.has(4) else None
        if lengths is not None:
            lengths.elem_type = TensorProto.INT32
        self.lengths = None if lengths is None else lengths.cast(TensorProto.INT64)
        self.hidden = int(row.attribute("hidden_size"))
        self.w, self.r = (pick(row.input(k), 0, self.index).transpose([1, 0]) for k in (1, 2))
        self.bias = self._own_bias()
        self.zero = (pick(self.x, 0, 0) * 0.0).slice([0], [1], [1]) + row.emitter.filled(
            row.emitter.ints([self.hidden]), 0.0, row.x.elem_type
        )  # [N, H]

    def _own_bias(self) -> tuple[Value, Value] | None:
        """Of the input and of the recurrence, [gates * H] each."""
        if not self.row.has(3):
            return None
        whole = pick(self.row.input(3), 0, self.index)
        first, second = self.row.emitter.ops("Split", whole, count=2, axis=0, num_outputs=2)
        return first, second

    def run(self) -> list[Value]:
        """Y [T, N, H], and the last states."""
        cells: dict[str, Callable[..., list[Value]]] = {
            "LSTM": self._lstm,
            "GRU": self._gru,
            "RNN": self._rnn,
        }
        step = cells[self.row.node.op_type]
        inputs = self.row.op("MatMul", self._reversed(self.x), self.w)
        if self.bias is not None:
            inputs = inputs + self.bias[0]
        states = (
            [self._initial(5), self._initial(6)] if self.row.node.op_type == "LSTM" else [self._initial(5)]
        )
        seen = []
        for t in range(self.steps):
            new = step(pick(inputs, 0, t), *states)
            if self.lengths is None:
                states = new
                seen.append(new[0])
                continue
            alive = (self.lengths > self.row.emitter.scalar(t, TensorProto.INT64)).unsqueeze([1])
            states = [self.row.op("Where", alive, a, b) for a, b in zip(new, states, strict=True)]
            seen.append(self.row.op("Where", alive, new[0], self.zero))
        y = self.row.emitter.concat([v.unsqueeze([0]) for v in seen], 0)
        return [self._reversed(y), *states]

    def _reversed(self, value: Value) -> Value:
        if not self.backwards:
            return value
        if self.lengths is None:
            return value.flip([0])
        return self.row.op("ReverseSequence", value, self.lengths, batch_axis=1, time_axis=0)

    def _initial(self, index: int) -> Value:
        if not self.row.has(index):
            return self.zero
        return pick(self.row.input(index), int(self.row.attribute("layout", 0)), self.index)

    def _parts(self, value: Value, count: int, axis: int = 1) -> list[Value]:
        return self.row.emitter.ops("Split", value, count=count, axis=axis, num_outputs=count)

    def _clipped(self, value: Value) -> Value:
        bound = float(self.row.attribute("clip", 0.0))
        return self.row.op("Clip", value, self.row.like(-bound), self.row.like(bound)) if bound else value

    def _times(self, a: Value, b: Value) -> Value:
        return self.row.op("MatMul", a, b)

    def _lstm(self, z: Value, h: Value, c: Value) -> list[Value]:
        f, g, last = self.functions
        z = z + self._times(h, self.r)
        i_in, o_in, f_in, c_in = self._parts(z if self.bias is None else z + self.bias[1], 4)
        peep = self._parts(pick(self.row.input(7), 0, self.index), 3, 0) if self.row.has(7) else None
        if peep is not None:
            i_in, f_in = i_in + peep[0] * c, f_in + peep[2] * c
        i = f(self._clipped(i_in))
        forget = 1.0 - i if self.row.attribute("input_forget", 0) else f(self._clipped(f_in))
        c = forget * c + i * g(self._clipped(c_in))
        o = f(self._clipped(o_in if peep is None else o_in + peep[1] * c))
        return [o * last(c), c]

    def _gru(self, inputs: Value, h: Value) -> list[Value]:
        f, g = self.functions
        x_z, x_r, x_h = self._parts(inputs, 3)
        m_z, m_r, m_h = self._parts(self.r, 3)
        a_z, a_r = x_z + self._times(h, m_z), x_r + self._times(h, m_r)
        bias = None if self.bias is None else self._parts(self.bias[1], 3, 0)
        if bias is not None:
            a_z, a_r = a_z + bias[0], a_r + bias[1]
        z, r = f(self._clipped(a_z)), f(self._clipped(a_r))
        linear = bool(self.row.attribute("linear_before_reset", 0))
        inner = self._times(h if linear else r * h, m_h)
        inner = inner if bias is None else inner + bias[2]
        n = g(self._clipped(x_h + (r * inner if linear else inner)))
        return [(1.0 - z) * n + z * h]

    def _rnn(self, inputs: Value, h: Value) -> list[Value]:
        z = inputs + self._times(h, self.r)
        return [self.functions[0](self._clipped(z if self.bias is None else z + self.bias[1]))]
