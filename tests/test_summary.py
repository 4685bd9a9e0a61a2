"""What objects print fits a screen, says the main figures, and is safe in a notebook, whatever a model's names hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from random_graphs import random_model

import tgonnx as tg
from tgonnx.io.summary import Shown, Summary, as_html, as_text

RESNET = Path(__file__).parent.parent / "models" / "fashion_resnet20.onnx"
EVIL = "<script>alert(1)</script>\x1b[2J\n"


def long_chain(count: int, name: str = "") -> onnx.ModelProto:
    """Many layers, each a group of its own, with long names."""
    nodes, weights, last = [], [], "x"
    for number in range(count):
        weight = f"w{number}{name}{'long' * 40}"
        weights.append(numpy_helper.from_array(np.ones((4, 4), np.float32), weight))
        nodes.append(helper.make_node("MatMul", [last, weight], [f"v{number}"]))
        last = f"v{number}"
    nodes[-1].output[0] = "y"
    values = [helper.make_tensor_value_info(n, 1, ["N", 4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shown(model: onnx.ModelProto | Path) -> list[Shown]:
    loaded = tg.load(model)
    coupling = tg.analyze(loaded)
    mask = tg.select(coupling, tg.Target(channels=0.7))
    check = tg.Check(
        0.1,
        0.2,
        1e-4,
        7,
        "onnxruntime",
        tuple("abcdef"),
        ("doubt",) * 9,
        ("N=1",) * 60,
        ("N=2",),
        ("x",) * 80,
    )
    return [loaded, coupling, mask, check]


@pytest.mark.parametrize(
    "model", [RESNET, random_model(5, 17, 4), long_chain(60)], ids=["resnet", "random", "long"]
)
def test_prints_fit_a_screen(model: onnx.ModelProto | Path) -> None:
    for thing in shown(model):
        lines = repr(thing).splitlines()
        assert str(thing) == repr(thing)
        assert len(lines) <= 15
        assert max(map(len, lines)) <= 110
        assert thing._repr_html_().count("<tr>") <= 15


def test_they_say_what_a_person_wants_to_know() -> None:
    model, coupling, mask, check = map(repr, shown(RESNET))
    assert all(word in model for word in ("73 nodes", "image float32[N, 1, 28, 28]", "Conv 21", "opset 17"))
    assert all(
        word in coupling for word in ("448 units in 12 groups", "62 M FLOPs", "pinned", "and 6 more groups")
    )
    assert re.search(r"keeps \d+ of 448 units in 12 groups", mask)
    assert "different" in check
    assert "and 9 more reasons" in check


def test_a_result_says_before_and_after() -> None:
    result = tg.prune(RESNET, target=tg.Target(params=0.6))
    lines = repr(result).splitlines()
    assert len(lines) <= 15
    assert any(line.split()[0] == "parameters" and line.endswith("%") for line in lines)
    assert any("params=0.6, met" in line for line in lines)
    assert any("equal" in line for line in lines)
    assert "<table>" in result._repr_html_()


def test_names_of_a_model_are_data() -> None:
    for thing in shown(long_chain(3, EVIL)):
        page = thing._repr_html_()
        assert "<script>" not in page
        assert "\x1b" not in page + repr(thing)
        assert len(repr(thing).splitlines()) <= 15
    summary = Summary(EVIL, [(EVIL, EVIL)], (EVIL, EVIL), [(EVIL, EVIL)], EVIL)
    assert "<script>" not in as_html(summary)
    assert len(as_text(summary).splitlines()) == 5


def test_an_empty_mask_and_a_model_without_groups_print() -> None:
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, ["N", 4])],
            [helper.make_tensor_value_info("y", 1, ["N", 4])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    coupling = tg.analyze(tg.load(proto))
    assert "0 units in 0 groups" in repr(coupling)
    assert "keeps 0 of 0 units" in repr(tg.Mask.all_open(coupling))
