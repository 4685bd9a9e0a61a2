"""What criteria are for: which units go first, and at what price."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from tiny_models import normal

import tgonnx as tg
from tgonnx.cli.app import main
from tgonnx.errors import OptionError, UnsupportedError
from tgonnx.passes.compensate import compensate
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.criteria import select, without_dead
from tgonnx.selection.dead import dead_units
from tgonnx.selection.obs import order_of_removal
from tgonnx.selection.scoring import CRITERIA, Evidence

RESNET = Path(__file__).parent.parent / "models" / "fashion_resnet20.onnx"


def network(text: str, **stored: np.ndarray) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    return proto


def feeds(*shape: int, count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


MLP = "(float[N,6] x) => (float[N,5] y) { h = Gemm(x, a, ab) r = Relu(h) y = Gemm(r, b) }"


def test_obs_is_the_error_that_least_squares_leave() -> None:
    """Of a single unit that goes, by brute force: refit without it and look."""
    model = network(MLP, a=normal(6, 8), ab=normal(8), b=normal(8, 5))
    coupling, inputs = tg.analyze(model), feeds(64, 6)
    x = np.concatenate([f["x"] for f in inputs]).astype(np.float64)
    hidden = np.maximum(x @ normal(6, 8) + normal(8), 0)
    hidden = hidden - hidden.mean(0)
    wanted = hidden @ normal(8, 5)
    left = []
    for unit in range(8):
        rest = np.delete(hidden, unit, 1)
        fit = np.linalg.lstsq(rest, wanted, rcond=None)[0]
        left.append(np.square(rest @ fit - wanted).sum())
    scores = order_of_removal(coupling, inputs)
    assert int(np.argmin(scores)) == int(np.argmin(left))


def test_obs_keeps_one_of_two_that_say_the_same() -> None:
    a, ab = normal(6, 8), normal(8)
    a[:, 1], ab[1] = a[:, 0], ab[0]  # unit 1 repeats unit 0, and both are large
    a[:, :2] *= 9
    model = network(MLP, a=a, ab=ab, b=normal(8, 5))
    coupling, inputs = tg.analyze(model), feeds(64, 6)
    mask = select(coupling, "channels=0.875", "obs", evidence=Evidence(lambda: inputs), round_to=1)
    assert mask.open.sum() == 7
    assert mask.open[:2].sum() == 1
    cut = remove_channels(coupling.model.proto, coupling, mask)
    new, _ = compensate(coupling.model.proto, cut, coupling, mask, inputs)
    given = feeds(64, 6, count=9)[-1]
    before, after = (open_session(m).run(given)["y"] for m in (model, new))
    np.testing.assert_allclose(after, before, atol=1e-2)


def test_obs_needs_data_and_says_so() -> None:
    with pytest.raises(OptionError, match="looks at inputs: give data"):
        tg.select(RESNET, criterion="obs")


def test_obs_with_data_of_any_kind() -> None:
    values = {"image": np.random.default_rng(0).random((40, 1, 28, 28), np.float32)}
    mask = tg.select(RESNET, "flops=0.5", "obs", data=values)
    assert 0.49 < tg.analyze(RESNET).cost_model.ratio(mask.open, "flops") <= 0.5


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_slopes_tell_what_the_loss_needs(name: str) -> None:
    """Two of eight units lead to the scores; the others are turned away by small weights."""
    b = normal(8, 5) * 1e-3
    b[[2, 5]] *= 1e3
    model = network(MLP, a=normal(6, 8), ab=normal(8), b=b)
    x = normal(400, 6)
    labels = open_session(model).run({"x": x})["y"].argmax(1)
    mask = tg.select(model, "channels=0.25", name, data={"x": x, "label": labels}, round_to=1)
    assert set(np.flatnonzero(mask.open)) == {2, 5}
    with pytest.raises(OptionError, match="give data with labels or targets"):
        tg.select(model, "channels=0.25", name, data={"x": x})


@pytest.mark.parametrize("name", [name for name, c in CRITERIA.items() if c.score is not None])
def test_every_criterion_meets_the_target(name: str) -> None:
    coupling = tg.analyze(RESNET)
    mask = select(coupling, "flops=0.3", name)
    assert 0.29 < coupling.cost_model.ratio(mask.open, "flops") <= 0.3


def test_a_normalization_counts_with_the_weight_before_it() -> None:
    """Units of one norm; the scale behind tells them apart."""
    w = normal(8, 3, 3, 3)
    w /= np.sqrt(np.square(w).sum((1, 2, 3), keepdims=True))
    scale = np.array([1, 9, 2, 8, 3, 7, 4, 6], np.float32)
    out = np.ones((5, 8, 1, 1), np.float32)
    text = """(float[N,3,9,9] x) => (float[N,5,7,7] y) {
        c = Conv(x, w) n = BatchNormalization(c, s, b, m, v) y = Conv(n, o) }"""
    model = network(text, w=w, s=scale, b=normal(8), m=normal(8), v=np.ones(8, np.float32), o=out)
    for name in ("l1", "l2"):
        mask = select(tg.analyze(model), "channels=0.5", name, round_to=1)
        assert mask.open.tolist() == [False, True, False, True, False, True, False, True]


def test_fpgm_drops_what_the_others_can_replace() -> None:
    """Filters in a bunch, and one far off that is small: it stays."""
    a = np.ones((6, 8), np.float32) * 4 + normal(6, 8) * 0.01
    a[:, 3] = -0.5
    model = network(MLP, a=a, ab=np.zeros(8, np.float32), b=np.ones((8, 5), np.float32))
    coupling = tg.analyze(model)
    assert select(coupling, "channels=0.25", "fpgm", round_to=1).open[3]
    assert not select(coupling, "channels=0.25", "l2", round_to=1).open[3]


def test_allocation() -> None:
    """Globally, a layer of small weights is cut harder; uniformly, all layers alike."""
    text = "(float[N,6] x) => (float[N,5] y) { h = Gemm(x, a) r = Relu(h) g = Gemm(r, b) s = Relu(g) y = Gemm(s, c) }"
    model = network(text, a=normal(6, 8) * 0.1, b=normal(8, 9) * 0.5, c=normal(9, 5) * 5)
    coupling = tg.analyze(model)
    counts = {}
    for allocation in ("uniform", "global"):
        mask = select(coupling, "channels=0.6", "l2", allocation=allocation, round_to=1)
        counts[allocation] = [int(mask.open[group.units].sum()) for group in coupling.groups]
    assert max(counts["uniform"]) - min(counts["uniform"]) <= 1
    assert abs(counts["global"][0] - counts["global"][1]) > 3
    with pytest.raises(OptionError, match="unknown allocation 'even'; there are"):
        select(coupling, allocation="even")


def test_the_group_that_matters_is_the_most_sensitive(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of two layers one is made of pairs of equal units, half of which are small: closing that half loses little."""
    text = "(float[N,6] x) => (float[N,5] y) { h = Gemm(x, a) r = Relu(h) g = Gemm(r, b) s = Relu(g) y = Gemm(s, c) }"
    a, b, c = normal(6, 8), normal(8, 9), normal(9, 5)
    a[:, ::2] *= 1e-3
    model = network(text, a=a, b=b, c=c)
    x = normal(300, 6)
    found = tg.sensitivity(model, {"x": x})
    assert [one.units for one in found] == [9, 8]
    assert found[0].error > 0.1 > 0.01 > found[1].error
    assert all(one.closed == 4 for one in found)
    assert 0 < found[1].saved < 0.7
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=x)
    assert main(["inspect", str(tmp_path / "m.onnx"), "--sensitivity", "-d", str(tmp_path / "d.npz")]) == 0
    assert "Sensitivity" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "m.onnx"), "--sensitivity"]) == 2
    assert "give --data" in capsys.readouterr().err


