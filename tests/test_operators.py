"""Models of a few nodes around one operator: its channels are units, and gated equals pruned."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from oracle import check_exact, run

from tgonnx.analysis.cost import CostModel
from tgonnx.analysis.coupling import Attention
from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.passes.make_differentiable import make_differentiable


def model(opset: int, signature: str, weights: str, body: str, ir: int = 10) -> onnx.ModelProto:
    """A model in ONNX text; `weights` are filled with random numbers, integers with small ones."""
    imports = f'<ir_version: {ir}, opset_import: ["" : {opset}, "com.microsoft" : 1, "ai.onnx.ml" : 3]>'
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
    (TOKENS, (24, 12, 12), ", float[4,5,5] m",
     "h = Attention <q_num_heads=4, kv_num_heads=4, softcap=2.0> (q, k, v, m)", [4], [3, 6]),
    ("(float[2,5,7] x, float[2,2,3,4] pk, float[2,2,3,3] pv) => (float[2,5,7] y, float[2,2,8,4] nk, float[2,2,8,3] nv)",
     (8, 6, 18), "", "h, nk, nv = Attention <q_num_heads=6, kv_num_heads=2> (q, k, v, , pk, pv)", [3], [3]),
    (TOKENS, (8, 6, 18), "", "q1 = Reshape(q, sq) q2 = Transpose <perm=[0,2,1,3]> (q1) k1 = Reshape(k, sk) "
     "k2 = Transpose <perm=[0,2,1,3]> (k1) v1 = Reshape(v, sv) v2 = Transpose <perm=[0,2,1,3]> (v1) "
     "g = Attention(q2, k2, v2) h1 = Transpose <perm=[0,2,1,3]> (g) h = Reshape(h1, so)", [3], [3, 4]),
    (ROTATED, (24, 12, 12), ", float[9,3] cs, float[9,3] sn", "q2 = RotaryEmbedding <num_heads=4> (q, cs, sn, p) "
     "k2 = RotaryEmbedding <num_heads=4> (k, cs, sn, p) h = Attention <q_num_heads=4, kv_num_heads=4> (q2, k2, v)",
     [4], [3, 3]),
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
    proto = model(
        23, signature, PACKED.format(k=k, v=v, o=o) + more, PROJECTED + body + " y = MatMul(h, d)", ir=11
    )
    for name, target in targets.items():
        if name in {i for node in proto.graph.node for i in node.input}:
            proto.graph.initializer.append(numpy_helper.from_array(np.array(target), name))
    assert units_of(proto, "heads") == heads
    assert units_of(proto, "head-dim") == dims


IMAGE = "(float[2,3,6,6] x) => (float[2,4,{n},{n}] y)"
QUANTISED = (
    "s = Constant <value = float {0.05}> () z = Constant <value = uint8 {128}> () "
    "t = Constant <value = float {0.1}> () "
)


@pytest.mark.parametrize(("signature", "weights", "body", "groups"), [
    ("(float[2,5] x) => (float[2,4] y)", "float[5,8] a, uint8[8,4] b, uint8[4] n",
     "h = MatMul(x, a) q, s, z = DynamicQuantizeLinear(h) i = MatMulInteger(q, b, z, n) y = Cast <to=1> (i)", [8]),
    ("(float[2,5] x) => (float[2,4] y)",
     "uint8[5,8] a, uint8[8,4] b, float[8] s8, uint8[8] z8, float[4] s4, uint8[4] z4",
     QUANTISED + "q = QuantizeLinear(x, s, z) h = QLinearMatMul(q, s, z, a, s8, z8, t, z) "
     "i = QLinearMatMul(h, t, z, b, s4, z4, t, z) y = DequantizeLinear(i, t, z)", [8]),
    (IMAGE.format(n=2), "float[6,3,3,3] a, uint8[4,6,3,3] b, uint8 n",
     "h = Conv(x, a) q, s, z = DynamicQuantizeLinear(h) i = ConvInteger(q, b, z, n) y = Cast <to=1> (i)", [6]),
    (IMAGE.format(n=2), "int8[6,3,3,3] a, int8[6,3,1,1] b, int8[4,6,3,3] c, "
     "float[6] sa, int8 za, int32[6] ba, float[6] sb, int32[6] bb, float[4] sc, int8 zc, int32[4] bc",
     QUANTISED + "q = QuantizeLinear(x, s, z) h = QLinearConv(q, s, z, a, sa, za, t, z, ba) "
     "g = QLinearConv <group=2> (h, t, z, b, sb, za, t, z, bb) i = QLinearConv(g, t, z, c, sc, zc, t, z, bc) "
     "y = DequantizeLinear(i, t, z)", [3, 3]),
    (IMAGE.format(n=2), "int8[6,3,3,3] a, int8[4,6,3,3] b, float[6] sa, int8[6] za, float[4] sb, int8[4] zb",
     QUANTISED + "w = DequantizeLinear <axis=0> (a, sa, za) v = DequantizeLinear <axis=0> (b, sb, zb) h = Conv(x, w) "
     "q = QuantizeLinear(h, t, z) r = DequantizeLinear(q, t, z) y = Conv(r, v)", [6]),
    (IMAGE.format(n=2),
     "int16[6,3,3,3] a, int16[4,6,3,3] b, float[6] sa, int16[6] za, float[4] sb, int16[4] zb, uint16 n",
     QUANTISED + "w = com.microsoft.DequantizeLinear <axis=0> (a, sa, za) "
     "v = com.microsoft.DequantizeLinear <axis=0> (b, sb, zb) h = Conv(x, w) "
     "q = com.microsoft.QuantizeLinear(h, t, n) r = com.microsoft.DequantizeLinear(q, t, n) y = Conv(r, v)", [6]),
], ids=["MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv", "quantize-dequantize", "16 bits"])  # fmt: skip
def test_quantised(signature: str, weights: str, body: str, groups: list[int]) -> None:
    assert units_of(model(17, signature, weights, body)) == groups


@pytest.mark.parametrize(("opset", "signature", "weights", "body", "groups"), [
    (19, "(float[1,3,3,3] x) => (float[1,2,2,2] y)", "float[6,3,1,1] a, float[8,3,2,2] o, float[2,6,2,2] b, float[2] c",
     "h = Conv(x, a) p = Conv(x, o) y = DeformConv(h, b, p, c)", [6]),
    (18, "(float[2,5] x) => (float[2,4] y)", "float[5,8] a, float[8,4] b",
     "h = MatMul(x, a) n = Shape(h) k = CenterCropPad(h, n) y = MatMul(k, b)", [8]),
    (18, IMAGE.format(n=4), "float[6,3,3,3] a, float[4,6,1,1] b",
     "h = Conv(x, a) p, i = MaxPool <kernel_shape=[2,2], strides=[2,2]> (h) "
     "u = MaxUnpool <kernel_shape=[2,2], strides=[2,2]> (p, i) "
     "y = Conv(u, b)", [6]),
    (20, "(float[2,5,9] x) => (float[2,5,4] y)", "float[9,8] a, float[8,2,4] b",
     "h = MatMul(x, a) l = Constant <value = int64[1] {-1}> () e = Unsqueeze(h, l) n = Constant <value = int64 {1}> () "
     'f = DFT(e, , n) y = Einsum <equation = "tlcr,crd->tld"> (f, b)', [8]),
], ids=["DeformConv", "CenterCropPad", "MaxUnpool", "DFT"])  # fmt: skip
def test_others(opset: int, signature: str, weights: str, body: str, groups: list[int]) -> None:
    assert units_of(model(opset, signature, weights, body)) == groups


@pytest.mark.parametrize(("groups", "width", "bias", "expected"), [
    (16, 1, False, [16]), (16, 1, True, [16]), (16, 2, True, [16]), (8, 2, True, [8]), (4, 3, False, [4]),
    (2, 3, False, [3, 8]), (1, 5, True, [5, 16]),
])  # fmt: skip
def test_transposed_convolution_by_groups(groups: int, width: int, bias: bool, expected: list[int]) -> None:
    """Whole groups where they are the larger factor: what is tied to a group's inputs goes with them."""
    out = groups * width
    weights = f"float[16,3,3,3] a, float[16,{width},4,4] t, float[{out}] c, float[4,{out},1,1] b"
    node = f"u = ConvTranspose <group={groups}, strides=[2,2], pads=[1,1,1,1]> (r, t{', c' if bias else ''})"
    proto = model(
        17, IMAGE.format(n=12), weights, f"h = Conv <pads=[1,1,1,1]> (x, a) r = Relu(h) {node} y = Conv(u, b)"
    )
    assert units_of(proto) == expected


