"""What each operator's rule says, as a table: which axes share their units, and where gates act.

A row is a node in ONNX text, the shapes of its inputs, and its ties: `x1=w1` means that the two axes are tied index by
index, `x1~y1` that they share units in another way, `free x1` that the node does not need the axis, `sum w1` and
`stat x2` name sites, `a|b` separates the ways to cut a product. Axes that are not named are pinned.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from tgonnx import ops
from tgonnx.analysis.choices import OpenChoice
from tgonnx.analysis.classes import Classes
from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.ops.aspects.relations import Alternative, Choice, Free, Relation, Site, Tie, mentioned
from tgonnx.ops.aspects.tables import Table
from tgonnx.ops.aspects.view import Unlabelled, View


def single(text: str, inputs: str, opset: int) -> onnx.ModelProto:
    """A model of one node. `inputs` reads `x 2,3; i 4 int64; sizes = 1,2`, the last being an initializer."""
    node = parser.parse_node(text)
    fed, constants = [], []
    for part in (p.strip() for p in inputs.split(";")):
        name, equals, numbers = part.partition(" = ")
        if equals:
            kind = np.float32 if "." in numbers else np.int64
            value = np.array([float(n) for n in numbers.split(",") if n]).astype(kind)
            constants.append(numpy_helper.from_array(value if "," in numbers else value.reshape(()), name))
        else:
            name, shape, *named = part.split()
            elem_type = getattr(TensorProto, named[0].upper()) if named else TensorProto.FLOAT
            sizes = [int(n) for n in shape.split(",") if n]
            fed.append(helper.make_tensor_value_info(name, elem_type, sizes))
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "one", fed, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for value in model.graph.output:
        if not value.type.WhichOneof("value"):  # GroupNormalization: onnx does not look into its definition
            value.type.CopyFrom(fed[0].type)
    return model


def summary(view: View, relations: Iterable[Relation]) -> str:
    """The row's last column, for the relations that a rule gave."""
    plain, choices = [], []
    for relation in relations:
        (choices if isinstance(relation, Choice) else plain).append(relation)
    parts = [describe(view, plain)] if plain else []
    parts += [" | ".join(describe(view, a.relations) for a in c.alternatives) for c in choices]
    return " ; ".join(parts)


def describe(view: View, relations: list[Relation] | tuple[Relation, ...]) -> str:
    operands = {o.name: o for o in (*view.inputs, *view.outputs) if o is not None}
    axes = {f"{name}{i}": labels for name, o in operands.items() for i, labels in enumerate(o.axes)}
    classes = Classes(max((int(a.max(initial=0)) for a in axes.values()), default=0) + 1)
    for relation in relations:
        if isinstance(relation, Tie):
            classes.union(relation.a, relation.b)
    said = mentioned(relations)
    spoken = {name: classes.find(labels) for name, labels in axes.items() if np.isin(labels, said).all()}
    words, placed = [], set()
    for name, roots in spoken.items():
        equal = [other for other, its in spoken.items() if np.array_equal(its, roots)]
        if len(equal) > 1 and name == equal[0]:
            words.append("=".join(equal))
            placed |= set(equal)
    for name, roots in spoken.items():
        partly = [o for o, its in spoken.items() if o > name and np.isin(roots, its).any()]
        words += [f"{name}~{o}" for o in partly if not np.array_equal(spoken[o], roots)]
        alone = not any(o != name and np.isin(roots, its).any() for o, its in spoken.items())
        sited = any(isinstance(r, Site) and np.array_equal(r.labels, axes[name]) for r in relations)
        if alone and not sited:
            words.append(f"free {name}")
    for relation in relations:
        if isinstance(relation, Site):
            operand = view.input(relation.input)
            kind = "sum" if relation.kind == "contract" else "stat"
            words.append(f"{kind} {operand.name}{relation.axis}" + (" paired" if relation.paired else ""))
    return " ".join(words)


def said(text: str, inputs: str, opset: int) -> str:
    model = load(single(text, inputs, opset))
    view = analyze(model).views[0]
    entry = ops.rule.get(view.op_type)
    assert entry is not None
    return summary(view, entry(view))


