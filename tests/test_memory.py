"""Weights that several models share, and that the child process reads where they lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import tgonnx as tg
from tgonnx.io.hollow import LARGE, Hollow
from tgonnx.passes.insert_gates import gate_sharing, insert_gates
from tgonnx.passes.remove_channels import apply, apply_sharing
from tgonnx.proof import Prover
from tgonnx.runtime import child, noise
from tgonnx.runtime.sessions import open_session
from tgonnx.runtime.shelf import Shelf, array_of, filled, opened, own_shelf, shelves

WIDE = 192  # 192 x 192 numbers are large, and go to the shelf


def network() -> onnx.ModelProto:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,192] x) => (float[N,192] y) { a = MatMul(x, w)  b = Add(a, c)  r = Relu(b)  y = MatMul(r, v) }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (WIDE, WIDE)), ("c", (WIDE,)), ("v", (WIDE, WIDE))):
        array = (rng.standard_normal(shape) / 10).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def half(coupling: tg.Coupling) -> tg.Mask:
    return tg.Mask.of(coupling, np.arange(coupling.units) % 2 == 0)


def test_a_hollow_model_is_the_model_again() -> None:
    model = network()
    model.graph.initializer[0].doc_string = "told"
    hollow = Hollow.of(model)
    assert set(hollow.stored) == {"w", "v"}
    assert hollow.proto.ByteSize() < LARGE
    assert hollow.filled() == model
    assert Hollow.of(hollow) is hollow


def test_what_was_read_shares_its_weights_and_is_what_was_read(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    model = tg.load(tmp_path / "m.onnx")
    assert isinstance(model.given, Hollow)
    assert all(model.given.stored[name] is model.initializers[name] for name in ("w", "v"))
    assert model.original == network()
    assert model.file_bytes == (tmp_path / "m.onnx").stat().st_size


def test_sharing_changes_nothing() -> None:
    coupling = tg.analyze(tg.load(network()))
    mask = half(coupling)
    assert gate_sharing(coupling, mask).filled() == insert_gates(coupling.model.proto, coupling, mask)
    pruned = apply_sharing(coupling, mask)
    assert {name: list(pruned.stored[name].dims) for name in pruned.stored} == {
        "w": [192, 96],
        "v": [96, 192],
    }
    assert pruned.filled().SerializeToString() == apply(coupling, mask).SerializeToString()


def seen(
    stage: child.Stage, model: onnx.ModelProto, x: np.ndarray
) -> tuple[set[str], np.ndarray, bool, np.ndarray]:
    """In the child: what lies on the shelf, an initializer, whether the whole is there, and what the model puts out."""
    whole = filled(model)
    weights = array_of(model.graph.initializer[0])
    return (
        shelves(model),
        np.array(weights),
        not shelves(whole),
        open_session(model, exact=True).run({"x": x})["y"],
    )


@pytest.mark.skipif(os.name != "posix", reason="there are no files without names")
def test_the_child_reads_large_weights_where_they_lie() -> None:
    model, x = network(), np.ones((2, WIDE), np.float32)
    for _ in range(2):  # the shelf is emptied in between
        found, weights, whole, y = child.ask(seen, model, x)
        assert found == {"tgonnx.shelf"}
        assert whole
        np.testing.assert_array_equal(weights, numpy_helper.to_array(model.graph.initializer[0]))
        np.testing.assert_allclose(
            y, open_session(model, exact=True).run({"x": x})["y"], rtol=1e-4, atol=1e-4
        )
    running = child._child
    assert running is not None
    assert running.shelf is not None
    assert os.fstat(running.shelf.file.fileno()).st_size == 0


def test_without_a_shelf_weights_go_through_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    child.close()
    monkeypatch.setattr(Shelf, "new", classmethod(lambda cls: None))
    model, x = network(), np.ones((2, WIDE), np.float32)
    try:
        found, weights, _, y = child.ask(seen, model, x)
    finally:
        child.close()
    assert found == set()
    np.testing.assert_array_equal(weights, numpy_helper.to_array(model.graph.initializer[0]))
    np.testing.assert_allclose(y, open_session(model, exact=True).run({"x": x})["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(os.name != "posix", reason="there are no files without names")
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_twin_on_a_shelf_is_the_twin(kind: int) -> None:
    model = network()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with own_shelf(noise.TWIN) as shelf:
        assert shelf is not None
        lent = noise.twin(model, 3, None, shelf)
        opened(shelf, noise.TWIN)
        assert shelves(lent) == {noise.TWIN}
        assert filled(lent) == noise.twin(model, 3)


@pytest.mark.parametrize("wrong", [False, True])
def test_large_models_are_told_apart(wrong: bool) -> None:
    coupling = tg.analyze(tg.load(network()))
    mask = half(coupling)
    pruned = apply(coupling, mask)
    if wrong:
        tensor = next(each for each in pruned.graph.initializer if each.name == "v")
        array = numpy_helper.to_array(tensor).copy()
        array[0, 0] += 0.5
        tensor.CopyFrom(numpy_helper.from_array(array, "v"))
    check = Prover(coupling, seconds=5).both(mask, gate_sharing(coupling, mask), pruned)
    assert check.ok is not wrong
    assert check.verdict == ("different" if wrong else "equal")
