"""Alternatives that are put beside convolutions: of the same shape, fitted to what these give, and one of each kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from branchy_models import made
from independent import run, session
from onnx import numpy_helper
from small_task import network, samples

import tgonnx as tg
from tgonnx.analysis.coupling import Coupling
from tgonnx.cli import main
from tgonnx.errors import OptionError
from tgonnx.passes.add_alternatives import add_alternatives
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.proof import Prover
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.mask import Mask

Array = np.ndarray[Any, Any]
ALL = "1x1,depthwise,separable,identity"


def convolution(
    attributes: str = "kernel_shape=[3,3],pads=[1,1,1,1]",
    weight: tuple[int, ...] = (6, 6, 3, 3),
    signature: str = "(float[N,6,H,W] x) => (float[N,M,P,Q] y)",
) -> onnx.ModelProto:
    return made(signature, f"c = Conv<{attributes}>(x, w, b)  y = Neg(c)", {"w": weight, "b": weight[:1]})


def with_weight(model: onnx.ModelProto, weight: Array) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), "w"))
    return model


def batches(*shape: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(8)]


def supernet(model: onnx.ModelProto, words: dict[str, str], feeds: list[dict[str, Array]]) -> Coupling:
    loaded = tg.load(model)
    asked = {glob: tuple(names.split(",")) for glob, names in words.items()}
    proto, added = add_alternatives(loaded, asked, feeds)
    return tg.analyze(replace(tg.load(proto), given=loaded.given, added=added)).choosing({})


def only(coupling: Coupling, *numbers: int) -> Mask:
    """One alternative of each meeting."""
    gone = [
        other.name
        for meeting, number in zip(coupling.meetings, numbers, strict=True)
        for other in meeting.alternatives
        if other is not meeting.alternatives[number]
    ]
    return Mask.all_open(coupling.closing(gone))


STRIDED = "kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]"
DILATED = "kernel_shape=[5,3],dilations=[1,2],pads=[2,2,2,2]"
SAME = 'kernel_shape=[5,5],auto_pad="SAME_UPPER"'
GROUPED = "kernel_shape=[3,3],pads=[1,1,1,1],group=2"
FORMS = {
    "plain": (convolution(), (3, 6, 7, 9), "1x1,depthwise,separable,identity"),
    "strided": (convolution(STRIDED), (3, 6, 8, 9), "1x1,depthwise,separable"),
    "dilated": (convolution(DILATED, (6, 6, 5, 3)), (2, 6, 9, 9), "3x1,1x3,1x1"),
    "same": (convolution(SAME, (8, 6, 5, 5)), (2, 6, 9, 8), "3x3,1x1,separable"),
    "grouped": (convolution(GROUPED, (6, 3, 3, 3)), (2, 6, 5, 6), "1x1,depthwise"),
    "of one axis": (
        convolution("kernel_shape=[3],pads=[1,1]", (6, 6, 3), "(float[N,6,T] x) => (float[N,M,P] y)"),
        (4, 6, 11),
        "1,depthwise,separable,identity",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_alternative_has_the_shape_and_is_near(name: str) -> None:
    """Nearer than the mean of what the convolution gives, on other inputs than it was fitted to."""
    model, shape, words = FORMS[name]
    coupling = supernet(model, {"c": words}, batches(*shape))
    (meeting,) = coupling.meetings
    assert len(meeting.alternatives) == 1 + len(words.split(","))
    x = np.random.default_rng(9).normal(size=(5, *shape[1:])).astype(np.float32)
    expected = run(session(model), {"x": x})[0]
    errors = {}
    for number, word in enumerate(("own", *words.split(","))):
        cut = remove_channels(coupling.model.proto, coupling, only(coupling, number))
        found = run(session(cut), {"x": x})[0]
        assert found.shape == expected.shape
        errors[word] = float(np.square(found - expected).mean() / expected.var())
    assert errors.pop("own") < 1e-9
    errors.pop("identity", None)
    assert max(errors.values()) < 1.0


def exact(word: str) -> Array:
    """A kernel that the alternative can be."""
    rng = np.random.default_rng(3)
    weight = np.zeros((6, 6, 3, 3))
    if word == "1x1":
        weight[:, :, 1, 1] = rng.normal(size=(6, 6))
    elif word == "depthwise":
        weight[np.arange(6), np.arange(6)] = rng.normal(size=(6, 3, 3))
    elif word == "separable":
        weight = rng.normal(size=(6, 6, 1, 1)) * rng.normal(size=(1, 6, 3, 3))
    else:
        weight[np.arange(6), np.arange(6), 1, 1] = 1
    return weight


@pytest.mark.parametrize("word", ALL.split(","))
def test_what_can_be_computed_exactly_is(word: str) -> None:
    model = with_weight(convolution(), exact(word))
    if word == "identity":
        model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros(6, np.float32), "b"))
    coupling = supernet(model, {"*": word}, batches(3, 6, 7, 9))
    x = batches(2, 6, 8, 5)[3]
    cut = remove_channels(coupling.model.proto, coupling, only(coupling, 1))
    np.testing.assert_allclose(run(session(cut), x)[0], run(session(model), x)[0], atol=2e-4)


def two_layers() -> onnx.ModelProto:
    text = """a = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(x, w1)  r = Relu(a)
    c = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(r, w2)  s = Add(c, r)  g = GlobalAveragePool(s)  f = Flatten(g)
    y = MatMul(f, o)"""
    shapes = {"w1": (8, 8, 3, 3), "w2": (8, 8, 3, 3), "o": (8, 4)}
    return made("(float[N,8,H,W] x) => (float[N,4] y)", text, shapes)


def test_closed_equals_cut_and_costs_are_shares_of_the_original() -> None:
    model = two_layers()
    original = tg.analyze(tg.load(model)).cost_model
    coupling = supernet(model, {"a": "1x1,identity", "c": "separable,depthwise"}, batches(2, 8, 6, 7))
    assert Prover(
        coupling, branches=True
    ).normal_form.ok  # the original, and its normal form with its own open
    feeds = batches(3, 8, 5, 9)[0]
    for numbers in product(range(3), range(3)):
        mask = only(coupling, *numbers)
        cut = remove_channels(coupling.model.proto, coupling, mask)
        onnx.checker.check_model(cut, full_check=True)
        closed = run(session(gate(coupling, mask)), feeds)[0]
        np.testing.assert_allclose(run(session(cut), feeds)[0], closed, rtol=1e-4, atol=1e-5)
        counted = mask.counted(coupling).cost_model
        again = tg.analyze(tg.load(cut)).cost_model
        for kind in ("flops", "params"):
            left = again.total(kind) / original.total(kind)  # type: ignore[arg-type]
            assert counted.ratio(mask.open, kind) == pytest.approx(left)  # type: ignore[arg-type]


def test_a_trained_model_gets_cheaper_layers() -> None:
    data = samples()
    model = tg.tune(network(), data, epochs=20, lr=1e-2, threads=1, force=True).model
    for more in ({"epochs": 15}, {"calibrate": True}):
        result = tg.prune(model, data, "flops=0.6", alternative="*=" + ALL, threads=1, **more)
        assert result.check.ok
        assert result.target_met
        assert result.mask.branches
        assert result.after.metric is not None
        assert result.after.metric > 0.8
        assert result.before.cost.flops == tg.analyze(model).cost_model.cost().flops
        assert result.after.cost.flops == tg.analyze(result.model).cost_model.cost().flops
        assert [v.name for v in result.model.graph.output] == ["y"]


def test_without_data(tmp_path: Path) -> None:
    model, out = tmp_path / "net.onnx", tmp_path / "small.onnx"
    onnx.save(two_layers(), str(model))
    words = ["prune", str(model), "-o", str(out), "--alternative", "c=1x1,separable", "--target", "flops=0.7"]
    assert main([*words, "--verify-seconds", "1"]) == 0
    costs = [tg.analyze(path).cost_model.cost().flops for path in (model, out)]
    assert costs[1] <= 0.7 * costs[0]


def test_where_there_can_be_none() -> None:
    strided = convolution("kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]", (8, 6, 3, 3))
    for model, words, message in (
        (
            strided,
            {"c": ("identity",)},
            "node c|Conv.* has no identity alternative: its output has another shape",
        ),
        (strided, {"*": ("depthwise",)}, "it makes 8 channels of 6"),
        (strided, {"*": ("2x2",)}, "its kernel of 3x3 has no 2x2 in its middle"),
        (strided, {"*": ("3x3",)}, "it has that kernel already"),
        (strided, {"*": ("5x5",)}, "its kernel is 3x3"),
        (convolution("kernel_shape=[3,3]"), {"*": ("1x1",)}, "does not reach over the edges"),
        (strided, {"d*": ("1x1",)}, "'d\\*' names no Conv of model"),
        (
            strided,
            {"*": ("wide",)},
            "unknown 'wide'; there are depthwise, separable, identity, and kernels like 1x1",
        ),
    ):
        with pytest.raises(OptionError, match=message):
            add_alternatives(tg.load(model), words, [])
    for words_, message in (
        ({"alternative": "c"}, "write GLOB=NAMES"),
        ({"alternative": "c=1x1", "choose": "s=1"}, "choose in another run"),
        ({"alternative": "c=1x1", "granularity": "block"}, "granularity does not go with it"),
    ):
        with pytest.raises(OptionError, match=message):
            Bounds(**{name: (value,) if name != "granularity" else value for name, value in words_.items()})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="prune does that"):
        tg.select(two_layers(), "flops=0.7", alternative="c=1x1")