TABLE = [
    ("y = Relu (x)", "x 2,3", "x0=y0 x1=y1"),
    ("y = Add (a, b)", "a 2,3; b 3", "a0=y0 a1=b0=y1"),
    ("y = Mul (a, b)", "a 2,3,1,1; b 2,3,4,5", "a0=b0=y0 a1=b1=y1 b2=y2 b3=y3"),
    ("y = Equal (a, b)", "a 2,3; b 3", "a0=y0 a1=b0=y1"),
    ("y = Equal (a, v)", "a 2,3,1 int64; v = 0,1,2,3", "a0=y0 a1=y1"),
    ("y = Equal (v, a)", "a 2,4 int64; v = 3,2,1,0", "a0=y0 a1=y1"),
    ("y = Equal (v, a)", "a 2,4 int64; v = 3,2,1,1", "v0=a1=y1 a0=y0"),
    ("y = Where (c, a, b)", "c 2,1 bool; a 2,3; b 3", "c0=a0=y0 a1=b0=y1"),
    ("y = PRelu (x, s)", "x 2,3,4,4; s 3,1,1", "x0=y0 x1=s0=y1 x2=y2 x3=y3"),
    ("y = Clip (x)", "x 2,3", "x0=y0 x1=y1"),
    ("y = CastLike (x, t)", "x 2,3; t 3", "x0=y0 x1=y1"),
    ("y, m = Dropout (x)", "x 2,3", "x0=y0=m0 x1=y1=m1"),
    ("y = Concat <axis=-2> (a, b)", "a 2,3,4; b 2,1,4", "a0=b0=y0 a2=b2=y2 a1~y1 b1~y1"),
    ("y, z = Split <axis=-1> (x, sizes)", "x 2,5; sizes = 2,3", "x0=y0=z0 x1~y1 x1~z1"),
    ("y = Slice (x, s, e, a)", "x 2,6; s = 1,; e = 5,; a = -1,", "x0=y0 x1~y1"),
    ("y = Slice (x, s, e, a, t)", "x 2,6; s = 0,; e = 6,; a = 1,; t = 2,", "x0=y0 x1~y1"),
    ("y = Slice (x, s, e, a, t)", "x 2,6; s = -1,; e = -7,; a = 1,; t = -1,", "x0=y0 x1~y1"),
    ("y = Gather <axis=1> (x, i)", "x 2,4; i = 3,0", "x0=y0 i0=y1 x1~y1 i0~x1"),
    ("y = Gather <axis=1> (x, i)", "x 2,4; i = 3", "x0=y0"),
    ("y = Gather <axis=-1> (x, i)", "x 2,4; i 5,6 int64", "x0=y0 i0=y1 i1=y2"),
    ("y = Gather (x, i)", "x 9,4; i 5,6 int64", "x1=y2 i0=y0 i1=y1"),
    ("y = Pad (x, p)", "x 2,3,4,4; p = 0,1,0,0,0,2,0,0", "x0=y0 x2=y2 x3=y3 x1~y1"),
    ('y = Pad <mode="reflect"> (x, p)', "x 2,3,4,4; p = 0,0,1,1,0,0,1,1", "x0=y0 x1=y1"),
    ("y = Pad (x, p)", "x 2,5; p = 0,-1,0,-1", "x0=y0 x1~y1"),
    ("y = Expand (x, s)", "x 2,1; s = 2,4", "x0=y0 free y1"),
    ("y = Expand (x, s)", "x 4,; s = 2,4", "x0=y1 free y0"),
    ("y = Tile (x, r)", "x 2,3; r = 1,2", "x0=y0 x1~y1"),
    ("y = Tile (x, r)", "x 2,1; r = 1,4", "x0=y0 free y1"),
    ("y = Transpose (x)", "x 2,3,4", "x0=y2 x1=y1 x2=y0"),
    ("y = Transpose <perm=[0,2,1]> (x)", "x 2,3,4", "x0=y0 x1=y2 x2=y1"),
    ("y = Reshape (x, s)", "x 2,12; s = 2,3,4", "x0=y0 ; x1~y1 | x1~y2"),
    ("y = Reshape (x, s)", "x 2,3,4; s = 0,-1", "x0=y0 ; x1~y1 | x2~y1"),
    ("y = Reshape (x, s)", "x 6,4; s = 2,12", "x0~y0 | x0~y1 | x1~y1"),
    ("y = Reshape (x, s)", "x 2,3,5; s = 2,3,5", "x0=y0 x1=y1 x2=y2"),
    ("y = Flatten (x)", "x 2,3,4", "x0=y0 ; x1~y1 | x2~y1"),
    ("y = Flatten <axis=-1> (x)", "x 2,3,4", "x2=y1 ; x0~y0 | x1~y0"),
    ("y = Squeeze (x, a)", "x 2,1,3; a = 1,", "x0=y0 x2=y1"),
    ("y = Unsqueeze (x, a)", "x 2,3; a = -1,", "x0=y0 x1=y1"),
    ("y = DepthToSpace <blocksize=2> (x)", "x 2,12,4,4", "x0=y0 x1~y1"),
    ('y = DepthToSpace <blocksize=2, mode="CRD"> (x)', "x 2,12,4,4", "x0=y0 x1~y1"),
    ("y = SpaceToDepth <blocksize=2> (x)", "x 2,3,4,4", "x0=y0 x1~y1"),
    ("y = Conv (x, w, b)", "x 2,3,8,8; w 4,3,3,3; b 4", "x0=y0 x1=w1 w0=b0=y1 sum w1"),
    ("y = Conv <group=3> (x, w)", "x 2,3,8,8; w 6,1,3,3", "x0=y0 w0=y1 ; x1~y1 | w1~x1 free y1 sum w1"),
    ("y = Conv <group=2> (x, w)", "x 2,4,8,8; w 6,2,3,3", "x0=y0 w0=y1 ; x1~y1 | w1~x1 free y1 sum w1"),
    ("y = ConvTranspose (x, w, b)", "x 2,3,8,8; w 3,4,2,2; b 4", "x0=y0 x1=w0 w1=b0=y1 sum w0"),
    (
        "y = ConvTranspose <group=2> (x, w)",
        "x 2,4,8,8; w 4,3,2,2",
        "x0=y0 x1=w0 ; x1~y1 | free x1 w1~y1 sum w0",
    ),
    ("y = Gemm (a, b, c)", "a 2,3; b 3,4; c 4", "a0=y0 a1=b0 b1=c0=y1 sum b0 paired"),
    ("y = Gemm <transA=1, transB=1> (a, b)", "a 3,2; b 4,3", "a0=b1 a1=y0 b0=y1 sum b1 paired"),
    ("y = Gemm (a, b, c)", "a 2,3; b 3,4; c 2,1", "a0=c0=y0 a1=b0 b1=y1 sum b0 paired"),
    ("y = MatMul (a, b)", "a 2,3; b 3,4", "a0=y0 a1=b0 b1=y1 sum b0 paired"),
    ("y = MatMul (a, b)", "a 3; b 3,4", "a0=b0 b1=y0 sum b0 paired"),
    ("y = MatMul (a, b)", "a 2,3; b 3", "a0=y0 a1=b0 sum b0 paired"),
    ("y = MatMul (a, b)", "a 7,2,3; b 3,4", "a0=y0 a1=y1 a2=b0 b1=y2 sum b0 paired"),
    ("y = MatMul (a, b)", "a 7,1,2,3; b 5,3,4", "a0=y0 a2=y2 a3=b1 b0=y1 b2=y3 sum b1 paired"),
    (
        'y = Einsum <equation="bik,bkj->bij"> (a, b)',
        "a 7,2,3; b 7,3,4",
        "a0=b0=y0 a1=y1 a2=b1 b2=y2 sum b1 paired",
    ),
    ('y = Einsum <equation="...k,kj"> (a, b)', "a 7,2,3; b 3,4", "a0=y0 a1=y1 a2=b0 b1=y2 sum b0 paired"),
    ('y = Einsum <equation="ij->j"> (a)', "a 2,3", "a1=y0 sum a0"),
    (
        "y, h, c = LSTM <hidden_size=4> (x, w, r, b)",
        "x 6,2,3; w 1,16,3; r 1,16,4; b 1,32",
        "x1=y2=h1=c1 x2=w2 w1=r1 r2=y3=h2=c2 w1~y3 r1~r2 r1~y3 r2~w1"
        " b1~w1 b1~r1 b1~r2 b1~y3 b1~h2 b1~c2 h2~w1 h2~r1 c2~w1 c2~r1 sum w2 sum r2",
    ),
    (
        "y, h = GRU <hidden_size=4> (x, w, r)",
        "x 6,2,3; w 1,12,3; r 1,12,4",
        "x1=y2=h1 x2=w2 w1=r1 r2=y3=h2 w1~y3 r1~r2 r1~y3 r2~w1 h2~w1 h2~r1 sum w2 sum r2",
    ),
    (
        "y, h = RNN <hidden_size=4, layout=1> (x, w, r)",
        "x 2,6,3; w 1,4,3; r 1,4,4",
        "x0=y0=h0 x2=w2 w1=r1=r2=y3=h2 sum w2 sum r2",
    ),
    (
        "y = BatchNormalization (x, s, b, m, v)",
        "x 2,3,4,4; s 3; b 3; m 3; v 3",
        "x0=y0 x1=s0=b0=m0=v0=y1 x2=y2 x3=y3",
    ),
    ("y = LayerNormalization (x, s, b)", "x 2,3,4; s 4; b 4", "x0=y0 x1=y1 x2=s0=b0=y2 stat x2"),
    ("y = LayerNormalization <axis=1> (x, s)", "x 2,3,4; s 3,4", "x0=y0 x1=s0=y1 x2=s1=y2 stat x1 stat x2"),
    ("y, m, d = LayerNormalization (x, s)", "x 2,3,4; s 4", ""),
    (
        "y = InstanceNormalization (x, s, b)",
        "x 2,3,4,4; s 3; b 3",
        "x0=y0 x1=s0=b0=y1 x2=y2 x3=y3 stat x2 stat x3",
    ),
    ("y = LpNormalization <axis=1> (x)", "x 2,3", "x0=y0 x1=y1 stat x1"),
    ("y = LRN <size=3> (x)", "x 2,3,4,4", "x0=y0 x2=y2 x3=y3"),
    ("y = ReduceSum (x, a)", "x 2,3,4; a = 1,", "x0=y0 x2=y2 sum x1"),
    ("y = ReduceSum <keepdims=0> (x, a)", "x 2,3,4; a = -1,", "x0=y0 x1=y1 sum x2"),
    ("y = ReduceSum (x)", "x 2,3", "sum x0 sum x1"),
    ("y = ReduceSum <noop_with_empty_axes=1> (x)", "x 2,3", "x0=y0 x1=y1"),
    ("y = ReduceMax <axes=[1]> (x)", "x 2,3,4", "x0=y0 x2=y2 stat x1"),
    ("y = Softmax <axis=1> (x)", "x 2,3,4", "x0=y0 x2=y2"),
    ("y = CumSum (x, a)", "x 2,3; a = 1", "x0=y0"),
    ("y = ArgMax <axis=1, keepdims=0> (x)", "x 2,3,4", "x0=y0 x2=y1"),
    ("y, i = TopK (x, k)", "x 2,5; k = 3,", "x0=y0=i0"),
    ("y = MaxPool <kernel_shape=[2,2]> (x)", "x 2,3,4,4", "x0=y0 x1=y1"),
    ("y = GlobalAveragePool (x)", "x 2,3,4,4", "x0=y0 x1=y1"),
    ("y = Resize (x, , , z)", "x 2,3,4,4; z = 2,3,8,4", "x0=y0 x1=y1 x3=y3"),
    ("y = GatherND (x, i)", "x 5,6,7; i 3,1 int64", "x1=y1 x2=y2"),
    ("y = ScatterND (x, i, u)", "x 5,6; i 3,1 int64; u 3,6", "x1=u1=y1"),
    ("y = QuantizeLinear <axis=1> (x, s)", "x 2,3; s 3", "x0=y0 x1=s0=y1"),
    ("y = ConstantOfShape (s)", "s = 2,3", "free y0 free y1"),
    ("y = Shape (x)", "x 2,3", ""),
    ("y = GridSample (x, g)", "x 2,3,4,4; g 2,5,5,2", "x0=y0 x1=y1"),
    ("y = RoiAlign (x, r, b)", "x 2,3,8,8; r 4,4; b 4 int64", "x1=y1"),
]