@pytest.mark.parametrize(("width", "front"), [
    (5, "ai.onnx.ml.Scaler <offset = [0.1, 0.2, 0.3, 0.4, 0.5], scale = [2.0, 1.0, 0.5, 1.0, 2.0]> (x)"),
    (5, "ai.onnx.ml.Imputer <imputed_value_floats = [0.1, 0.2, 0.3, 0.4, 0.5], replaced_value_float = 9.0> (x)"),
    (5, 'ai.onnx.ml.Normalizer <norm = "L2"> (x)'),
    (5, "ai.onnx.ml.Binarizer <threshold = 0.5> (x)"),
    (5, "ai.onnx.ml.FeatureVectorizer <inputdimensions = [5]> (x)"),
    (2, "ai.onnx.ml.ArrayFeatureExtractor (x, i)"),
])  # fmt: skip
def test_what_scikit_learn_writes_in_front_of_a_network(width: int, front: str) -> None:
    weights = f"float[{width},8] a, float[8] c, float[8,4] b"
    body = f"i = Constant <value = int64[2] {{0, 3}}> () s = {front} g = MatMul(s, a) h = Add(g, c) y = MatMul(h, b)"
    assert units_of(model(17, "(float[N,5] x) => (float[N,4] y)", weights, body)) == [8]


