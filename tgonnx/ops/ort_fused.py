"""Operators of onnxruntime (com.microsoft): what its optimiser fuses and what its tools export.

They have no schema in the standard. Each `definition` says the same in standard operators (onnxruntime,
docs/ContribOperators.md): shapes are inferred through it, and training copies use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from onnx import NodeProto, helper

from tgonnx.graph.builder import Value
from tgonnx.graph.proto import attribute_of
from tgonnx.ops.aspects.asked import Asked, Claims
from tgonnx.ops.aspects.gating import Gating
from tgonnx.ops.aspects.relations import Relation, Site, Term
from tgonnx.ops.aspects.row import Outputs, Row
from tgonnx.ops.aspects.tables import alone, cost, definition, dims, gated, products, resize, rule
from tgonnx.ops.aspects.traits import Traits, traits
from tgonnx.ops.aspects.view import Operand, Unlabelled, View, broadcast, same
from tgonnx.ops.convolution import conv, conv_cost, conv_products, resize_groups
from tgonnx.ops.linear import gemm, gemm_cost, gemm_products, matrix_product
from tgonnx.ops.norm import normalised

MICROSOFT = "com.microsoft"
# --- elementwise --------------------------------------------------------------------------------------


@rule("Gelu", "FastGelu", "QuickGelu", "BiasGelu", domain=MICROSOFT)
def elementwise(view: View) -> Iterator[Relation]:
    yield from broadcast(view.inputs, view.output())


def _gelu(row: Row, x: Value) -> Value:
    return x * 0.5 * (row.op("Erf", x * math.sqrt(0.5)) + 1.0)


def _fast_gelu(row: Row, x: Value) -> Value:
    return x * 0.5 * (row.op("Tanh", (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1.0)


def _biased(row: Row) -> Value:
    return row.x + row.input(1) if row.has(1) else row.x


ELEMENTWISE: dict[str, Callable[[Row], Value]] = {
    "Gelu": lambda row: _gelu(row, row.x),
    "FastGelu": lambda row: _fast_gelu(row, _biased(row)),
    "QuickGelu": lambda row: row.x * row.op("Sigmoid", row.x * float(row.attribute("alpha", 1.702))),
    "BiasGelu": lambda row: _gelu(row, _biased(row)),
}


def _single(formula: Callable[[Row], Value]) -> Callable[[Row, int], Outputs]:
    return lambda row, opset: [formula(row)]


for _op_type, _formula in ELEMENTWISE.items():
    definition(_op_type, domain=MICROSOFT)(_single(_formula))


# --- convolutions and products with what follows them ---------------------------------------------------


@rule("FusedConv", domain=MICROSOFT)
def fused_conv(view: View) -> Iterator[Relation]:
    """A convolution, a sum with input 3, an activation."""
    yield from conv(view)
    if view.has(3):
        yield from same(view.input(3), view.output())


resize("FusedConv", domain=MICROSOFT)(resize_groups)
cost("FusedConv", domain=MICROSOFT)(conv_cost)
products("FusedConv", domain=MICROSOFT)(conv_products)


def activated(row: Row, x: Value, parameters: dict[str, float]) -> Value:
    """What the attribute `activation` names, applied to x."""
    kind = row.attribute("activation", "")
    if kind == "Clip":
        low, high = (row.like(parameters.get(name, 0.0)) for name in ("low", "high"))
        return row.op("Clip", x, low, high)
    return row.op(kind, x, **{k: v for k, v in parameters.items() if k in ("alpha", "beta")}) if kind else x


@definition("FusedConv", domain=MICROSOFT)
def fused_conv_definition(row: Row, opset: int) -> Outputs:
    plain = {k: v for k, v in row.attributes.items() if not k.startswith("activation")}
    y = row.op(
        "Conv", *(row.input(i) if row.has(i) else None for i in range(min(3, len(row.node.input)))), **plain
    )
    if row.has(3):
        y = y + row.input(3)
    numbers = row.attribute("activation_params", [])
    names = ("low", "high") if row.attribute("activation") == "Clip" else ("alpha", "beta")
    return [activated(row, y, dict(zip(names, map(float, numbers), strict=False)))]


rule("FusedGemm", domain=MICROSOFT)(gemm)
cost("FusedGemm", domain=MICROSOFT)(gemm_cost)
products("FusedGemm", domain=MICROSOFT)(gemm_products)


@definition("FusedGemm", domain=MICROSOFT)
def fused_gemm_definition(row: Row, opset: int) -> Outputs:
    plain = {k: v for k, v in row.attributes.items() if not k.startswith("activation")}
    y = row.op("Gemm", *(row.input(i) for i in range(len(row.node.input)) if row.has(i)), **plain)
    found = {k[11:]: float(v) for k, v in row.attributes.items() if k.startswith("activation_")}
    return [activated(row, y, found)]


@rule("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(view: View) -> Iterator[Relation]:
    """A product of matrices, each perhaps transposed."""
    if view.attribute("transBatchA", 0) or view.attribute("transBatchB", 0):
        return
    a, b = (_turned(view.input(i), view.attribute(name, 0)) for i, name in enumerate(("transA", "transB")))
    for relation in matrix_product(a, b, view.output()):
        if isinstance(relation, Site) and view.attribute(("transA", "transB")[relation.input], 0):
            rank = view.input(relation.input).rank
            relation = replace(relation, axis=2 * rank - 3 - relation.axis)
        yield relation


def _turned(operand: Operand, transposed: int) -> Operand:
    if not transposed or operand.rank < 2:
        return operand
    *lead, rows, columns = operand.axes
    return replace(operand, axes=(*lead, columns, rows))


@cost("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul_cost(view: View) -> list[Term]:
    a = _turned(view.input(0), view.attribute("transA", 0))
    return [(1.0, (*view.output().axes, a[a.rank - 1]))]


@definition("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul_definition(row: Row, opset: int) -> Outputs:
    operands = []
    for i, name in enumerate("AB"):
        value, rank = row.input(i), row.rank(row.input(i))
        if row.attribute(f"transBatch{name}", 0):
            raise row.unsupported("batch axes are transposed")
        turned = bool(row.attribute(f"trans{name}", 0)) and rank > 1
        operands.append(value.transpose([*range(rank - 2), rank - 1, rank - 2]) if turned else value)
    y, alpha = row.op("MatMul", *operands), float(row.attribute("alpha", 1.0))
    return [y if alpha == 1.0 else y * alpha]


# --- normalisations ---------------------------------------------------------------------------------------


traits("SkipLayerNormalization", domain=MICROSOFT, are=Traits(addends=(0, 1), sum_at=3))


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(view: View) -> Iterator[Relation]:
    """The sum of inputs 0 and 1 and a bias, normalised; output 3 is the sum."""
    x, y = view.input(0), view.output()
    if "Simplified" in view.op_type and view.has(3):
        raise Unlabelled("releases of onnxruntime add the bias in different places")
    if any(extra is not None for extra in view.outputs[1:3]):  # the gated form does not make the statistics
        return
    yield from broadcast(view.inputs, y)
    for total in view.outputs[3:4]:
        yield from same(total, y) if total is not None else ()
    yield Site("normalize", 0, x.rank - 1, x[x.rank - 1])


def _shift(op_type: str) -> tuple[int, int]:
    """Where the shift after normalising and the bias before it are (-1: nowhere)."""
    return (-1, 3) if "Simplified" in op_type else (3, 4)


@gated("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def gated_skip_layer_norm(g: Gating) -> None:
    shift, bias = _shift(g.view.op_type)
    inputs, outputs = g.node.inputs, g.node.outputs
    total = g.emit("Add", inputs[0], inputs[1])
    if g.view.has(bias):
        total = g.emit("Add", total, inputs[bias])
    if len(outputs) > 3 and outputs[3].name:
        g.finish(total, 3)
    last = g.view.input(0).rank - 1
    y = g.standardize(total, [last], g.view.attribute("epsilon", 1e-12), center=shift > 0)
    y = g.emit("Mul", y, inputs[2])
    g.finish(g.emit("Add", y, inputs[shift]) if shift > 0 and g.view.has(shift) else y)


@dims("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_norm_dims(asked: Asked) -> Claims:
    return asked.dims(0)


@alone("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm_alone(node: NodeProto, left: str) -> list[NodeProto]:
    """A LayerNormalization, of opset 17, of what is left and the bias; output 3 is that sum."""
    inputs, outputs = [*node.input, "", "", ""], [*node.output, "", "", ""]
    scale, shift, bias = inputs[2:5]
    made, total = [], outputs[3] or f"{outputs[0]}_total"
    if bias:
        made.append(helper.make_node("Add", [left, bias], [total]))
    elif outputs[3]:
        made.append(helper.make_node("Identity", [left], [total]))
    else:
        total = left
    normed = helper.make_node(
        "LayerNormalization",
        [total, scale, *filter(None, [shift])],
        outputs[:1],
        name=node.name,
        axis=-1,
        epsilon=float(attribute_of(node, "epsilon", 1e-12)),
    )
    return [*made, normed]


@definition("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_norm_definition(row: Row, opset: int) -> Outputs:
    shift, bias = _shift(row.node.op_type)
    total = row.x + row.input(1)
    if row.has(bias):
        total = total + row.input(bias)
    y = normalised(
        row, total, [row.rank(row.x) - 1], float(row.attribute("epsilon", 1e-12)), center=shift > 0
    )
    y = y * row.input(2)
    return [y + row.input(shift) if shift > 0 and row.has(shift) else y, None, None, total]