@pytest.mark.parametrize(
    ("text", "inputs", "expected"), TABLE, ids=[f"{i}-{row[0]}" for i, row in enumerate(TABLE)]
)
def test_ties(text: str, inputs: str, expected: str) -> None:
    assert said(text, inputs, 17) == expected


@pytest.mark.parametrize(("opset", "text", "inputs", "expected"), [
    (18, "y = GroupNormalization <num_groups=2> (x, s, b)", "x 2,6,4,4; s 2; b 2",
     "x0=y0 ; x1=y1 s0=b0 s0~x1 s0~y1 b0~x1 b0~y1 | x1=y1 stat x1"),
    (21, "y = GroupNormalization <num_groups=2> (x, s, b)", "x 2,6,4,4; s 6; b 6",
     "x0=y0 ; x1=s0=b0=y1 | x1=s0=b0=y1 stat x1"),
    (23, "y = RMSNormalization (x, s)", "x 2,3,4; s 4", "x0=y0 x1=y1 x2=s0=y2 stat x2"),
    (18, "y, z = Split <axis=1, num_outputs=2> (x)", "x 2,5", "x0=y0=z0 x1~y1 x1~z1"),
    (17, "y = Resize (x, , s)", "x 2,3,4,4; s = 1.0,1.0,2.0,1.0", "x0=y0 x1=y1 x3=y3"),
    (23, "y = Attention (q, k, v)", "q 2,4,5,6; k 2,4,7,6; v 2,4,7,3",
     "q0=k0=v0=y0 q1=k1=v1=y1 q3=k3 v3=y3 sum q3 paired"),
    (23, "y = Attention (q, k, v)", "q 2,4,5,6; k 2,2,7,6; v 2,2,7,3",
     "q0=k0=v0=y0 q3=k3 k1=v1 v3=y3 sum q3 paired ; q1=y1 k1~q1 k1~y1 | q1=y1"),
    (23, "y = Attention <q_num_heads=4, kv_num_heads=2> (q, k, v)", "q 2,5,24; k 2,7,12; v 2,7,6",
     "q0=k0=v0=y0 sum q2 paired ; k2=y2 q2~v2 q2~y2 k2~q2 k2~v2 v2~y2 | q2~y2 | k2~q2 v2~y2"),
    (23, "y = RotaryEmbedding (x, c, s, p)", "x 2,4,5,6; c 9,3; s 9,3; p 2,5 int64",
     "x0=p0=y0 x1=y1 x2=p1=y2 x3=y3 c1=s1 c1~x3 c1~y3 s1~x3 s1~y3"),
    (23, "y = RotaryEmbedding <num_heads=4> (x, c, s, p)", "x 2,5,24; c 9,3; s 9,3; p 2,5 int64",
     "x0=p0=y0 x1=p1=y1 x2=y2 ; free x2 | c1=s1 c1~x2 s1~x2"),
    (24, "y = TensorScatter (c, u)", "c 2,4,9,6; u 2,4,3,6", "c0=u0=y0 c1=u1=y1 c3=u3=y3"),
    (24, "y = Swish (x)", "x 2,3", "x0=y0 x1=y1"),
    (17, "y = OneHot (i, d, v)", "i 2,3 int64; d = 5; v 2", "i0=y0 i1=y1"),
    (17, "y = Det (x)", "x 2,3,4,4", "x0=y0 x1=y1"),
    (20, "y = DFT (x)", "x 2,3,8,1", "x0=y0 x1=y1"),
    (18, "y = CenterCropPad <axes=[2]> (x, s)", "x 2,3,8; s = 6,", "x0=y0 x1=y1"),
    (19, "y = DeformConv (x, w, o)", "x 2,3,8,8; w 4,3,3,3; o 2,18,6,6", "x0=o0=y0 x1=w1 w0=y1 sum w1"),
    (17, "y = MaxUnpool <kernel_shape=[2,2]> (x, i)", "x 2,3,4,4; i 2,3,4,4 int64", "x0=i0=y0 x1=i1=y1"),
    (17, "y = MatMulInteger (a, b, p, q)", "a 2,3 uint8; b 3,4 uint8; p 2 uint8; q 4 uint8",
     "a0=p0=y0 a1=b0 b1=q0=y1 stat a1"),
    (17, "y = ConvInteger (x, w)", "x 2,3,8,8 uint8; w 4,3,3,3 uint8", "x0=y0 x1=w1 w0=y1 stat x1"),
    (17, "y, s, z = DynamicQuantizeLinear (x)", "x 2,3", "x0=y0 x1=y1 sum x0 sum x1"),
    (21, "y = DequantizeLinear <axis=0, block_size=2> (x, s)", "x 6,4 int8; s 3,4", "x1=s1=y1"),
])  # fmt: skip
def test_ties_of_newer_operators(opset: int, text: str, inputs: str, expected: str) -> None:
    assert said(text, inputs, opset) == expected