def test_symbols_of_a_one_hot_code_are_no_channels() -> None:
    """`tokens == [0, 1, .. 8]` picks a row of the table, like a Gather."""
    body = "e = Equal(x, v) f = Cast <to=1> (e) g = MatMul(f, a) h = Relu(g) y = MatMul(h, b)"
    proto = model(17, "(int64[N,5,1] x) => (float[N,5,4] y)", "float[9,8] a, float[8,4] b", body)
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(9), "v"))
    assert units_of(proto) == [8]
    kept = next(p for p in analyze(load(proto)).pinned if (p.value, p.axis) == ("a", 0))
    assert kept.op_type == "Equal"


def test_columns_of_a_table_are_channels_even_if_it_codes_symbols_one_hot() -> None:
    """What a weight holds is not asked: a stored identity is a table of embeddings, and its rows are the symbols."""
    body = "f = Gather(v, x) g = MatMul(f, a) h = Relu(g) y = MatMul(h, b)"
    proto = model(17, "(int64[N,5] x) => (float[N,5,4] y)", "float[9,8] a, float[8,4] b", body)
    proto.graph.initializer.append(numpy_helper.from_array(np.eye(9, dtype=np.float32), "v"))
    assert units_of(proto) == [8, 9]
    assert ("v", 0) in [(p.value, p.axis) for p in analyze(load(proto)).pinned]


@pytest.mark.parametrize(("weights", "body", "groups", "flops"), [
    ("float[7,8] a, int8[8,4] b, float[4] s, int8[4] z, float[4] c",
     "h = MatMul(x, a) y = com.microsoft.DynamicQuantizeMatMul(h, b, s, z, c)", [8], 2 * 5 * (7 * 8 + 8 * 4)),
    ("float[7,8] a, int8[8,4] b, float[1] s, int8[1] z",
     "h = MatMul(x, a) y = com.microsoft.DynamicQuantizeMatMul(h, b, s, z)", [8], 2 * 5 * (7 * 8 + 8 * 4)),
    ("float[7,8] a, uint8[8,6] b, float[6] s, uint8[6] z, float[6] c, float[6,4] d",
     "h = MatMul(x, a) q, t, o = DynamicQuantizeLinear(h) "
     "g = com.microsoft.MatMulIntegerToFloat(q, b, t, s, o, z, c) y = MatMul(g, d)", [6, 8],
     2 * 5 * (7 * 8 + 8 * 6 + 6 * 4)),
    ("float[7,8] a, int8[1,8,24] w, int8[1,6,24] r, float[1,48] b, float[1] s, int8[1] z, float[6,4] d",
     "h = MatMul(x, a) l, m, n = com.microsoft.DynamicQuantizeLSTM <hidden_size = 6> "
     "(h, w, r, b, , , , , s, z, s, z) k = Constant <value = int64[1] {1}> () g = Squeeze(l, k) y = MatMul(g, d)", [8],
     2 * 5 * (7 * 8 + 8 * 24 + 6 * 24 + 6 * 4)),
], ids=["DynamicQuantizeMatMul", "one scale", "MatMulIntegerToFloat", "DynamicQuantizeLSTM"])  # fmt: skip
def test_dynamically_quantised(weights: str, body: str, groups: list[int], flops: int) -> None:
    """FLOPs of one sample, the batch being 2 of the dynamic axis."""
    proto = model(17, "(float[N,5,7] x) => (float[N,5,4] y)", weights, body)
    assert units_of(proto) == groups
    assert CostModel(analyze(load(proto))).cost().flops == flops