# --- units that do nothing ---------------------------------------------------------------------------------------


def with_dead_units() -> tuple[onnx.ModelProto, set[int]]:
    """A network in which sparse training switched channels off in several ways."""
    text = """(float[N,3,9,9] x) => (float[N,5,7,7] y) {
        c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, s, b, m, v) r = Relu(n) y = Conv(r, o) }"""
    w, s, b, o = normal(8, 3, 3, 3), normal(8), normal(8), normal(5, 8, 3, 3)
    m, v = normal(8), normal(8) ** 2 + 1
    s[1] = b[1] = 0  # network slimming
    s[2], b[2] = 0, -1  # the shift is below the threshold of the activation
    w[4], m[4], b[4] = 0, 0, 0  # soft filter pruning
    o[:, 6] = 0  # nobody listens
    s[3], b[3] = 0, 1  # a constant is not nothing
    return network(text, w=w, s=s, b=b, m=m, v=v, o=o), {1, 2, 4, 6}


def test_units_that_do_nothing_are_found_and_go_without_loss() -> None:
    model, dead = with_dead_units()
    coupling = tg.analyze(model)
    assert set(np.flatnonzero(dead_units(coupling))) == dead
    mask = without_dead(coupling)
    assert set(np.flatnonzero(~mask.open)) == dead
    given = feeds(4, 3, 9, 9)[0]
    before, after = (open_session(m).run(given)["y"] for m in (model, tg.apply(model, mask)))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "fpgm", "zero", "random"])