def test_what_is_kept_says_why() -> None:
    with pytest.raises(Unlabelled, match="NonZero: what it finds depends on all values"):
        said("y = NonZero (x)", "x 2,3", 17)


def test_every_standard_operator_is_decided() -> None:
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert standard - set(ops.rule.op_types()) == {"Constant"}


@pytest.mark.parametrize(("text", "expected"), [
    ("y, z = Split <axis=1, split=[2,3]> (x)", "x0=y0=z0 x1~y1 x1~z1"),
    ("y = Slice <starts=[1], ends=[4], axes=[1]> (x)", "x0=y0 x1~y1"),
    ("y = Pad <pads=[0,1,0,2]> (x)", "x0=y0 x1~y1"),
    ("y = Softmax <axis=1> (x)", "x0=y0"),
    ("y = ReduceSum <axes=[-1], keepdims=0> (x)", "x0=y0 sum x1"),
    ("y = Unsqueeze <axes=[0]> (x)", "x0=y1 x1=y2"),
])  # fmt: skip
def test_old_forms(text: str, expected: str) -> None:
    assert said(text, "x 2,5", 9) == expected


HEAD = '<ir_version: 8, opset_import: ["" : 17, "custom" : 1]>'
WEIGHTS = "<float[3,6] a, float[6,2] b>"


