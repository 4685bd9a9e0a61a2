"""What `inspect`, `--why` and `diff` tell of branches and single weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from branchy_models import BRANCHY, made
from onnx import numpy_helper
from small_task import network
from zoo.pack import HERE, SUFFIX, unpack

import tgonnx as tg
from tgonnx.cli import main
from tgonnx.selection.budget import random_mask

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("name", "sum_", "reason"),
    [
        ("used_elsewhere", "y", "what is added is an input, or is read elsewhere, too"),
        ("broadcast", "t", "operands and sum have not one shape at all sizes, and one type of floats"),
        ("no_weights", "t", "what flows only into it reads no weights"),
    ],
)
def test_sums_without_a_branch_say_why(name: str, sum_: str, reason: str) -> None:
    model = tg.load(BRANCHY[name][0]())
    assert reason in {each.name: each.reason for each in model.no_branches}[sum_]
    assert not [branch for branch in model.branches if not branch.layer]


def test_two_values_that_have_nothing_in_common_are_no_branch() -> None:
    text = "a = MatMul(x, v)  b = MatMul(z, w)  y = Add(a, b)"
    model = made("(float[N,8] x, float[N,8] z) => (float[N,8] y)", text, {"v": (8, 8), "w": (8, 8)})
    (each,) = tg.load(model).no_branches
    assert each.reason == "nothing that is added starts from what the other operand is or starts from"


def told(capsys: Capture, *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_inspect_knows_single_weights_and_why_others_stay(tmp_path: Path, capsys: Capture) -> None:
    path = str(tmp_path / "m.onnx")
    onnx.save(tg.apply(network(), tg.select(network(), "nonzeros=0.5", granularity="weight")), path)
    found = told(capsys, "inspect", path)["weights"]
    assert {each["weight"] for each in found} == {"w1", "w2", "w3", "w4"}
    kept, total = (sum(each[key] for each in found) for key in ("kept", "of"))
    assert kept == total // 2
    assert main(["inspect", path]) == 0
    shown = capsys.readouterr().out
    assert "4 kernels and matrices, 50.0% not zero" in shown
    assert "1 residual branches may go whole" in shown
    why = told(capsys, "inspect", path, "--why", "scale")
    assert why["elements"] == {"scale": "it has fewer than two axes"}
    onnx.save(BRANCHY["used_elsewhere"][0](), path)
    why = told(capsys, "inspect", path, "--why", "y")
    assert [each["name"] for each in why["no_branch"]] == ["y"]
    assert main(["inspect", path, "--why", "y"]) == 0
    assert "Why they have no branch" in capsys.readouterr().out
    assert main(["inspect", path, "--why", "nothing"]) == 2
    assert "matches no weight with an axis that stays, and no sum" in capsys.readouterr().err


def test_diff_names_removed_branches(tmp_path: Path, capsys: Capture) -> None:
    model = BRANCHY["nested"][0]()
    coupling = tg.analyze(tg.load(model))
    cut = tg.apply(coupling, random_mask(coupling.closing(["b"]), 0.6))
    found = tg.diff(model, cut)
    assert set(found.branches) == {"a", "b"}
    assert "branch b" in str(found.summary())
    assert tg.diff(model, model).branches == ()
    a, b = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    onnx.save(model, a)
    onnx.save(cut, b)
    assert told(capsys, "diff", a, b)["removed_branches"] == list(found.branches)
    assert main(["diff", a, b]) == 0
    assert "removed the branches of" in capsys.readouterr().out
    assert main(["diff", a, a]) == 0
    assert "removed the branches of" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "packed", sorted(HERE.glob(f"*{SUFFIX}")), ids=lambda path: path.name.removesuffix(SUFFIX)
)
def test_diff_finds_the_branches_that_were_removed_of_real_graphs(packed: Path) -> None:
    """Names that an exporter counted up are trusted where the file says what it was cut from."""
    model = unpack(packed)
    coupling = tg.analyze(tg.load(model))
    closed = {branch.name for branch in [b for b in coupling.branches if not b.layer][::2]}
    cut = tg.apply(coupling, random_mask(coupling.closing(closed), 0.6))
    stored = coupling.model.initializers
    own = {b.name for b in coupling.branches if any(len(stored[name].dims) > 1 for name in b.weights)}
    gone = {b.name for b in coupling.branches if closed & {b.name, *b.within}}
    assert set(tg.diff(model, cut).branches) == gone & own


def test_diff_counts_zeros(tmp_path: Path, capsys: Capture) -> None:
    model = network()
    cut = tg.apply(model, tg.select(model, "nonzeros=0.1", granularity="weight"))
    found = tg.diff(model, cut)
    weights = {w.name: w for layer in found.layers for w in layer.weights}
    for tensor in cut.graph.initializer:
        if len(tensor.dims) > 1:
            left = int(np.count_nonzero(numpy_helper.to_array(tensor)))
            assert weights[tensor.name].kept == (int(np.prod(tensor.dims)), left)
            assert weights[tensor.name].thinned
            assert weights[tensor.name].changed
    assert found.nonzeros[1] == int(0.1 * found.nonzeros[0])
    assert not any(w.thinned for layer in tg.diff(model, model).layers for w in layer.weights)
    a, b = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    onnx.save(model, a)
    onnx.save(cut, b)
    assert main(["diff", a, b]) == 0
    shown = capsys.readouterr().out
    assert "not zero, of what is left" in shown
    assert "% not zero" in shown
    assert told(capsys, "diff", a, b)["nonzeros"] == list(found.nonzeros)
