"""The gate function: values, derivative shapes, and agreement with the paper's sawtooth composite."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import tgonnx as tg
from tgonnx import engines
from tgonnx.graph.algebra import Algebra, Size
from tgonnx.ops import trainable_gate as gates
from tgonnx.passes.insert_gates import without_repeats

ENGINES = ["portable", "ort-training"] if engines.choose() == "ort-training" else ["portable"]
LOGITS = np.array([-2.03, -0.7, -1e-3, 0.0, 2e-3, 0.51, 1.7], np.float32)
WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0, -1.5, 2.5, 1.25], np.float32)
DERIVATIVES = {
    "one": np.ones_like,
    "sigmoid": lambda w: 1 / (1 + np.exp(-w)) * (1 - 1 / (1 + np.exp(-w))),
    "tanh": lambda w: 1 - np.tanh(w) ** 2,
}


def model(op_type: str, function: onnx.FunctionProto) -> onnx.ModelProto:
    """loss = sum(gate(logits) * weights), second output: the gate values."""
    nodes = [
        helper.make_node(op_type, ["w"], ["b"], domain=gates.DOMAIN),
        helper.make_node("Mul", ["b", "c"], ["bc"]),
        helper.make_node("ReduceSum", ["bc"], ["loss"], keepdims=0),
    ]
    stored = [numpy_helper.from_array(LOGITS, "w"), numpy_helper.from_array(WEIGHTS, "c")]
    outputs = [helper.make_tensor_value_info(n, 1, s) for n, s in (("loss", []), ("b", [len(LOGITS)]))]
    graph = helper.make_graph(nodes, "gate", [], outputs, stored)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(gates.DOMAIN, gates.VERSION)]
    result = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])
    onnx.checker.check_model(result, full_check=True)
    return result


def values(built: onnx.ModelProto) -> np.ndarray[Any, Any]:
    return np.asarray(engines.session(built).run(["b"], {})[0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", gates.SHAPES)
def test_gate_is_a_step_with_a_shaped_derivative(shape: gates.Shape, engine: Any) -> None:
    built = model(gates.op_type(shape), gates.function(shape))
    np.testing.assert_array_equal(values(built), (LOGITS > 0).astype(np.float32))
    found = engines.gradients(built, ["w"], {}, engine)["w"]
    np.testing.assert_allclose(found, WEIGHTS * DERIVATIVES[shape](LOGITS), rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", gates.SHAPES)
@pytest.mark.parametrize("teeth", [10, 1000, 100_000])
def test_sawtooth_agrees_to_one_over_m(shape: gates.Shape, teeth: int, engine: Any) -> None:
    gate = model(gates.op_type(shape), gates.function(shape))
    sawtooth = model(gates.sawtooth_op_type(shape), gates.sawtooth_function(shape, M=teeth))
    assert np.abs(values(gate) - values(sawtooth)).max() <= 1 / teeth
    # d/dw (s g) = g + s g', |g'| <= 1: the difference is at most 1/M, times the incoming gradient
    exact = engines.gradients(gate, ["w"], {}, engine)["w"]
    approximate = engines.gradients(sawtooth, ["w"], {}, engine)["w"]
    assert (np.abs(exact - approximate) <= np.abs(WEIGHTS) / teeth + 1e-5).all()
    if shape == "one":
        np.testing.assert_allclose(exact, approximate, rtol=1e-5)


def test_node_calls_the_function() -> None:
    call = gates.node("logits", "gate", "tanh")
    assert (call.domain, call.op_type) == (gates.DOMAIN, gates.function("tanh").name)


def test_what_is_repeated_along_an_axis_of_free_length() -> None:
    sizes = Algebra()
    space = sizes.multiply(sizes.atom("h"), sizes.atom("w"))
    three, plain = sizes.multiply(3, space), sizes.multiply(1, space)
    assert isinstance(three, Size)
    assert isinstance(plain, Size)
    units = np.array([4, 5, 4])
    for size in (three, plain):  # the latter: nothing says which part of the length is fixed
        found, order = without_repeats(np.repeat(units, 7), size)
        assert (found.tolist(), order) == ([4, 5, 4], ("channels", "rest"))
    found, order = without_repeats(np.tile(units, 7), three)
    assert (found.tolist(), order) == ([4, 5, 4], ("rest", "channels"))
    uneven = np.array([1, 1, 2, 1, 2, 2])
    found, order = without_repeats(uneven, three)
    assert (found.tolist(), order) == (uneven.tolist(), ())


def normalised() -> onnx.ModelProto:
    """Two products with stored matrices that are transposed first, and a LayerNormalization between them."""
    rng = np.random.default_rng(0)
    stored = {
        "w1": rng.normal(size=(16, 6)),
        "scale": rng.uniform(0.5, 2, 16),
        "bias": rng.normal(size=16),
        "w2": rng.normal(size=(3, 16)),
    }
    nodes = [
        helper.make_node("Transpose", ["w1"], ["t1"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t1"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "scale", "bias"], ["n"], axis=-1),
        helper.make_node("Transpose", ["w2"], ["t2"], perm=[1, 0]),
        helper.make_node("MatMul", ["n", "t2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "normalised",
        [helper.make_tensor_value_info("x", 1, ["n", 5, 6])],
        [helper.make_tensor_value_info("y", 1, ["n", 5, 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_gates_leave_matrices_to_be_transposed_while_they_are_multiplied() -> None:
    """A gate between Transpose and MatMul would keep onnxruntime from fusing them; means are products, too."""
    coupling = tg.analyze(normalised())
    mask = tg.select(coupling, "channels=0.5", criterion="random", seed=1)
    gated, pruned = tg.gate(coupling, mask), tg.apply(coupling, mask)
    types = [node.op_type for node in gated.graph.node]
    assert "ReduceMean" not in types
    makers = {name: node for node in gated.graph.node for name in node.output}
    turned = makers[makers["y"].input[1]]
    assert turned.op_type == "Transpose"
    assert makers[turned.input[0]].op_type == "Mul"
    assert types.count("Transpose") == 2  # none is left over
    feeds = {"x": np.random.default_rng(2).normal(size=(4, 5, 6)).astype(np.float32)}
    (wanted,), (found,) = (engines.session(model).run(None, feeds) for model in (pruned, gated))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