def filled(text: str) -> onnx.ModelProto:
    """The model, its weights being declared without values."""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for value in list(model.graph.value_info):
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        data = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(data, value.name))
    del model.graph.value_info[:]
    return model


def test_an_unknown_operator_pins_and_is_named() -> None:
    model = filled(
        f"{HEAD} g (float[4,3] x) => (float[4,2] y) {WEIGHTS}"
        "{ h = MatMul(x, a) [odd] k = custom.Odd(h) y = MatMul(k, b) }"
    )
    coupling = analyze(load(model))
    assert coupling.units == 0
    reasons = {(p.value, p.axis): (p.node, p.op_type, p.reason) for p in coupling.pinned}
    assert reasons["a", 1] == ("odd", "Odd", "no rule for custom::Odd")


@pytest.mark.parametrize("graph", [
    "y = If (c) <then_branch = t () => (float[4,2] p) { p = MatMul(h, b) }, "
    "else_branch = e () => (float[4,2] q) { q = MatMul(h, b) }>",
    "y = Loop (n, c, z) <body = l (int64 i, bool d, float[4,2] s) => (bool o, float[4,2] t) "
    "{ o = Identity(d) r = MatMul(h, b) t = Add(s, r) }>",
], ids=["If", "Loop"])  # fmt: skip
def test_what_a_subgraph_captures_stays(graph: str) -> None:
    text = f"{HEAD} g (float[4,3] x, bool c, int64 n, float[4,2] z) => (float[4,2] y) {WEIGHTS}"
    coupling = analyze(load(filled(f"{text} {{ h = MatMul(x, a) {graph} }}")))
    assert coupling.units == 0
    assert next(p for p in coupling.pinned if (p.value, p.axis) == ("a", 1)).op_type == graph.split()[2]


