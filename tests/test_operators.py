"""Models of a few nodes around one operator: its channels are units, and gated equals pruned."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from oracle import check_exact

from tgonnx.coupling import Attention, analyze
from tgonnx.model import load


def model(opset: int, signature: str, weights: str, body: str, ir: int = 10) -> onnx.ModelProto:
    """A model in ONNX text; `weights` are filled with random numbers, integers with small ones."""
    imports = f'<ir_version: {ir}, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    proto = parser.parse_model(f"{imports} g {signature} <{weights}> {{ {body} }}")
    rng = np.random.default_rng(0)
    for value in proto.graph.value_info:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        data = rng.standard_normal(shape) if kind.kind == "f" else rng.integers(1, 4, shape)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(data, kind), value.name))
    del proto.graph.value_info[:]
    return proto


def units_of(proto: onnx.ModelProto, attention: Attention = "heads") -> list[int]:
    """Sizes of the groups, gated having been held against pruned for some masks."""
    for seed in range(3):
        check_exact(proto, seed, attention=attention)
    return sorted(group.size for group in analyze(load(proto), attention).groups)


PACKED = "float[7,24] a, float[7,{k}] b, float[7,{v}] c, float[{o},7] d"
PROJECTED = "q = MatMul(x, a) k = MatMul(x, b) v = MatMul(x, c) "
TOKENS = "(float[2,5,7] x) => (float[2,5,7] y)"
ROTATED = "(float[2,5,7] x, int64[2,5] p) => (float[2,5,7] y)"


@pytest.mark.parametrize(("signature", "sizes", "more", "body", "heads", "dims"), [
    (TOKENS, (24, 12, 12), "", "h = Attention <q_num_heads=4, kv_num_heads=4> (q, k, v)", [4], [3, 6]),
    (TOKENS, (8, 6, 18), "", "h = Attention <q_num_heads=6, kv_num_heads=2, is_causal=1> (q, k, v)", [3], [3, 4]),
    (TOKENS, (4, 3, 18), "", "h = Attention <q_num_heads=6, kv_num_heads=1> (q, k, v)", [6], [3, 4]),
    (TOKENS, (24, 12, 12), ", float[4,5,5] m", "h = Attention <q_num_heads=4, kv_num_heads=4, softcap=2.0> (q, k, v, m)", [4], [3, 6]),
    ("(float[2,5,7] x, float[2,2,3,4] pk, float[2,2,3,3] pv) => (float[2,5,7] y, float[2,2,8,4] nk, float[2,2,8,3] nv)",
     (8, 6, 18), "", "h, nk, nv = Attention <q_num_heads=6, kv_num_heads=2> (q, k, v, , pk, pv)", [3], [3]),
    (TOKENS, (8, 6, 18), "", "q1 = Reshape(q, sq) q2 = Transpose <perm=[0,2,1,3]> (q1) k1 = Reshape(k, sk) "
     "k2 = Transpose <perm=[0,2,1,3]> (k1) v1 = Reshape(v, sv) v2 = Transpose <perm=[0,2,1,3]> (v1) "
     "g = Attention(q2, k2, v2) h1 = Transpose <perm=[0,2,1,3]> (g) h = Reshape(h1, so)", [3], [3, 4]),
    (ROTATED, (24, 12, 12), ", float[9,3] cs, float[9,3] sn", "q2 = RotaryEmbedding <num_heads=4> (q, cs, sn, p) "
     "k2 = RotaryEmbedding <num_heads=4> (k, cs, sn, p) h = Attention <q_num_heads=4, kv_num_heads=4> (q2, k2, v)", [4], [3, 3]),
    (ROTATED, (24, 12, 12), ", float[9,2] cs, float[9,2] sn",
     "q2 = RotaryEmbedding <num_heads=4, rotary_embedding_dim=4, interleaved=1> (q, cs, sn, p) "
     "k2 = RotaryEmbedding <num_heads=4, rotary_embedding_dim=4, interleaved=1> (k, cs, sn, p) "
     "h = Attention <q_num_heads=4, kv_num_heads=4> (q2, k2, v)", [4], [2, 2, 3]),
], ids=["heads", "grouped", "one shared", "mask", "cache", "4D", "rotary", "partly rotary"])  # fmt: skip
def test_attention(
    signature: str, sizes: tuple[int, int, int], more: str, body: str, heads: list[int], dims: list[int]
) -> None:
    k, v, o = sizes
    targets = {"sq": [0, 0, 6, 4], "sk": [0, 0, 2, 4], "sv": [0, 0, 2, 3], "so": [0, 0, -1]}
    proto = model(23, signature, PACKED.format(k=k, v=v, o=o) + more, PROJECTED + body + " y = MatMul(h, d)", ir=11)
    for name, target in targets.items():
        if name in {i for node in proto.graph.node for i in node.input}:
            proto.graph.initializer.append(numpy_helper.from_array(np.array(target), name))
    assert units_of(proto, "heads") == heads
    assert units_of(proto, "head-dim") == dims
