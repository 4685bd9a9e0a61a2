"""Memory and time follow channels and nodes, not the sizes that a file declares. Counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser
from random_graphs import random_model

from tgonnx.analysis.classes import Classes
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.labelling import LONG, MOST
from tgonnx.analysis.solver import solve as analyze
from tgonnx.loading import load
from tgonnx.ops.aspects.relations import is_whole
from tgonnx.passes.remove_channels import apply
from tgonnx.selection.budget import random_mask

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from analysis_speed import blocks, reshapes


def coupled(text: str, **weights: tuple[int, ...]) -> Coupling:
    """The coupling of a graph of opset 18, with weights of these shapes."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return analyze(load(model))


def audio(samples: int) -> Coupling:
    return coupled(
        f"""net (float[N, 1, {samples}] x) => (float[N, 4] y) {{
            p = Constant <value = int64[6] {{0, 0, 4, 0, 0, 4}}> ()  time = Constant <value = int64[1] {{1}}> ()
            h0 = Conv <strides = [2], pads = [4, 4]> (x, w0)  r0 = Relu (h0)
            q1 = Pad (r0, p)  h1 = Conv (q1, w1)  s1 = Add (h1, r0)  r1 = Relu (s1)
            h2 = Conv <strides = [2]> (r1, w2)  t2 = Transpose <perm = [0, 2, 1]> (h2)
            m2 = MatMul (t2, w3)  g = ReduceMean <keepdims = 0> (m2, time)  y = MatMul (g, w4)
        }}""",
        w0=(8, 1, 9),
        w1=(8, 8, 9),
        w2=(16, 8, 9),
        w3=(16, 12),
        w4=(12, 4),
    )


def test_a_long_recording_has_the_labels_of_a_short_one() -> None:
    short, long = audio(16_000), audio(480_000)
    assert long.labelling.size == short.labelling.size < 1000
    assert long.to_json() == short.to_json()
    assert long.units == 8 + 16 + 12
    assert np.array_equal(long.unit_of, short.unit_of)


def test_what_stays_whole_is_cut_around_it() -> None:
    coupling = audio(4_000)
    pruned = apply(coupling, random_mask(coupling, 0.5))
    onnx.checker.check_model(pruned, full_check=True)
    kept = {t.name: tuple(t.dims) for t in pruned.graph.initializer}
    assert [kept[f"w{i}"] for i in range(5)] == [(4, 1, 9), (4, 4, 9), (8, 4, 9), (8, 6), (6, 4)]


def test_a_long_axis_has_the_reasons_of_a_short_one() -> None:
    def reasons(length: int) -> list[tuple[str, int, str, str]]:
        coupling = coupled(
            f"""net (float[1, {length}, 3] x) => (float[1, {length}, 2] y)
            {{ h = MatMul (x, w)  s = Add (h, places)  y = MatMul (s, v) }}""",
            w=(3, 8),
            places=(1, length, 8),
            v=(8, 2),
        )
        assert coupling.units == 8
        return [(p.value, p.axis, p.node, p.reason) for p in coupling.pinned]

    assert reasons(2 * LONG) == reasons(LONG // 2)
    assert ("places", 1, "", "an axis of a model input") in reasons(2 * LONG)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), long=st.integers(1, 3))
def test_nothing_else_depends_on_what_stays_whole(seed: int, long: int) -> None:
    """Even if every axis that can stays whole, units, groups, reasons and sites are the same."""
    model = load(random_model(seed, 17, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tgonnx.analysis.labelling.LONG", 10**9)
        every = analyze(model)
        patch.setattr("tgonnx.analysis.labelling.LONG", long)
        few = analyze(model)
    assert few.labelling.size < every.labelling.size
    assert few.to_json() == every.to_json()
    assert few.guards == every.guards
    assert [(s.node, s.input, s.axis, s.units.tolist()) for s in few.sites] == [
        (s.node, s.input, s.axis, s.units.tolist()) for s in every.sites
    ]


def test_many_channels_are_not_taken_for_a_long_axis() -> None:
    width = 2 * LONG
    coupling = coupled(
        f"""net (float[N, 3] x) => (float[N, 2] y) {{
            h = MatMul (x, w)  s = Constant <value = int64[3] {{0, {width // 8}, 8}}> ()
            r = Reshape (h, s)  t = Constant <value = int64[2] {{0, {width}}}> ()
            f = Reshape (r, t)  y = MatMul (f, v)
        }}""",
        w=(3, width),
        v=(width, 2),
    )
    assert coupling.units == width // 8
    assert not any(is_whole(axis) for axis in coupling.labelling.axes["f"][1:])


def test_declared_sizes_cost_nothing() -> None:
    size = 2 * MOST
    coupling = coupled(
        f"""net (float[N, 3] x) => (float[N, 2] y, float[1, 8] z) {{
            h = MatMul (x, w)  y = MatMul (h, v)
            s = Constant <value = int64[2] {{{size}, 8}}> ()  l = Expand (b, s)
            a = Constant <value = int64[1] {{0}}> ()  z = ReduceMean (l, a)
        }}""",
        w=(3, 8),
        v=(8, 2),
        b=(1, 8),
    )
    assert coupling.units == 8
    assert coupling.labelling.size < 200


def test_doubling_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An axis that could be cut is followed up to a limit, then it stays, with that reason."""
    limit, times = 8 * LONG, int(np.log2(8 * LONG)) + 2
    monkeypatch.setattr("tgonnx.analysis.labelling.MOST", limit)
    doubled = "  ".join(f"h{i + 1} = Concat <axis = 1> (h{i}, h{i})" for i in range(times))
    coupling = coupled(
        f"""net (float[1, 3] x) => (float[1, 1] y) {{
            h0 = MatMul (x, w)  {doubled}
            a = Constant <value = int64[1] {{1}}> ()  y = ReduceMean (h{times}, a)
        }}""",
        w=(3, 4),
    )
    assert coupling.labelling.size <= limit + 1000
    (pin,) = [p for p in coupling.pinned if p.axis == 1]
    assert pin.reason == "the axis is too long to be followed index by index"


def calls(monkeypatch: pytest.MonkeyPatch, model: onnx.ModelProto) -> int:
    """How often analysis asks for the classes of labels, each call counting for as many labels as it has."""
    loaded, total = load(model), 0
    find: Callable[[Classes, np.ndarray], np.ndarray] = Classes.find

    def counted(self: Classes, labels: np.ndarray) -> np.ndarray:
        nonlocal total
        total += 1 + labels.size
        return find(self, labels)

    with monkeypatch.context() as patch:
        patch.setattr(Classes, "find", counted)
        assert analyze(loaded).units
    return total


def test_deciding_is_linear_in_the_number_of_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls(monkeypatch, blocks(80)) < 4.4 * calls(monkeypatch, blocks(20))
    assert calls(monkeypatch, reshapes(400)) < 2.2 * calls(monkeypatch, reshapes(200))


def test_costs_take_space_for_what_axes_hold() -> None:
    def stored(count: int) -> int:
        cost = analyze(load(blocks(count))).cost_model
        return sum(array.size for array in vars(cost).values() if isinstance(array, np.ndarray))

    assert stored(80) < 4.4 * stored(20)
