"""Layers of a plain chain that go whole, sums of several operands, and fused sums: found, learned, cut, told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from branchy_models import BRANCHY, made
from onnx import TensorProto, numpy_helper

import tgonnx as tg
from tgonnx.cli import main
from tgonnx.errors import UsageError
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.pipeline.branching import Trials
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.budget import random_mask

Array = np.ndarray[Any, Any]
CHAIN = BRANCHY["chain"][0]


def images(count: int = 40) -> Array:
    return np.random.default_rng(0).normal(size=(count, 8, 6, 6)).astype(np.float32)


def test_a_layer_ends_before_the_next_and_has_what_stands_behind_it() -> None:
    h, sizes = tg.load(CHAIN()).branches[0], tg.load(CHAIN()).branches
    operators = {tg.load(CHAIN()).nodes[index].op_type for index in h.nodes}
    assert operators == {"Conv", "BatchNormalization", "Relu"}
    assert h.weights == {"w2", "b2", "s", "o", "m", "v"}
    assert all(branch.layer and not branch.within for branch in sizes)


@pytest.mark.parametrize(
    ("text", "layers"),
    [  # what is read twice, another shape, what is in a branch
        ("a = Conv<pads=[1,1,1,1]>(x, w)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, v)  y = Mul(c, b)", {"b"}),
        ("a = Conv<pads=[1,1,1,1]>(x, w)  b = Conv<strides=[2,2]>(a, v)  y = Concat<axis=2>(b, b)", {"a"}),
        ("b = Relu(x)  a = Conv<pads=[1,1,1,1]>(b, w)  y = Add(a, x)", set[str]()),
    ],
)
def test_what_is_no_plain_chain_has_no_layers(text: str, layers: set[str]) -> None:
    model = made("(float[N,8,6,6] x) => (float[N,8,P,Q] y)", text, {"w": (8, 8, 3, 3), "v": (8, 8, 3, 3)})
    assert {branch.name for branch in tg.load(model).branches if branch.layer} == layers


def test_a_closed_gate_leaves_what_the_layer_takes_exactly() -> None:
    """And an open one what it puts out, to the bit."""
    coupling = tg.analyze(tg.load(CHAIN()))
    feeds = {"x": images(2)}
    whole = open_session(coupling.model.original).run(feeds)["y"]
    for closed in ((), ("h",), ("l",), ("h", "l")):
        mask = tg.Mask.all_open(coupling.closing(closed))
        found, gated = (
            open_session(m).run(feeds)["y"] for m in (apply(coupling, mask), gate(coupling, mask))
        )
        np.testing.assert_allclose(found, gated, rtol=1e-4, atol=1e-6)
        assert np.array_equal(found, whole) == (not closed)
    pruned = apply(coupling, tg.Mask.all_open(coupling.closing(("h", "l"))))
    assert [node.op_type for node in pruned.graph.node] == ["Conv", "Relu", "MaxPool", "Conv"]


def test_half_precision_is_mixed_in_its_type() -> None:
    model = made(
        "(float16[N,16] x) => (float16[N,4] y)",
        "h = MatMul(x, v)  r = Tanh(h)  y = MatMul(r, w)",
        {"v": (16, 16), "w": (16, 4)},
    )
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    coupling = tg.analyze(tg.load(model))
    assert coupling.model.first.types["r"] == TensorProto.FLOAT16
    mask = tg.Mask.all_open(coupling.closing(["r"]))
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float16)
    found, gated = (open_session(m).run({"x": x})["y"] for m in (apply(coupling, mask), gate(coupling, mask)))
    np.testing.assert_allclose(found, gated, rtol=1e-2, atol=1e-2)


def test_layers_go_only_where_channels_stay() -> None:
    model = CHAIN()
    coupling = tg.analyze(tg.load(model))
    alone = tg.select(model, "params=0.6", granularity="block")
    assert alone.branches
    assert not tg.select(model, "params=0.6", granularity="channel,block").branches
    cut = random_mask(coupling.closing(["h"]), 0.5)
    with pytest.raises(
        UsageError, match="removes the layer of 'h' and keeps other channels of what it takes"
    ):
        apply(coupling, cut)
    same = np.ones(coupling.units, bool)  # both lose the same ones: that is right
    for name in ("b", "h"):
        units = coupling.units_of(coupling.labelling.axes[name][1])
        same[units[:4]] = False
    mask = tg.Mask.of(coupling.closing(["h"]), same)
    feeds = {"x": images(2)}
    found, gated = (open_session(m).run(feeds)["y"] for m in (apply(coupling, mask), gate(coupling, mask)))
    np.testing.assert_allclose(found, gated, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("with_data", [False, True])
def test_the_layer_that_does_least_goes_first(with_data: bool) -> None:
    model = made(
        "(float[N,16] x) => (float[N,4] y)",
        "a = MatMul(x, u)  h = MatMul(a, v)  k = MatMul(h, w)  y = MatMul(k, z)",
        {"u": (16, 12), "v": (12, 12), "w": (12, 12), "z": (12, 4)},
    )
    for tensor in model.graph.initializer:
        if tensor.name == "w":  # nearly nothing is changed
            near = np.eye(12, dtype=np.float32) + 1e-3 * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(near, "w"))
    x = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    data = {"x": x} if with_data else None
    mask = tg.select(model, "params=0.8", granularity="block", data=data)
    assert mask.branches == ("k",)
    result = tg.prune(model, data, "params=0.8", granularity="block", calibrate=with_data)
    assert result.check.ok
    assert result.mask.branches == ("k",)
    wanted, found = (open_session(each).run({"x": x})["y"] for each in (model, result.model))
    assert np.square(found - wanted).mean() < 1e-3 * np.square(wanted).mean()


def test_gates_learn_which_layers_stay() -> None:
    result = tg.prune(
        CHAIN(),
        {"x": images(120)},
        "params=0.75",
        granularity="block",
        criterion="gates",
        epochs=4,
        batch=24,
        threads=1,
    )
    assert result.check.ok
    assert result.mask.branches
    assert result.achieved <= 0.75


@pytest.mark.parametrize("name", ["several", "fused", "chain"])
def test_all_of_them_are_pruned_and_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By command, from samples: verified, named by diff, read back from the mask."""
    path, data, out = (str(tmp_path / n) for n in ("m.onnx", "data.npz", "small.onnx"))
    onnx.save(BRANCHY[name][0](), path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5, 16)).astype(np.float32) if name == "fused" else images()
    np.savez(data, x=x)
    how = [
        "--granularity",
        "block",
        "--target",
        "params=0.75",
        "--calibrate",
        "--threads",
        "1",
        "--no-run-dir",
    ]
    assert main(["prune", path, "--data", data, "-o", out, *how, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verification"]["ok"]
    closed = set(told["removed_branches"])
    assert closed
    assert main(["diff", path, out, "--json"]) == 0
    assert closed <= set(json.loads(capsys.readouterr().out)["removed_branches"])
    mask = tg.Mask.all_open(tg.analyze(tg.load(path)).closing(closed))
    mask.save(tmp_path / "mask.json")
    assert set(tg.Mask.load(tmp_path / "mask.json").branches) == closed


def test_trials_close_each_alone() -> None:
    coupling = tg.analyze(tg.load(BRANCHY["several"][0]()))
    trials = Trials(coupling, [{"x": images(4)}])
    errors = dict(zip([branch.name for branch in coupling.branches], trials.of_each().tolist(), strict=True))
    whole = open_session(coupling.model.original).run({"x": images(4)})["y"]
    for name, error in errors.items():
        cut = open_session(apply(coupling, tg.Mask.all_open(coupling.closing([name])))).run({"x": images(4)})[
            "y"
        ]
        assert error == pytest.approx(np.square(cut - whole).mean() / whole.var(), rel=1e-3)


def test_fused_sums_need_an_opset_that_can_write_them_without_one_operand() -> None:
    model = BRANCHY["fused"][0]()
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = 16
    for node in list(model.graph.node):
        if node.op_type == "LayerNormalization":
            model.graph.node.remove(node)
    found = tg.load(model)
    assert not [branch for branch in found.branches if not branch.layer]
    assert "needs opset 17" in found.no_branches[0].reason
