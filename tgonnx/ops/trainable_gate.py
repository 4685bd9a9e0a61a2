"""The trainable gate (Kim et al., AAAI 2020) as ONNX model-local functions.

Forward, the gate is the step b(w) = 1[w > 0]. Its derivative is a shape g(w): constant one, sigmoid'(w) or
tanh'(w). `TrainableGate...` carries that derivative as a custom gradient, the limit of the paper's sawtooth
composite TG(w) = b(w) + s_M(w) g(w), s_M(w) = (M w - floor(M w)) / M (equations 4 and 5), which is here
too: plain differentiation of it gives g(w) + s_M(w) g'(w), equal to g(w) within 1/M.
"""

from __future__ import annotations

from typing import get_args

from onnx import FunctionProto, NodeProto, helper, parser

from tgonnx.ops.aspects.row import Grads, Row
from tgonnx.ops.aspects.tables import gradient
from tgonnx.options import Gradient

DOMAIN = "tgonnx"
VERSION = 1
Shape = Gradient
SHAPES: tuple[Shape, ...] = get_args(Shape)

_DERIVATIVES = {
    "one": "s = Sub(w, w)  one = Constant<value = float {1.0}>()  o = CastLike(one, w)  g = Add(s, o)",
    "sigmoid": "s = Sigmoid(w)  p = Mul(s, s)  g = Sub(s, p)",
    "tanh": "t = Tanh(w)  p = Mul(t, t)  one = Constant<value = float {1.0}>()  o = CastLike(one, w)  "
    "g = Sub(o, p)",
}


def op_type(shape: Shape = "one") -> str:
    """The operator (in domain `tgonnx`) of the gate whose derivative has this shape."""
    return f"TrainableGate{shape.capitalize()}"


def function(shape: Shape = "one", opset: int = 18) -> FunctionProto:
    """The gate with a custom gradient: logits of any shape to zeros and ones of the same shape and type."""
    return _function(op_type(shape), "z = Sub(w, w)  open = Greater(w, z)  y = CastLike(open, w)", opset)


def sawtooth_function(shape: Shape = "one", M: int = 100_000, opset: int = 18) -> FunctionProto:
    """The paper's composite for plain differentiation. M is the number of teeth per unit of w."""
    body = f"""z = Sub(w, w)  open = Greater(w, z)  b = CastLike(open, w)
        m1 = Constant<value = float {{{float(M)}}}>()  m = CastLike(m1, w)
        mw = Mul(m, w)  f = Floor(mw)  d = Sub(mw, f)  saw = Div(d, m)
        {_DERIVATIVES[shape]}
        sg = Mul(saw, g)  y = Add(b, sg)"""
    return _function(sawtooth_op_type(shape), body, opset)


def sawtooth_op_type(shape: Shape = "one") -> str:
    """The operator (in domain `tgonnx`) of the sawtooth composite."""
    return f"SawtoothGate{shape.capitalize()}"


def node(logits: str, output: str, shape: Shape = "one", name: str = "") -> NodeProto:
    """A call of the gate. The model also needs `function(shape)` and the opset import `tgonnx` 1."""
    return helper.make_node(op_type(shape), [logits], [output], name=name or output, domain=DOMAIN)


def _function(name: str, body: str, opset: int) -> FunctionProto:
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    return parser.parse_function(f"{header} {name} (w) => (y) {{ {body} }}")


@gradient(op_type("one"), domain=DOMAIN)
def _gate_one(row: Row) -> Grads:
    return [row.op("Identity", row.dy)]


@gradient(op_type("sigmoid"), domain=DOMAIN)
def _gate_sigmoid(row: Row) -> Grads:
    s = row.op("Sigmoid", row.x)
    return [row.dy * (s - s * s)]


@gradient(op_type("tanh"), domain=DOMAIN)
def _gate_tanh(row: Row) -> Grads:
    t = row.op("Tanh", row.x)
    return [row.dy * (1.0 - t * t)]
