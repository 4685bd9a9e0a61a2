"""The coverage table: every graph exact, and the table itself tells the truth."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from random_graphs import random_model

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
# loaded by its path: `import coverage` may find the package of that name
_spec = importlib.util.spec_from_file_location("coverage_table", BENCHMARKS / "coverage.py")
assert _spec is not None
assert _spec.loader is not None
table = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = table
_spec.loader.exec_module(table)
measure = table.measure


def chain(width: int, opset: int = 17) -> onnx.ModelProto:
    """Three convolutions: of the middle ones, a half of the channels can go on both sides."""
    rng = np.random.default_rng(0)
    sizes = [(width, 3), (width, width), (5, width)]
    weights = [
        numpy_helper.from_array(rng.standard_normal((*s, 1, 1)).astype(np.float32), f"w{i}")
        for i, s in enumerate(sizes)
    ]
    nodes = [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"conv{i}") for i in range(3)]
    inputs = [helper.make_tensor_value_info("x0", 1, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("x3", 1, ["n", 5, 8, 8])]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_a_known_chain() -> None:
    row = measure(chain(40), "chain.test")
    assert row.faults == []
    assert (row.groups, row.units, row.kind) == (2, 80, "convolution")
    assert row.params == pytest.approx((20 * 3 + 20 * 20 + 5 * 20) / (40 * 3 + 40 * 40 + 5 * 40))
    assert row.flops == pytest.approx(row.params)  # 1 x 1 kernels: the same products
    assert row.deep


@pytest.mark.parametrize("seed", [3, 4])
def test_random_models_are_exact(seed: int) -> None:
    assert measure(random_model(seed, 17, 3), f"random{seed}").faults == []


def test_tables_are_not_counted() -> None:
    model = chain(8)
    positions = numpy_helper.from_array(np.ones((1, 8, 8, 8), np.float32), "positions")
    model.graph.initializer.append(positions)
    model.graph.node.insert(1, helper.make_node("Add", ["x1", "positions"], ["added"], name="add"))
    model.graph.node[2].input[0] = "added"
    row = measure(model, "table")
    without = (4 * 3 + 4 * 4 + 5 * 4) / (8 * 3 + 8 * 8 + 5 * 8)
    assert row.faults == []
    assert row.params_without_tables == pytest.approx(without)
    assert row.params > without


def test_failures_are_words_and_not_the_end() -> None:
    model = chain(8)
    model.graph.node[1].op_type = "Frobnicate"
    row = measure(model, "broken.test")
    assert len(row.faults) == 1
    assert "Frobnicate" in row.faults[0]
    assert "1 graphs of 1 architectures, 0 exact" in table.summary([row])[0]
    assert "Frobnicate" in " ".join(table.cells(row))


@pytest.mark.long
def test_the_whole_zoo() -> None:
    folder = os.environ.get("TGONNX_ZOO")
    if folder is None:
        pytest.skip("set TGONNX_ZOO to a folder of .onnx files, packed or not")
    rows = [measure(file, name) for name, file in table.graphs(Path(folder))]
    assert rows, f"{folder} has no graphs"
    assert {row.name: row.faults for row in rows if row.faults} == {}
    assert [row.name for row in rows if not row.deep and not row.why] == []