def test_every_aspect_of_an_operator_comes_with_a_rule() -> None:
    for table in (ops.resize, ops.cost, ops.gated):
        assert set(table.op_types()) <= set(ops.rule.op_types()), table.aspect


def test_a_second_entry_is_refused() -> None:
    table: Table[object] = Table("test")  # type: ignore[type-var]
    table("Relu")(lambda view: [])
    with pytest.raises(ValueError, match="two test entries for Relu"):
        table("Relu")(lambda view: [])


def test_what_is_tied_to_a_label_of_an_alternative_is_mentioned_with_it() -> None:
    """0 and 1 are tied by a chain outside of the choice; 3 is in one alternative only."""
    ties = (Tie(np.array([0]), np.array([5])), Tie(np.array([5]), np.array([1])))
    first = Alternative("first", np.array([0]), (Free(np.array([0])),))
    second = Alternative("second", np.array([3]), (Free(np.array([1, 3])),))
    choice = OpenChoice(0, (first, second), 0, ties)
    assert choice.pinned_by(first).tolist() == [3]
    assert choice.pinned_by(second).tolist() == []
    assert choice.pinned_by(None).tolist() == [0, 1, 3, 5]


def test_free_needs_no_partner() -> None:
    labels = np.arange(3)
    assert mentioned([Free(labels)]).tolist() == [0, 1, 2]