BIAS_8 = "float[8] g, float[8] d, float[8] e, float[8,4] o"
ROWS = "(float[2,5,7] x) => (float[2,5,4] y)"


@pytest.mark.parametrize(("opset", "signature", "weights", "body", "groups"), [
    (17, IMAGE.format(n=4), "float[6,3,3,3] a, float[6] ab, float[4,6,1,1] b",
     'k = com.microsoft.FusedConv <activation = "Relu"> (x, a, ab) '
     'y = com.microsoft.FusedConv <activation = "LeakyRelu", activation_params = [0.3]> (k, b)', [6]),
    (17, "(float[2,7] x) => (float[2,4] y)", "float[7,8] a, float[4,8] b, float[4] c",
     'h = com.microsoft.FusedGemm <activation = "Relu"> (x, a) '
     'y = com.microsoft.FusedGemm <transB=1, activation = "LeakyRelu", activation_alpha = 0.2> (h, b, c)', [8]),
    (17, ROWS, "float[7,8] a, float[7,8] b, float[5,4] c", "h = MatMul(x, a) k = MatMul(x, b) "
     "s = com.microsoft.FusedMatMul <transB=1, alpha = 0.5> (h, k) y = MatMul(s, c)", [8]),
    (17, ROWS, "float[7,8] a, float[8] c, float[8,4] b", "h = MatMul(x, a) k = com.microsoft.BiasGelu(h, c) "
     "l = com.microsoft.FastGelu(k, c) m = com.microsoft.Gelu(l) n = com.microsoft.QuickGelu(m) y = MatMul(n, b)", [8]),
    (17, ROWS, "float[7,8] a, float[7,8] b, " + BIAS_8, "h = MatMul(x, a) k = MatMul(x, b) "
     "s, , , t = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (h, k, g, d, e) u = Add(s, t) "
     "y = MatMul(u, o)", [8]),
    (17, ROWS, "float[7,8] a, float[7,8] b, float[8] g, float[8,4] o", "h = MatMul(x, a) k = MatMul(x, b) "
     "s, , , t = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.001> (h, k, g) u = Add(s, t) "
     "y = MatMul(u, o)", [8]),
    (17, ROWS, "float[7,8] a, float[8] g, float[8,4] o",
     "h = MatMul(x, a) s = SimplifiedLayerNormalization <axis=-1, epsilon = 0.001> (h, g) y = MatMul(s, o)", [8]),
    (12, ROWS, "float[7,8] a, float[8] g, float[8,4] o",
     "h = MatMul(x, a) s = LayerNormalization <axis=-1, epsilon = 0.001> (h, g, g) y = MatMul(s, o)", [8]),
], ids=["FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "SkipLayerNormalization", "SkipSimplified",
        "SimplifiedLayerNormalization", "LayerNormalization-12"])  # fmt: skip
def test_what_onnxruntime_fuses(
    opset: int, signature: str, weights: str, body: str, groups: list[int]
) -> None:
    assert units_of(model(opset, signature, weights, body)) == groups


@pytest.mark.parametrize(("signature", "weights", "body", "groups"), [
    (ROWS, "float[7,12] a, float[7,12] b, float[7,8] c, float[32] e, float[2,4,5,5] m, float[8,4] o", PROJECTED
     + "h = com.microsoft.MultiHeadAttention <num_heads=4> (q, k, v, e, , m) y = MatMul(h, o)", [4]),
    (ROWS, "float[7,6] p, float[6,24] w, float[24] e, float[8,4] o",
     "z = MatMul(x, p) h = com.microsoft.Attention <num_heads=4> (z, w, e) y = MatMul(h, o)", [4, 6]),
    (ROWS, "float[7,32] a, float[7,16] b, float[7,16] c, float[32,4] o", PROJECTED
     + "l = Constant <value = int32[2] {4, 4}> () t = Constant <value = int32 {5}> () h, n, m = "
     "com.microsoft.GroupQueryAttention <num_heads=4, kv_num_heads=2> (q, k, v, , , l, t) y = MatMul(h, o)", [2]),
    ("(float[2,5,7] x, int64[2,5] p) => (float[2,5,4] y)", "float[7,32] a, float[9,4] c, float[9,4] s, float[32,4] o",
     "q = MatMul(x, a) h = com.microsoft.RotaryEmbedding (q, p, c, s) y = MatMul(h, o)", [4]),
    ("(int32[2,5] x) => (float[2,5,4] y, int32[2] i)",
     "float[9,8] w, float[6,8] p, float[2,8] s, float[8] g, float[8] b, float[8,4] o",
     "h, i, t = com.microsoft.EmbedLayerNormalization <epsilon = 0.001> (x, x, w, p, s, g, b, x) "
     "u = Add(h, t) y = MatMul(u, o)", [8]),
], ids=["MultiHead", "projected", "GroupQuery", "RotaryEmbedding", "EmbedLayerNormalization"])  # fmt: skip
def test_attention_of_onnxruntime(signature: str, weights: str, body: str, groups: list[int]) -> None:
    assert units_of(model(17, signature, weights, body)) == groups


