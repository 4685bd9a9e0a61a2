"""Small networks with residual branches, as text with shapes of weights, which are drawn."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

Shapes = dict[str, tuple[int, ...]]

_ATTENTION = """
    q_ = MatMul(a_in, wq)  k_ = MatMul(a_in, wk)  v_ = MatMul(a_in, wv)
    q3 = Reshape(q_, heads)  k3 = Reshape(k_, heads)  v3 = Reshape(v_, heads)
    q = Transpose<perm=[0,2,1,3]>(q3)  k = Transpose<perm=[0,2,3,1]>(k3)  v = Transpose<perm=[0,2,1,3]>(v3)
    s = MatMul(q, k)  p = Softmax<axis=-1>(s)  c = MatMul(p, v)
    c2 = Transpose<perm=[0,2,1,3]>(c)  c1 = Reshape(c2, joined)  a_out = MatMul(c1, wo)"""
_OF_ATTENTION: Shapes = {"wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 16)}
_FEED_FORWARD = "u = MatMul(f_in, w1)  ub = Add(u, b1)  g = Relu(ub)  d = MatMul(g, w2)  f_out = Add(d, b2)"
_OF_FEED_FORWARD: Shapes = {"w1": (16, 32), "b1": (32,), "w2": (32, 16), "b2": (16,)}
_NORMS: Shapes = {"s1": (16,), "o1": (16,), "s2": (16,), "o2": (16,)}
_CONSTANTS = "int64[4] heads = {0, 0, 4, 4}, int64[3] joined = {0, 0, 16}"


def _sequence(text: str, shapes: Shapes, constants: str = _CONSTANTS) -> onnx.ModelProto:
    return made(f"(float[N,T,16] x) => (float[N,T,16] y) <{constants}>", text, shapes)


def _image(
    text: str, shapes: Shapes, signature: str = "(float[N,8,H,W] x) => (float[N,8,H,W] y)"
) -> onnx.ModelProto:
    return made(signature, text, shapes)


def made(signature: str, text: str, shapes: Shapes, seed: int = 0) -> onnx.ModelProto:
    """A model of opset 18 whose weights are drawn."""
    head = '<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]> g'
    model = parser.parse_model(f"{head} {signature} {{ {text} }}")
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        values = rng.normal(0, 0.3, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def pre_norm() -> onnx.ModelProto:
    """Attention and feed-forward part, each behind a LayerNormalization. Branches: t, y."""
    text = f"""a_in = LayerNormalization<axis=-1>(x, s1, o1) {_ATTENTION}  t = Add(x, a_out)
    f_in = LayerNormalization<axis=-1>(t, s2, o2) {_FEED_FORWARD}  y = Add(f_out, t)"""
    return _sequence(text, _OF_ATTENTION | _OF_FEED_FORWARD | _NORMS)


def post_norm() -> onnx.ModelProto:
    """The same, each before one. Branches: ta, tf."""
    text = f"""a_in = Identity(x) {_ATTENTION}  ta = Add(a_out, x)  f_in = LayerNormalization<axis=-1>(ta, s1, o1)
    {_FEED_FORWARD}  tf = Add(f_in, f_out)  y = LayerNormalization<axis=-1>(tf, s2, o2)"""
    return _sequence(text, _OF_ATTENTION | _OF_FEED_FORWARD | _NORMS)


def squeeze_excite() -> onnx.ModelProto:
    """Convolutions whose channels are weighed by what is squeezed out of them. Branch: t."""
    text = """h = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(h)  p = GlobalAveragePool(r)  e = Conv(p, ws, bs)
    f = Relu(e)  z = Conv(f, we, be)  gate = Sigmoid(z)  m = Mul(r, gate)  o = Conv(m, w2)
    t = Add(o, x)  y = Relu(t)"""
    shapes: Shapes = {"w1": (12, 8, 3, 3), "b1": (12,), "ws": (4, 12, 1, 1), "bs": (4,)}
    return _image(text, shapes | {"we": (12, 4, 1, 1), "be": (12,), "w2": (8, 12, 1, 1)})


def inverted_residual() -> onnx.ModelProto:
    """Two bottlenecks with a depthwise convolution. Branches: t, y."""
    parts = []
    shapes: Shapes = {}
    for i, (start, end) in enumerate((("x", "t"), ("t", "y"))):
        parts.append(
            f"e{i} = Conv({start}, we{i})  a{i} = Clip(e{i}, low, high)  d{i} = Conv<group=16,pads=[1,1,1,1]>"
            f"(a{i}, wd{i})  c{i} = Clip(d{i}, low, high)  p{i} = Conv(c{i}, wp{i})  {end} = Add(p{i}, {start})"
        )
        shapes |= {f"we{i}": (16, 8, 1, 1), f"wd{i}": (16, 1, 3, 3), f"wp{i}": (8, 16, 1, 1)}
    signature = "(float[N,8,H,W] x) => (float[N,8,H,W] y) <float low = {0}, float high = {6}>"
    return _image(" ".join(parts), shapes, signature)


def nested() -> onnx.ModelProto:
    """A branch with two in it, one of them in the other. Branches: a in b in y."""
    text = """h = Conv<pads=[1,1,1,1]>(x, w1)  r = Relu(h)  i = Conv<pads=[1,1,1,1]>(r, w2)  j = Relu(i)
    k = Conv(j, w3)  a = Add(j, k)  l = Conv(a, w4)  b = Add(r, l)  o = Conv(b, w5)  y = Add(x, o)"""
    shapes: Shapes = {"w1": (12, 8, 3, 3), "w2": (12, 12, 3, 3), "w3": (12, 12, 1, 1), "w4": (12, 12, 1, 1)}
    return _image(text, shapes | {"w5": (8, 12, 1, 1)})


def projection() -> onnx.ModelProto:
    """A block whose shortcut is a convolution, and one without. Branches: t, y."""
    text = """h = Conv<strides=[2,2],pads=[1,1,1,1]>(x, w1)  r = Relu(h)  o = Conv<pads=[1,1,1,1]>(r, w2)
    c = Conv<strides=[2,2]>(x, wp)  t = Add(o, c)  n = Relu(t)  m = Conv<pads=[1,1,1,1]>(n, w3)  y = Add(n, m)"""
    shapes: Shapes = {"w1": (12, 8, 3, 3), "w2": (12, 12, 3, 3), "wp": (12, 8, 1, 1), "w3": (12, 12, 3, 3)}
    return _image(text, shapes, "(float[N,8,16,16] x) => (float[N,12,8,8] y)")


def used_elsewhere() -> onnx.ModelProto:
    """What is added is an output, too. No branches."""
    text = "h = Conv<pads=[1,1,1,1]>(x, w1)  r = Relu(h)  o = Conv(r, w2)  y = Add(x, o)"
    shapes: Shapes = {"w1": (12, 8, 3, 3), "w2": (8, 12, 1, 1)}
    return _image(text, shapes, "(float[N,8,H,W] x) => (float[N,8,H,W] y, float[N,8,H,W] o)")


def broadcast() -> onnx.ModelProto:
    """A shortcut of a pixel an image, which the sum spreads, and a branch of one. No branches, and a layer: v."""
    text = """p = GlobalAveragePool(x)  h = Conv<pads=[1,1,1,1]>(p, w1)  q = Conv<pads=[1,1,1,1]>(x, w2)  t = Add(p, q)
    z = GlobalAveragePool(t)  v = Conv(z, w1b)  y = Add(t, v)  u = Relu(h)"""
    shapes: Shapes = {"w1": (8, 8, 3, 3), "w1b": (8, 8, 1, 1), "w2": (8, 8, 3, 3)}
    return _image(text, shapes, "(float[N,8,H,W] x) => (float[N,8,H,W] y, float[N,8,1,1] u)")


def no_weights() -> onnx.ModelProto:
    """Sums of what was not learned: an activation, and a bias of the full shape. A layer: h."""
    text = "h = Conv(x, w)  c = Mul(h, h)  d = Mul(c, half)  t = Add(h, d)  y = Add(t, half)"
    signature = "(float[N,8,H,W] x) => (float[N,8,H,W] y) <float half = {0.5}>"
    return _image(text, {"w": (8, 8, 1, 1)}, signature)


def several() -> onnx.ModelProto:
    """Two ways and a shortcut that meet in a Sum, then a Sum of two. Branches: both ways into t, and y."""
    text = """h = Conv<pads=[1,1,1,1]>(x, w1)  r = Relu(h)  o = Conv(r, w2)  p = Conv(x, w3)  q = Sigmoid(p)
    t = Sum(o, x, q)  n = Relu(t)  m = Conv<pads=[1,1,1,1]>(n, w4)  y = Sum(m, n)"""
    shapes: Shapes = {"w1": (12, 8, 3, 3), "w2": (8, 12, 1, 1), "w3": (8, 8, 1, 1), "w4": (8, 8, 3, 3)}
    return _image(text, shapes)


def fused() -> onnx.ModelProto:
    """Attention and feed-forward part that meet in SkipLayerNormalization, as onnxruntime fuses them.

    The first puts out the sum, too, which is what the second adds to. Branches: f_in, y.
    """
    text = f"""a_in = Identity(x) {_ATTENTION}  f_in, mean, var, s_ = com.microsoft.SkipLayerNormalization
    <epsilon = 0.00001>(a_out, x, s1, o1, b0)  {_FEED_FORWARD}
    y = com.microsoft.SkipLayerNormalization<epsilon = 0.00001>(f_out, s_, s2)"""
    shapes = _OF_ATTENTION | _OF_FEED_FORWARD | _NORMS | {"b0": (16,)}
    model = _sequence(text, shapes)
    for node in model.graph.node:
        if "mean" in node.output:  # which text cannot leave out
            node.output[1:3] = ["", ""]
    return model


def chain() -> onnx.ModelProto:
    """A plain chain: layers h and l, which put out what they take, beside others that do not. No sums."""
    text = """a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w2, b2)
    d = BatchNormalization(c, s, o, m, v)  h = Relu(d)  i = MaxPool<kernel_shape=[2,2]>(h)
    j = Conv<pads=[1,1,1,1]>(i, w3)  l = Relu(j)  y = Conv(l, w4)"""
    shapes: Shapes = {
        "w1": (12, 8, 3, 3),
        "w2": (12, 12, 3, 3),
        "b2": (12,),
        "w3": (12, 12, 3, 3),
        "w4": (8, 12, 1, 1),
    }
    shapes |= {"s": (12,), "o": (12,), "m": (12,), "v": (12,)}
    model = _image(text, shapes, "(float[N,8,H,W] x) => (float[N,8,P,Q] y)")
    for tensor in model.graph.initializer:
        if tensor.name == "v":  # variances
            tensor.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(tensor)) + 0.5, "v"))
    return model


BRANCHY = {  # and the sums of the branches, by name
    "pre_norm": (pre_norm, {"t", "y"}),
    "post_norm": (post_norm, {"ta", "tf"}),
    "squeeze_excite": (squeeze_excite, {"t"}),
    "inverted_residual": (inverted_residual, {"t", "y"}),
    "nested": (nested, {"a", "b", "y"}),
    "projection": (projection, {"t", "y"}),
    "used_elsewhere": (used_elsewhere, set[str]()),
    "broadcast": (broadcast, {"v"}),
    "no_weights": (no_weights, {"h"}),
    "several": (several, {"t from o", "t from q", "y"}),
    "fused": (fused, {"f_in", "y"}),
    "chain": (chain, {"h", "l"}),
}
