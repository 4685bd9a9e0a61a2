"""Small networks in which alternatives meet, each with the numbers of alternatives of its meetings by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from branchy_models import Shapes, made
from onnx import numpy_helper

_IMAGE = "(float[N,3,H,W] x) => (float[N,5] y)"
_SEQUENCE = "(float[N,T,16] x) => (float[N,T,16] y)"
_ENDING = "g = GlobalAveragePool(o)  f = Flatten(g)  y = MatMul(f, wo)"
_ENDS: Shapes = {"w0": (8, 3, 1, 1), "wo": (8, 5)}


def _operators(name: str, source: str) -> str:
    """A convolution, a pointwise one, and a separable one, called a, b and c with the name behind."""
    return f"""a0{name} = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>({source}, wa{name})  a{name} = Relu(a0{name})
    b{name} = Conv<kernel_shape=[1,1]>({source}, wb{name})
    c0{name} = Conv<kernel_shape=[3,3],pads=[1,1,1,1],group=8>({source}, wc{name})
    c{name} = Conv<kernel_shape=[1,1]>(c0{name}, wd{name})"""


def _weights(name: str) -> Shapes:
    shapes = {"wa": (8, 8, 3, 3), "wb": (8, 8, 1, 1), "wc": (8, 1, 3, 3), "wd": (8, 8, 1, 1)}
    return {f"{stem}{name}": shape for stem, shape in shapes.items()}


def _meeting(ending: str) -> onnx.ModelProto:
    text = f"h = Conv<kernel_shape=[1,1]>(x, w0) {_operators('', 'h')} {ending} o = Relu(s) {_ENDING}"
    return made(_IMAGE, text, _ENDS | _weights("") | {"k": (8, 1, 1)})


def summed() -> onnx.ModelProto:
    return _meeting("s = Sum(a, b, c, h)")


def averaged() -> onnx.ModelProto:
    return _meeting("s = Mean(a, b, c, h)")


def added_one_by_one() -> onnx.ModelProto:
    """As `sum([...])` is exported; the bias stays, whatever is chosen."""
    return _meeting("s1 = Add(a, b)  s2 = Add(s1, k)  s3 = Add(s2, c)  s = Add(s3, h)")


def nested() -> onnx.ModelProto:
    """The second alternative of t has alternatives of its own."""
    text = f"""h = Conv<kernel_shape=[1,1]>(x, w0) {_operators("", "h")}  m = Sum(a, b, c)  n = Relu(m)
    p = Conv<kernel_shape=[1,1]>(n, wp)  q = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(h)  t = Sum(q, p, h)
    o = Relu(t) {_ENDING}"""
    return made(_IMAGE, text, _ENDS | _weights("") | {"wp": (8, 8, 1, 1)})


def of_layers() -> onnx.ModelProto:
    """Two layers, the first weighed by constants as differentiable search leaves them."""
    text = f"""h = Conv<kernel_shape=[1,1]>(x, w0) {_operators("1", "h")}
    ma = Mul(a1, ka)  mb = Mul(b1, kb)  mc = Mul(c1, kc)  u = Add(ma, mb)  s = Add(u, mc)  r = Relu(s)
    {_operators("2", "r")}  v = Add(a2, c2)  t = Add(v, r)  o = Relu(t) {_ENDING}"""
    scales: Shapes = {"ka": (1,), "kb": (1,), "kc": (1,)}
    return made(_IMAGE, text, _ENDS | _weights("1") | _weights("2") | scales)


def of_tokens() -> onnx.ModelProto:
    """A feed-forward part, a mixing of neighbours, and a skip, normalised before; the last sum is the output."""
    text = """n = LayerNormalization<axis=-1>(x, s, o)  u = MatMul(n, w1)  g = Relu(u)  d = MatMul(g, w2)
    nt = Transpose<perm=[0,2,1]>(n)  ct = Conv<kernel_shape=[3],pads=[1,1]>(nt, w3)  c = Transpose<perm=[0,2,1]>(ct)
    y = Sum(d, c, x)"""
    return made(_SEQUENCE, text, {"s": (16,), "o": (16,), "w1": (16, 32), "w2": (32, 16), "w3": (16, 16, 3)})


def side_by_side() -> onnx.ModelProto:
    """As in Inception: what is joined along channels, normalised, and read by a convolution."""
    text = f"""h = Conv<kernel_shape=[1,1]>(x, w0) {_operators("", "h")}
    p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(h)  q = Conv<kernel_shape=[1,1]>(p, wp)
    j = Concat<axis=1>(a, b, c, q)  n = BatchNormalization(j, sc, bi, me, va)  r = Relu(n)
    o = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(r, we) {_ENDING}"""
    more: Shapes = {
        "wp": (6, 8, 1, 1),
        "we": (8, 30, 3, 3),
        "sc": (30,),
        "bi": (30,),
        "me": (30,),
        "va": (30,),
    }
    model = made(_IMAGE, text, _ENDS | _weights("") | more)
    for tensor in model.graph.initializer:
        if tensor.name == "va":  # no variance is below zero
            tensor.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(tensor)) + 0.5, "va"))
    return model


SUPERNETS: Mapping[str, tuple[Callable[[], onnx.ModelProto], Mapping[str, int]]] = {
    "summed": (summed, {"s": 4}),
    "averaged": (averaged, {"s": 4}),
    "added_one_by_one": (added_one_by_one, {"s": 4}),
    "nested": (nested, {"m": 3, "t": 3}),
    "of_layers": (of_layers, {"s": 3, "t": 3}),
    "of_tokens": (of_tokens, {"y": 3}),
    "side_by_side": (side_by_side, {"j": 4}),
}