QOPERATOR = QUANTISED + "sw = Constant <value = float {0.02}> () zw = Constant <value = int8 {0}> () "
BRANCHES = ("q = QuantizeLinear(x, s, z) h = QLinearConv(q, s, z, a, sw, zw, t, z) "
            "k = QLinearConv(q, s, z, b, sw, zw, t, z) ")  # fmt: skip
LAST = " i = QLinearConv(g, t, z, c, sw, zw, t, z) y = DequantizeLinear(i, t, z)"


@pytest.mark.parametrize(("out", "weights", "body", "groups"), [
    (6, "int8[6,3,1,1] a, int8[6,3,1,1] b, int8[4,6,1,1] c",
     BRANCHES + "f = com.microsoft.QLinearSigmoid(k, t, z, t, z) "
     "g = com.microsoft.QLinearMul(h, t, z, f, t, z, t, z)" + LAST, [6]),
    (6, "int8[6,3,1,1] a, int8[6,3,1,1] b, int8[4,6,1,1] c",
     BRANCHES + "f = com.microsoft.QLinearLeakyRelu <alpha = 0.2> (k, t, z, t, z) "
     "e = com.microsoft.QLinearGlobalAveragePool(f, t, z, t, z) g = com.microsoft.QLinearAdd(h, t, z, e, t, z, t, z)"
     + LAST, [6]),
    (3, "int8[6,3,1,1] a, int8[5,3,1,1] b, int8[4,11,1,1] c",
     BRANCHES + "f = com.microsoft.QLinearConcat <axis = 1> (t, z, h, t, z, k, t, z) "
     "g = com.microsoft.QLinearAveragePool <kernel_shape = [2,2], strides = [2,2]> (f, t, z, t, z)" + LAST, [5, 6]),
    (6, "int8[6,3,1,1] a, int8[6,3,1,1] b, int8[4,6,1,1] c",
     BRANCHES + "f = com.microsoft.QLinearSoftmax <axis = 3, opset = 13> (k, t, z, t, z) "
     "g = com.microsoft.QLinearAdd(h, t, z, f, t, z, t, z)" + LAST, [6]),
    (6, "int8[6,3,1,1] a, int8[6,3,1,1] b, int8[4,6,1,1] c",
     BRANCHES + "f = com.microsoft.QLinearSoftmax <axis = 1, opset = 11> (k, t, z, t, z) "
     "g = com.microsoft.QLinearAdd(h, t, z, f, t, z, t, z)" + LAST, []),
], ids=["SiLU", "LeakyRelu and pool", "Concat", "Softmax", "Softmax-11 over channels"])  # fmt: skip
def test_quantised_operators_of_onnxruntime(out: int, weights: str, body: str, groups: list[int]) -> None:
    assert units_of(model(17, IMAGE.format(n=out), weights, QOPERATOR + body)) == groups


def test_a_quantised_pool_over_the_axis_of_channels_keeps_them() -> None:
    body = (
        "q = QuantizeLinear(x, s, z) h = QLinearConv(q, s, z, a, sw, zw, t, z) g = com.microsoft.QLinearAveragePool "
        "<channels_last = 1, kernel_shape = [3,1], pads = [1,0,1,0]> (h, t, z, t, z)"
    )
    proto = model(17, IMAGE.format(n=6), "int8[6,3,1,1] a, int8[4,6,1,1] c", QOPERATOR + body + LAST)
    proto.graph.value_info.append(helper.make_tensor_value_info("g", onnx.TensorProto.UINT8, (2, 6, 6, 6)))
    assert units_of(proto) == []


