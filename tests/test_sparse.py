"""Weights that are mostly zero are stored sparsely on request, and the size of the file compressed is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from branchy_models import BRANCHY, made
from onnx import numpy_helper
from small_task import network, samples
from zoo.pack import HERE, SUFFIX, unpack

import tgonnx as tg
from tgonnx.cli import main
from tgonnx.graph.proto import dense
from tgonnx.io.packed import compressed_bytes

HOW: dict[str, Any] = {"granularity": "weight"}


def sparse_names(model: onnx.ModelProto) -> set[str]:
    return {tensor.values.name for tensor in model.graph.sparse_initializer}


def ran(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    return list(onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds))


def test_what_is_smaller_so_is_stored_sparsely() -> None:
    """And only that: the checker and the runtime take it, and every bit is as in the dense file."""
    mask = tg.select(network(), "nonzeros=0.1", **HOW)
    plain, sparse = tg.apply(network(), mask), tg.apply(network(), mask, sparse=True)
    assert sparse_names(sparse) == {"w1", "w2"}  # w3 and w4 are too small for it
    assert sparse.ByteSize() < plain.ByteSize()
    onnx.checker.check_model(sparse)  # whose full check knows no sparse operands
    for tensor in sparse.graph.sparse_initializer:
        (whole,) = (each for each in plain.graph.initializer if each.name == tensor.values.name)
        found = numpy_helper.to_array(dense(tensor, whole.name))
        np.testing.assert_array_equal(found, numpy_helper.to_array(whole))
        assert tensor.ByteSize() < whole.ByteSize()
    feeds = {"x": samples(4)["x"]}
    np.testing.assert_array_equal(ran(sparse, feeds), ran(plain, feeds))


def test_what_is_half_full_stays_as_it_is() -> None:
    result = tg.prune(network(), None, "nonzeros=0.5", sparse=True, **HOW)
    assert not result.model.graph.sparse_initializer
    assert [note.code for note in result.notes] == ["no-data", "not-sparse"]


def test_a_file_too_old_for_it_stays_dense_and_that_is_said() -> None:
    model = network(opset=11)
    model.ir_version = 5
    result = tg.prune(model, None, "nonzeros=0.1", sparse=True, **HOW)
    assert not result.model.graph.sparse_initializer
    assert "needs IR version 6 (this model has 5)" in str(result.notes[-1])
    assert result.model.ir_version == 5


@pytest.mark.parametrize("packed", sorted(HERE.glob(f"*{SUFFIX}"))[::7], ids=lambda path: path.name)
def test_sparse_files_of_real_graphs_are_verified(packed: Path) -> None:
    model = unpack(packed)
    result = tg.prune(model, None, "nonzeros=0.1", sparse=True, verify_seconds=1, threads=1, **HOW)
    assert result.check.ok
    assert sparse_names(result.model)
    assert result.after.file_bytes == result.model.ByteSize() < result.before.file_bytes
    again = tg.load(result.model)  # and it can be cut further
    assert not again.proto.graph.sparse_initializer
    left = sum(
        int(np.count_nonzero(numpy_helper.to_array(again.initializers[n]))) for n in again.single_weights
    )
    assert left <= 0.1 * sum(again.single_weights.values())


def test_a_trained_model_is_stored_sparsely() -> None:
    result = tg.prune(
        network(), samples(200), "nonzeros=0.15", sparse=True, epochs=2, threads=1, force=True, **HOW
    )
    assert result.check.ok
    assert "w2" in sparse_names(result.model)


def test_other_ways_of_writing_take_sparse_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`apply`, onnxruntime's own format, and numbers of another width."""
    model, mask, out = (str(tmp_path / name) for name in ("m.onnx", "mask.json", "small.onnx"))
    onnx.save(network(), model)
    assert main(["mask", model, "-o", mask, "--granularity", "weight", "--target", "nonzeros=0.1"]) == 0
    assert main(["apply", model, "--mask", mask, "-o", out, "--sparse"]) == 0
    assert sparse_names(onnx.load(out)) == {"w1", "w2"}
    assert main(["verify", out, out]) == 0
    ort = str(tmp_path / "small.ort")
    assert main(["apply", model, "--mask", mask, "-o", ort, "--sparse"]) == 0
    feeds = {"x": samples(4)["x"]}
    found = onnxruntime.InferenceSession(ort).run(None, feeds)
    np.testing.assert_allclose(found, ran(onnx.load(out), feeds), atol=1e-6)
    capsys.readouterr()
    half = made("(float16[N,64] x) => (float16[N,32] y)", "y = MatMul(x, w)", {"w": (64, 32)})
    values = numpy_helper.to_array(half.graph.initializer[0]).astype(np.float16)
    half.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    result = tg.prune(half, None, "nonzeros=0.05", sparse=True, **HOW)
    assert result.check.ok
    assert sparse_names(result.model) == {"w"}


def test_the_size_of_the_compressed_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the table, in JSON and in the report; as gzip has it, but for its header."""
    model, out, page = (str(tmp_path / name) for name in ("m.onnx", "small.onnx", "page.html"))
    onnx.save(network(), model)
    how = ["--granularity", "weight", "--target", "nonzeros=0.1", "--overwrite", "-o", out]
    assert main(["prune", model, *how, "--report", page]) == 0
    assert "compressed" in capsys.readouterr().out
    assert '<td class="word">compressed</td>' in Path(page).read_text()
    assert main(["prune", model, *how, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for path, part in ((model, "before"), (out, "after")):
        zipped = len(gzip.compress(Path(path).read_bytes(), 6))
        assert abs(told[part]["compressed_bytes"] - zipped) < 150  # metadata of the file and its header
    assert told["after"]["compressed_bytes"] < 0.5 * told["before"]["compressed_bytes"]
    assert told["nonzeros"]["compressed_bytes"] == told["after"]["compressed_bytes"]
    assert compressed_bytes(onnx.load(model)) == told["before"]["compressed_bytes"]
    assert main(["prune", model, "--overwrite", "-o", out, "--target", "flops=0.7"]) == 0
    assert "compressed" not in capsys.readouterr().out


def test_the_report_has_what_went(tmp_path: Path) -> None:
    """Weights with zeros, and branches, each in a table of its own."""
    tg.prune(network(), None, "nonzeros=0.1", **HOW).report(tmp_path / "weights.html")
    text = (tmp_path / "weights.html").read_text()
    assert "Weights with zeros" in text
    assert "Removed branches" not in text
    result = tg.prune(BRANCHY["nested"][0](), None, "flops=0.6", granularity="block")
    result.report(tmp_path / "blocks.html")
    text = (tmp_path / "blocks.html").read_text()
    assert "Weights with zeros" not in text
    assert "Removed branches" in text
    told = result.story()["branches"]
    assert {branch["branch"] for branch in told} == set(result.mask.branches)
    assert all(0 < branch["flops"] <= 1 for branch in told)