def test_they_go_first_whatever_the_criterion(name: str) -> None:
    model, dead = with_dead_units()
    mask = select(tg.analyze(model), "channels=0.5", name, round_to=1)
    assert set(np.flatnonzero(~mask.open)) == dead


def test_what_only_dead_units_read_is_dead() -> None:
    text = "(float[N,6] x) => (float[N,5] y) { h = Gemm(x, a) g = Gemm(h, b, bb) y = Gemm(g, c) }"
    b, bb, c = normal(8, 9), normal(9), normal(9, 5)
    c[:4] = 0  # units 0..3 of the second layer
    b[2, 4:] = 0  # unit 2 of the first is read by them alone
    coupling = tg.analyze(network(text, a=normal(6, 8), b=b, bb=bb, c=c))
    dead = dead_units(coupling)
    first, second = coupling.groups
    assert set(np.flatnonzero(dead[first.units])) == {2}
    assert set(np.flatnonzero(dead[second.units])) == {0, 1, 2, 3}


def test_statistics_over_channels_notice_every_channel() -> None:
    """A zero channel in front of LayerNormalization is part of its mean."""
    text = "(float[N,6] x) => (float[N,5] y) { h = Gemm(x, a) n = LayerNormalization(h, s) y = Gemm(n, b) }"
    a = normal(6, 8)
    a[:, 3] = 0
    assert not dead_units(tg.analyze(network(text, a=a, s=np.ones(8, np.float32), b=normal(8, 5)))).any()


def test_rarely_active_is_not_dead() -> None:
    """Far below the threshold on all likely inputs, but not on all inputs."""
    ab = normal(8)
    ab[3] = -1000
    a = normal(6, 8)
    a[:, 5] = 0  # so that zeros are looked for at all
    ab[5] = 0
    dead = dead_units(tg.analyze(network(MLP, a=a, ab=ab, b=normal(8, 5))))
    assert set(np.flatnonzero(dead)) == {5}


def test_a_value_without_elements_tells_nothing() -> None:
    text = """(float[N,3,9,9] x) => (float[N,5,9,9] y, float[0,3,9,9] z) {
        c = Conv(x, w) r = Relu(c) y = Conv(r, o) z = Slice(x, end, end) }"""
    w, o = normal(6, 3, 1, 1), normal(5, 6, 1, 1)
    w[2], o[:, 4] = 0, 0
    coupling = tg.analyze(network(text, w=w, o=o, end=np.array([9])))
    assert set(np.flatnonzero(dead_units(coupling))) == {2, 4}


def test_without_dead_units_there_is_nothing_to_do() -> None:
    with pytest.raises(UnsupportedError, match="every unit does something"):
        without_dead(tg.analyze(RESNET))


def test_a_group_keeps_one_though_all_are_dead() -> None:
    model = network(MLP, a=normal(6, 8), ab=normal(8), b=np.zeros((8, 5), np.float32))
    coupling = tg.analyze(model)
    assert dead_units(coupling).all()
    assert without_dead(coupling).open.sum() == 1