@pytest.mark.parametrize("turned", [False, True])
def test_quantised_gemm_of_onnxruntime(turned: bool) -> None:
    shapes = ("int8[8,5] a", "int8[4,8] b") if turned else ("int8[5,8] a", "int8[8,4] b")
    weights = (
        ", ".join(shapes) + ", float[8] s8, int8[8] z8, int32[8] c8, float[4] s4, int8[4] z4, int32[4] c4"
    )
    body = (
        f"q = QuantizeLinear(x, s, z) h = com.microsoft.QGemm <transB={int(turned)}> (q, s, z, a, s8, z8, c8, t, z) "
        f"y = com.microsoft.QGemm <transB={int(turned)}> (h, t, z, b, s4, z4, c4)"
    )
    assert units_of(model(17, "(float[2,5] x) => (float[2,4] y)", weights, QUANTISED + body)) == [8]


def test_products_of_8_bit_numbers_are_verified_without_saturation() -> None:
    """On x64 without VNNI, onnxruntime's sums of neighbouring products saturate."""
    weights = "int8[16,3,1,1] a, int8[16,3,1,1] b, int8[4,16,1,1] c, int8 zb, int8 zc"
    both = BRANCHES.replace("b, sw, zw", "b, sw, zb") + "g = com.microsoft.QLinearAdd(h, t, z, k, t, z, t, z)"
    proto = model(17, IMAGE.format(n=6), weights, QOPERATOR + both + LAST.replace("zw", "zc"))
    rng = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 4:
            loud = rng.choice([-127, 127], tuple(tensor.dims)).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(loud, tensor.name))
    assert units_of(proto) == [16]


@pytest.mark.parametrize(("body", "scale", "zero"), [
    ("QLinearSigmoid(q, s, z, e, m)", "e", "m"),
    ("QuantizeLinear(x, t, z)", "t", "z"),
    ("QLinearLeakyRelu <alpha = 0.2> (q, s, z, t, z)", "t", "z"),
    ("QLinearAdd(q, s, z, r, t, m, t, z)", "t", "z"),
    ("QLinearMul(q, s, z, r, t, m, t, z)", "t", "z"),
    ("QLinearConcat <axis = -1> (t, z, q, s, z, r, t, m)", "t", "z"),
    ("QLinearGlobalAveragePool(q, s, z, e, z)", "e", "z"),
    ("QLinearAveragePool <kernel_shape = [2,2], pads = [1,0,0,1], count_include_pad = 1> (q, s, z, t, z)", "t", "z"),
    ("QLinearSoftmax <axis = 1, opset = 13> (q, s, z, e, m)", "e", "m"),
])  # fmt: skip
def test_definitions_of_quantised_operators(body: str, scale: str, zero: str) -> None:
    """The same numbers but for roundings that fall to the other side: one step of the result."""
    constants = QUANTISED + "e = Constant <value = float {0.01}> () m = Constant <value = uint8 {3}> () "
    operands = "q = QuantizeLinear(x, s, z) u = Abs(x) r = QuantizeLinear(u, t, m) "
    last = f"y = DequantizeLinear(g, {scale}, {zero})"
    signature = "(float[2,3,6,6] x) => (float[a,b,c,d] y)"
    proto = model(17, signature, "float[1] unused", f"{constants}{operands}g = com.microsoft.{body} {last}")
    written = make_differentiable(proto)
    assert not any(node.domain == "com.microsoft" for node in written.graph.node)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}
    (expected,), (found,) = run(proto, feeds), run(written, feeds)
    assert expected.std() > 0.005
    assert np.abs(found - expected).max() <= {"e": 0.0101, "t": 0.101}[scale]


@pytest.mark.parametrize("turned", [False, True])
def test_definition_of_quantised_gemm(turned: bool) -> None:
    weights = ("int8[4,5]" if turned else "int8[5,4]") + " b, float[4] s4, int8[4] z4, int32[4] c4"
    gemm = f"y = com.microsoft.QGemm <transB={int(turned)}, alpha=0.7> (q, s, z, b, s4, z4, c4)"
    proto = model(
        17, "(float[2,5] x) => (float[2,4] y)", weights, f"{QUANTISED}q = QuantizeLinear(x, s, z) {gemm}"
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)}
    (expected,), (found,) = run(proto, feeds), run(make_differentiable(proto), feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_group_normalisation_that_the_standard_withdrew() -> None:
    weights = "float[6,3,1,1] a, float[2] s, float[2] b, float[4,6,1,1] c"
    body = "h = Conv(x, a) g = GroupNormalization <num_groups=2> (h, s, b) y = Conv(g, c)"
    assert units_of(model(18, IMAGE.format(n=6), weights, body)) == [3]
