"""Concrete shapes and small known values, node after node."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, parser
from random_graphs import random_model
from test_passes import parse

from tgonnx.analysis.shapes import sweep
from tgonnx.loading import load
from tgonnx.runtime.sessions import open_session


def test_shape_arithmetic_is_known() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,4] x) => (float[N,12] y) <int64 zero = {0}, int64[1] front = {0}, int64[1] tail = {12}>
        { s = Shape(x)  n = Gather(s, zero)  u = Unsqueeze(n, front)
          t = Concat <axis = 0> (u, tail)  y = Reshape(x, t) }""")
    state = sweep(model, {"x": (TensorProto.FLOAT, (5, 3, 4))})
    assert state.known["t"].tolist() == [5, 12]
    assert state.shapes["y"] == (5, 12)
    assert not state.problems


def test_weights_are_not_read() -> None:
    model = parse("g (float[2,3] x) => (float[2,40] y) <float[3,40] w, float[40] b> "
                  "{ h = MatMul(x, w)  y = Add(h, b) }")  # fmt: skip
    state = sweep(model, {"x": (TensorProto.FLOAT, (2, 3))})
    assert not state.known


def test_an_unknown_operator_leaves_a_note() -> None:
    model = parse("g (float[2] x) => (float[2] y) { h = local.Odd(x)  y = Relu(h) }")
    state = sweep(model, {"x": (TensorProto.FLOAT, (2,))})
    assert "local::Odd is not known" in state.problems["h"]
    assert "y" not in state.shapes


def test_what_depends_on_the_batch_is_not_static() -> None:
    model = load(
        parse("g (float[N,3] x) => (int64[2] y, float[N,3] z) { s = Shape(x)  y = Neg(s)  z = Relu(x) }")
    )
    assert model.first.known["s"].tolist() != model.symbols.second.known["s"].tolist()
    assert model.symbols.static("s") is None


@pytest.mark.parametrize("seed", range(8))
def test_inferred_shapes_are_the_ones_computed(seed: int) -> None:
    """Every value of a random model is made an output and compared."""
    model = load(random_model(seed, 17, 3))
    rng = np.random.default_rng(seed)
    probe = onnx.ModelProto()
    probe.CopyFrom(model.proto)
    names = [name for node in model.nodes for name in node.outputs if name and name not in model.outputs]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    feeds = {
        name: rng.integers(0, 2, model.shapes[name]).astype(np.int64)
        if value.type.tensor_type.elem_type == TensorProto.INT64
        else rng.standard_normal(model.shapes[name]).astype(np.float32)
        for name, value in model.inputs.items()
    }
    found = open_session(probe, threads=1).run(feeds)
    assert {name: value.shape for name, value in found.items()} == {
        name: model.shapes[name] for name in found
    }
