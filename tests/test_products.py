"""Rows times matrices are what the operators compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny_models import model_of, normal

from tgonnx.analysis.uses import Uses
from tgonnx.ops.aspects.products import Draw
from tgonnx.runtime.sessions import open_session

ALL = Draw(1 << 20, 0)


def outputs_of(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    return open_session(model).run({"x": x})


CONVOLUTIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("Conv", (2, 4, 9, 7), (6, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", (2, 4, 11, 9), (6, 2, 3, 2), {"group": 2, "dilations": [2, 3]}),
    ("Conv", (2, 4, 8, 9), (4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (2, 4, 8, 8), (8, 1, 2, 3), {"group": 4, "auto_pad": "SAME_LOWER"}),
    ("Conv", (2, 4, 8, 8), (5, 4, 2, 3), {"auto_pad": "VALID"}),
    ("Conv", (2, 4, 12), (6, 4, 5), {"pads": [2, 2]}),
    ("Conv", (1, 2, 4, 5, 6), (3, 2, 2, 1, 3), {}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 3, 3, 3), {}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 3, 3, 2), {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 2, 3, 3), {"group": 2, "dilations": [1, 2]}),
    ("ConvTranspose", (2, 4, 6), (4, 3, 2), {"strides": [2], "pads": [2, 2]}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 1, 2, 2), {"group": 4, "strides": [2, 2], "output_padding": [1, 0]}),
]


@pytest.mark.parametrize(("op_type", "x", "weight", "attributes"), CONVOLUTIONS)
def test_convolution(
    op_type: str, x: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    count = weight[0] if op_type == "Conv" else weight[1] * attributes.get("group", 1)
    node = helper.make_node(op_type, ["x", "w", "b"], ["y"], **attributes)
    stored = {"w": normal(*weight), "b": normal(count)}
    model = model_of([node], x, stored, ["y"])
    (use,) = Uses(model).by_weight["w"]
    given = normal(*x)
    sums = use.product.rows(given, ALL) @ use.matrix(stored["w"])
    assert use.product.added is not None
    sums = sums + use.product.added(stored["b"])[:, None]
    wanted = np.moveaxis(outputs_of(model, given)["y"], 1, -1).reshape(-1, count)
    np.testing.assert_allclose(sums.swapaxes(0, 1).reshape(-1, count), wanted, rtol=1e-4, atol=1e-5)


MATRICES: list[tuple[list[onnx.NodeProto], tuple[int, ...], tuple[int, ...]]] = [
    ([helper.make_node("MatMul", ["x", "w"], ["y"])], (2, 3, 4), (4, 5)),
    ([helper.make_node("MatMul", ["w", "x"], ["y"])], (2, 4, 3), (5, 4)),
    ([helper.make_node("MatMul", ["x", "w"], ["y"])], (2, 3, 6, 4), (3, 4, 5)),
    ([helper.make_node("MatMul", ["x", "w"], ["y"])], (6, 4), (3, 4, 5)),
    ([helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5, transB=1)], (6, 4), (5, 4)),
    ([helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)], (4, 6), (4, 5)),
    (
        [
            helper.make_node("Transpose", ["w"], ["v"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "v"], ["y"]),
        ],
        (2, 3, 4),
        (5, 4),
    ),
]


@pytest.mark.parametrize(("nodes", "x", "weight"), MATRICES)
def test_matrices(nodes: list[onnx.NodeProto], x: tuple[int, ...], weight: tuple[int, ...]) -> None:
    stored = normal(*weight)
    model = model_of(nodes, x, {"w": stored}, ["y"])
    (use,) = Uses(model).by_weight["w"]
    given = normal(*x)
    sums = use.product.rows(given, ALL) @ use.matrix(stored)
    wanted = outputs_of(model, given)["y"]
    if nodes[-1].input[0] == "w":
        wanted = wanted.swapaxes(1, 2)
    if len(weight) == 3:  # one matrix for each place of an axis before the rows
        wanted = np.moveaxis(wanted, -3, 0)
    np.testing.assert_allclose(sums.reshape(-1), wanted.reshape(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op_type", "gates"), [("RNN", 1), ("GRU", 3)])
def test_recurrent(op_type: str, gates: int, direction: str) -> None:
    """With linear activations the state is the sum itself; a GRU's update gate is open where its sum is large."""
    ways, hidden = (2 if direction == "bidirectional" else 1), 3
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    shapes = (ways, gates * hidden, 4), (ways, gates * hidden, hidden), (ways, 2 * gates * hidden)
    w, r, b = (normal(*shape) * np.float32(0.1) for shape in shapes)
    if op_type == "GRU":
        attributes |= {"linear_before_reset": 1, "activations": ["Sigmoid", "Affine"] * ways}
        b[:, : 2 * hidden] = [-60.0] * hidden + [60.0] * hidden  # the state is replaced, nothing is reset
    else:
        attributes |= {"activations": ["Affine"] * ways}
    attributes |= {"activation_alpha": [1.0] * ways, "activation_beta": [0.0] * ways}
    node = helper.make_node(op_type, ["x", "w", "r", "b"], ["y"], **attributes)
    model = model_of([node], (5, 2, 4), {"w": w, "r": r, "b": b}, ["y"])
    given = normal(5, 2, 4) * 0.1
    y = outputs_of(model, given)["y"]  # [steps, ways, samples, hidden]
    uses = Uses(model).by_weight
    sums = [uses["w"][0].product.rows(given, ALL) @ uses["w"][0].matrix(w)]
    states = uses["r"][0].product.rows(y, ALL) @ uses["r"][0].matrix(r)
    for way in range(ways):
        backwards = direction == "reverse" or way == 1
        added = sum(product(b)[way] for product in (uses["w"][0].product.added, uses["r"][0].product.added))
        whole = sums[0][way].reshape(5, 2, -1)
        later = whole[:-1] if backwards else whole[1:]
        total = (later + states[way].reshape(4, 2, -1) + added)[..., -hidden:]
        wanted = y[:-1, way] if backwards else y[1:, way]
        np.testing.assert_allclose(total, wanted, rtol=1e-4, atol=1e-5)


def test_what_else_reads_a_weight_forbids_its_products() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["w"], ["z"])]
    assert not Uses(model_of(nodes, (3, 4), {"w": normal(4, 5)}, ["y", "z"])).by_weight
    nodes[1] = helper.make_node("MatMul", ["y", "w"], ["z"])
    assert len(Uses(model_of(nodes, (3, 4), {"w": normal(4, 4)}, ["z"])).by_weight["w"]) == 2


def test_a_draw_takes_the_same_rows_of_models_of_any_width() -> None:
    draw = Draw(7, 3)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    use = Uses(model_of([node], (2, 4, 9, 7), {"w": normal(6, 4, 3, 3)}, ["y"])).by_weight["w"][0]
    x = normal(2, 4, 9, 7)
    few, whole = use.product.rows(x, draw), use.product.rows(x, ALL)
    narrow = use.product.rows(x[:, :2], draw)
    assert few.shape == (1, 7, 36)
    np.testing.assert_array_equal(few, whole[:, draw(whole.shape[1])])
    np.testing.assert_array_equal(narrow, few[:, :, :18])
