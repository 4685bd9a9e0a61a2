"""Choices among alternatives: found, closed and cut alike, counted as the file has it, learned by gates that duel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from branchy_models import made
from independent import run, session
from onnx import TensorProto, helper, numpy_helper
from small_task import network
from supernets import SUPERNETS
from test_branch_gates import priced
from test_branches import assert_exact
from test_runs import Stop, keeper_of, stops_at
from test_training import FAST, task_for
from zoo.pack import HERE, SUFFIX, unpack

import tgonnx as tg
from tgonnx.analysis.coupling import Coupling
from tgonnx.cli import main
from tgonnx.engines import differentiate
from tgonnx.engines.table import candidates
from tgonnx.errors import OptionError, TargetError, UsageError
from tgonnx.ops import trainable_gate
from tgonnx.options import Gradient
from tgonnx.passes.gate_branches import gate_branches
from tgonnx.passes.gate_choices import gate_choices, open_ones
from tgonnx.passes.gate_families import CHOICES
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.prepare_training import LOGITS, prepare_training
from tgonnx.passes.remove_channels import apply
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.choice_fit import fit_choices
from tgonnx.selection.mask import Mask
from tgonnx.training import run_folder
from tgonnx.training.keeper import Keeper
from tgonnx.training.progress import Journal
from tgonnx.training.search import search
from tgonnx.training.state import Found

Array = np.ndarray[Any, Any]
NETS = pytest.mark.parametrize("name", SUPERNETS)
SHAPES = get_args(Gradient)


def coupling_of(name: str, keep: int = 1) -> Coupling:
    return tg.analyze(tg.load(SUPERNETS[name][0]())).choosing({"*": keep})


def feeds_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    sizes = {"N": 3, "T": 5, "H": 6, "W": 9}
    shape = [d.dim_value or sizes[d.dim_param] for d in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": rng.normal(size=shape).astype(np.float32)}


def masks(coupling: Coupling) -> Iterator[Mask]:
    """Every choice of one of each meeting, and of two."""
    for keep in (1, 2):
        kept = [[*combinations(meeting.alternatives, keep)] for meeting in coupling.meetings]
        for chosen in product(*kept):
            stay = {alternative.name for alternatives in chosen for alternative in alternatives}
            yield Mask.all_open(coupling.closing([b.name for b in coupling.branches if b.name not in stay]))


def outputs_of(model: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    return run(session(model), feeds)[0]


@NETS
def test_alternatives_are_found(name: str) -> None:
    make, counts = SUPERNETS[name]
    meetings = tg.analyze(tg.load(make())).offered
    assert {meeting.name: len(meeting.alternatives) for meeting in meetings} == counts


def test_an_alternative_is_all_that_flows_only_into_its_place() -> None:
    by_name = {a.name: a for m in tg.load(SUPERNETS["nested"][0]()).meetings for a in m.alternatives}
    assert by_name["m[0]"].weights == {"wa"}
    assert by_name["t[1]"].weights == {"wa", "wb", "wc", "wd", "wp"}
    assert by_name["t[2]"].nodes == by_name["t[2]"].weights == frozenset()
    assert (by_name["m[2]"].within, by_name["t[1]"].within) == (("t[1]",), ())


@NETS
def test_closed_equals_cut_for_every_choice(name: str) -> None:
    """By sessions of the test's own; what is left is what the original computes with the others taken as nothing."""
    coupling = coupling_of(name)
    feeds = feeds_of(coupling.model.original)
    for mask in masks(coupling):
        pruned = apply(coupling, mask)
        onnx.checker.check_model(pruned, full_check=True)
        expected = outputs_of(gate(coupling, mask), feeds)
        np.testing.assert_allclose(outputs_of(pruned, feeds), expected, rtol=1e-4, atol=1e-5)
        gone = coupling.closing(mask.branches).gone.initializers
        assert gone.isdisjoint(tensor.name for tensor in pruned.graph.initializer)


@NETS
def test_all_open_is_the_original(name: str) -> None:
    coupling = coupling_of(name)
    feeds = feeds_of(coupling.model.original)
    opened = gate_branches(coupling.model.proto, coupling, ())
    np.testing.assert_allclose(
        outputs_of(opened, feeds), outputs_of(coupling.model.original, feeds), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "packed", sorted(HERE.glob(f"*{SUFFIX}")), ids=lambda path: path.name.removesuffix(SUFFIX)
)
def test_choices_in_real_graphs(packed: Path) -> None:
    """Whatever meets anywhere: some of it goes, at batches of 1 and 3."""
    model, rng = unpack(packed), np.random.default_rng(0)
    coupling, gone = tg.analyze(tg.load(model)), list[str]()
    for meeting in coupling.offered:
        stay = {*rng.permutation(len(meeting.alternatives))[:1].tolist()}
        closed = rng.random() < 0.6
        gone += [a.name for number, a in enumerate(meeting.alternatives) if closed and number not in stay]
    mask = Mask.all_open(coupling.closing(gone))
    mask.check(coupling)
    assert_exact(model, coupling, mask)


def test_what_is_joined_goes_only_where_nothing_else_is_emptied() -> None:
    """A Concat that is split again has nothing to choose from, nor one whose operands are read elsewhere."""
    text = "a = MatMul(x, w1)  b = MatMul(x, w2)  c = Concat<axis=1>(a, b)  {}  y = MatMul(d, w3)"
    shapes = {"w1": (4, 6), "w2": (4, 6), "w3": (12, 3)}
    for ending, expected in (
        ("d = Relu(c)", 1),
        ("s, t = Split<axis=1>(c, h)  u = MatMul(s, w4)  v = MatMul(t, w5)  d = Concat<axis=1>(u, v)", 1),
        ("e = Mul(a, b)  d = Concat<axis=1>(a, e)", 0),
    ):
        more = {"w4": (6, 6), "w5": (6, 6)} if "w4" in ending else {}
        model = made("(float[N,4] x) => (float[N,3] y)", text.format(ending), shapes | more)
        model.graph.initializer.append(numpy_helper.from_array(np.array([6, 6]), "h"))
        offered = [m for m in tg.analyze(tg.load(model)).offered if m.alternatives[0].axis is not None]
        assert len(offered) == expected
        assert all(meeting.name == ("c" if "Relu" in ending else "d") for meeting in offered)


def test_by_hand() -> None:
    """What is left of a sum and of a mean is written down as a network of its own."""
    stored = {t.name: numpy_helper.to_array(t) for t in SUPERNETS["summed"][0]().graph.initializer}
    joined_by = {
        "summed": "s = Add(b, h)",
        "averaged": "s = Mean(b, h)",
        "added_one_by_one": "k1 = Add(b, k)  s = Add(k1, h)",
    }
    for name, joined in joined_by.items():
        coupling = coupling_of(name, 2)
        pruned = apply(coupling, Mask.all_open(coupling.closing(["s[0]", "s[2]"])))
        text = f"""h = Conv<kernel_shape=[1,1]>(x, w0)  b = Conv<kernel_shape=[1,1]>(h, wb)  {joined}
        o = Relu(s)  g = GlobalAveragePool(o)  f = Flatten(g)  y = MatMul(f, wo)"""
        ours = made("(float[N,3,H,W] x) => (float[N,5] y)", text, {})
        ours.graph.initializer.extend(numpy_helper.from_array(stored[n], n) for n in ("w0", "wb", "wo", "k"))
        feeds = feeds_of(ours)
        np.testing.assert_allclose(outputs_of(pruned, feeds), outputs_of(ours, feeds), rtol=1e-5, atol=1e-6)


@NETS
def test_the_nodes_count_what_the_report_counts_and_the_file_has(name: str) -> None:
    coupling = coupling_of(name)
    for mask in masks(coupling):
        counted = mask.counted(coupling).cost_model
        again = tg.analyze(tg.load(apply(coupling, mask))).cost_model
        gates = np.array([b.name not in mask.branches for b in coupling.branches], np.float32)
        for kind in ("flops", "params"):
            counts = counted.open_counts(mask.open)
            assert counted.count(kind, counts) == pytest.approx(again.total(kind))  # type: ignore[arg-type]
            share, left = priced(coupling, kind, CHOICES, gates), counted.ratio(mask.open, kind)  # type: ignore[arg-type]
            shared = (
                name == "of_tokens" and len(mask.branches) == 2
            )  # a norm, which is charged for as if it stayed
            assert share >= left - 1e-6 if shared else share == pytest.approx(left, rel=1e-5)


def trained(coupling: Coupling, shape: Gradient, logits: Array) -> tuple[Array, Array]:
    """The gates of logits, and the gradient of a weighed sum of them."""
    x = feeds_of(coupling.model.original)["x"]
    proto = gate_choices(coupling.model.proto, coupling)
    copy = prepare_training(proto, {"x": (8, *x.shape[1:])}, shape).model
    (stored,) = (tensor for tensor in copy.graph.initializer if tensor.name == LOGITS)
    stored.CopyFrom(numpy_helper.from_array(logits.astype(np.float32), LOGITS))
    weights = np.arange(1, len(logits) + 1, dtype=np.float32) ** 2
    copy.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    copy.graph.node.append(helper.make_node("Mul", [CHOICES.vector, "weights"], ["weighed"]))
    copy.graph.node.append(helper.make_node("ReduceSum", ["weighed"], ["loss"], keepdims=0))
    copy.graph.output.insert(0, helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    found, _ = differentiate(copy, [LOGITS], "portable")
    for name in (CHOICES.vector, found.gradients[LOGITS]):
        found.model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(logits)]))
    values = open_session(found.model).run({"x": np.zeros((8, *x.shape[1:]), np.float32)})
    return values[CHOICES.vector], values[found.gradients[LOGITS]]


def integral(shape: Gradient, x: Array) -> Array:
    """G with G' = g and G(x) + G(-x) = 1."""
    return {"one": x + 0.5, "sigmoid": 1 / (1 + np.exp(-x)), "tanh": np.tanh(x) + 0.5}[shape]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "keep"), [("summed", 1), ("summed", 3), ("nested", 2), ("of_layers", 1)])
def test_the_gate_opens_the_largest_logits_and_has_the_slope_of_its_relaxed_form(
    name: str, keep: int, shape: Gradient
) -> None:
    coupling = coupling_of(name, keep)
    logits = np.random.default_rng(keep).normal(size=len(coupling.branches))
    gates, slopes = trained(coupling, shape, logits)
    np.testing.assert_array_equal(gates, open_ones(coupling, logits).astype(np.float32))
    weights, ends = np.arange(1, len(logits) + 1) ** 2.0, []
    for step in 1e-5 * np.concatenate([np.eye(len(logits)), -np.eye(len(logits))]):
        start, total = 0, 0.0
        for meeting in coupling.meetings:
            n = len(meeting.alternatives)
            here = slice(start, start + n)
            w = (logits + step)[here]
            wins = integral(shape, w[:, None] - w[None]).sum(1) - 0.5  # none against itself
            total += float((2 * keep / (n * (n - 1)) * wins) @ weights[here])
            start += n
        ends.append(total)
    expected = (np.array(ends[: len(logits)]) - np.array(ends[len(logits) :])) / 2e-5
    np.testing.assert_allclose(slopes, expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_two_alternatives_are_the_binary_gate_on_the_difference(shape: Gradient) -> None:
    text = "a = MatMul(x, w1)  b = MatMul(x, w2)  y = Add(a, b)"
    model = made("(float[N,4] x) => (float[N,4] y)", text, {"w1": (4, 4), "w2": (4, 4)})
    coupling = tg.analyze(tg.load(model)).choosing({"y": 1})
    for w1, w2 in ((0.4, -0.2), (-0.3, 0.1)):
        gates, slopes = trained(coupling, shape, np.array([w1, w2]))
        difference = np.array(w1 - w2)
        g = {"one": 1.0, "sigmoid": integral("sigmoid", difference) * integral("sigmoid", -difference),
             "tanh": 1 - np.tanh(difference) ** 2}[shape]  # fmt: skip
        assert gates.tolist() == [float(w1 > w2), float(w1 < w2)]
        np.testing.assert_allclose(slopes, [g * (1 - 4), g * (4 - 1)], rtol=1e-4)  # weights 1 and 4
    assert trainable_gate.SHAPES == SHAPES


@NETS
@pytest.mark.parametrize("keep", [1, 2])
def test_exactly_as_many_are_open_as_stay(name: str, keep: int) -> None:
    """Equal logits, too."""
    coupling = coupling_of(name, keep)
    rng = np.random.default_rng(0)
    for logits in (np.zeros(len(coupling.branches)), rng.integers(0, 2, len(coupling.branches)) * 0.5):
        gates, _ = trained(coupling, "one", logits)
        np.testing.assert_array_equal(gates, open_ones(coupling, logits).astype(np.float32))
        assert gates.sum() == keep * len(coupling.meetings)


def test_the_cheapest_are_kept_where_the_target_wants_it() -> None:
    coupling = coupling_of("of_layers")
    best = np.array([1.0, 0.5, 0.2, 0.9, 0.5, 0.2])  # dense, pointwise, separable; dense, separable, skip
    kept = [
        fit_choices(coupling, best, tg.Target(flops=share), Bounds()).branches for share in (1.0, 0.5, 0.1)
    ]
    stay = [{b.name for b in coupling.branches} - {*names} for names in kept]
    assert stay == [{"s[0]", "t[0]"}, {"s[0]", "t[1]"}, {"s[1]", "t[2]"}]
    with pytest.raises(TargetError, match="the cheapest alternatives leave"):
        fit_choices(coupling, best, tg.Target(flops=0.01), Bounds())


def task() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Stripes that run across or down: a convolution sees them, a pointwise one does not."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 1000)
    patterns = np.array([[[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]], [[1, 1], [1, 1]]]) * 0.6
    signs = rng.choice([-1, 1], 1000)[:, None, None, None]
    x = rng.normal(size=(1000, 3, 8, 8)) + signs * np.tile(patterns[label][:, None], (1, 3, 4, 4))
    layers = []
    for i, o in ("hp", "pq"):
        layers.append(f"""a{i} = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>({i}, wa{i})
        b{i} = Conv<kernel_shape=[1,1]>({i}, wb{i})
        d{i} = Conv<kernel_shape=[3,3],pads=[1,1,1,1],group=8>({i}, wc{i})
        c{i} = Conv<kernel_shape=[1,1]>(d{i}, wd{i})  u{i} = Add(a{i}, b{i})
        v{i} = Add(u{i}, c{i})  s{o} = Add(v{i}, {i})
        n{o} = BatchNormalization(s{o}, one, bi{i}, me{i}, var)  {o} = Relu(n{o})""")
    text = f"""h = Conv<kernel_shape=[1,1]>(x, w0) {" ".join(layers)} qq = Mul(q, q)
    g = GlobalAveragePool(qq) f = Flatten(g) y = MatMul(f, wo)"""
    shapes: dict[str, tuple[int, ...]] = {"w0": (8, 3, 1, 1), "wo": (8, 4)}
    for i in "hp":
        shapes |= {
            f"wa{i}": (8, 8, 3, 3),
            f"wb{i}": (8, 8, 1, 1),
            f"wc{i}": (8, 1, 3, 3),
            f"wd{i}": (8, 8, 1, 1),
        }
        shapes |= {f"bi{i}": (8,), f"me{i}": (8,)}
    model = made("(float[N,3,8,8] x) => (float[N,4] y)", text, shapes)
    model.graph.initializer.extend(numpy_helper.from_array(np.ones(8, np.float32), n) for n in ("one", "var"))
    return model, {"x": x.astype(np.float32), "label": label}


def test_gates_learn_which_alternative_is_of_use() -> None:
    """Dense convolutions would be too dear: one of the separable ones must be found."""
    model, arrays = task()
    result = tg.prune(
        model, arrays, "flops=0.3", choose="s*=1", from_scratch=True, epochs=30, lr=5e-3, seed=2, threads=1
    )
    assert result.check.ok
    assert result.target_met
    assert len(result.mask.branches) == 6
    assert {"sp[2]", "sq[2]"} - {*result.mask.branches}
    assert result.after.metric is not None
    assert result.after.metric > 0.95


def test_a_search_that_was_stopped_goes_on(tmp_path: Path) -> None:
    model = network()
    bounds = Bounds(choose=("e=1",))
    coupling = tg.analyze(tg.load(model)).choosing(bounds.choices)

    def searched(journal: Journal, keeper: Keeper | None = None) -> Found:
        return search(coupling, task_for(model), tg.Target(flops=1.0), 30, FAST, journal, bounds, keeper)

    expected = searched(Journal())
    assert len(expected.scores) == 2
    keeper = keeper_of(run_folder.create(tmp_path / "r", {"threads": 1}, {}), Journal(stops_at(12)))
    with pytest.raises(Stop):
        searched(keeper.journal, keeper)
    keeper.keep()
    assert keeper.folder is not None
    found = searched(Journal(), keeper_of(keeper.folder, Journal()))
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.values["w2"], expected.values["w2"])


@pytest.mark.skipif(len(candidates()) < 2, reason="there is one engine")
def test_both_engines_learn_alike() -> None:
    model = network()
    bounds = Bounds(choose=("e=1",))
    coupling = tg.analyze(tg.load(model)).choosing(bounds.choices)
    found = []
    for engine in ("portable", "ort-training"):
        recipe = replace(FAST, engine=engine)
        found.append(search(coupling, task_for(model), tg.Target(flops=1.0), 12, recipe, Journal(), bounds))
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-4)
    np.testing.assert_allclose(found[0].values["w2"], found[1].values["w2"], atol=1e-3)


def test_without_training() -> None:
    """By how far the outputs move where samples are given, else by what each adds."""
    model = SUPERNETS["of_tokens"][0]()
    x = np.random.default_rng(0).normal(size=(64, 5, 16)).astype(np.float32)
    for data in (None, {"x": x}):
        result = tg.prune(model, data, choose="y=2", calibrate=data is not None)
        assert result.check.ok
        assert len(result.mask.branches) == 1
        assert not any("no larger choice" in note for note in result.notes)
    assert tg.select(model, choose="y=1").branches == tg.select(model, "flops=1", choose="y=1").branches


def test_masks_of_choices_are_applied_wherever_they_are_read(tmp_path: Path) -> None:
    model, mask, out = tmp_path / "net.onnx", tmp_path / "mask.json", tmp_path / "small.onnx"
    onnx.save(SUPERNETS["added_one_by_one"][0](), str(model))
    assert main(["mask", str(model), "-o", str(mask), "--choose", "s=1", "--target", "flops=1"]) == 0
    assert json.loads(mask.read_text())["format"] == "tgonnx-mask-3"
    kept = tg.Mask.load(mask).branches
    assert len(kept) == 3
    assert main(["apply", str(model), "--mask", str(mask), "-o", str(out), "--verify-seconds", "1"]) == 0
    assert len(tg.load(out).nodes) < len(tg.load(model).nodes)
    assert main(["gate", str(model), "--mask", str(mask), "-o", str(tmp_path / "g.onnx")]) == 0
    assert main(["prune", str(model), "--choose", "s=1", "-o", str(tmp_path / "p.onnx")]) == 0  # of any cost
    assert (
        main(
            ["prune", str(model), "--choose", "s=1", "--target", "flops=0.01", "-o", str(out), "--overwrite"]
        )
        == 7
    )


def test_what_makes_no_sense_is_refused() -> None:
    coupling = coupling_of("summed")
    for words, message in (
        (
            {"nothing": 1.0},
            "'nothing' names no node of .* where alternatives meet; alternatives meet in 'Sum_6'",
        ),
        ({"s": 4.0}, "node Sum_6 has 4 alternatives, of which 1 to 3 can stay"),
        ({"s": 0.0}, "of which 1 to 3 can stay"),
        ({"s": 1.5}, "of which 1 to 3 can stay"),
    ):
        with pytest.raises(OptionError, match=message):
            coupling.choosing(words)
    with pytest.raises(OptionError, match="granularity does not go with it"):
        Bounds(choose=("s=1",), granularity="block")
    with pytest.raises(OptionError, match="write NAME=NUMBER"):
        Bounds(choose=("s",))
    everything = Mask.all_open(coupling.closing([b.name for b in coupling.branches]))
    with pytest.raises(UsageError, match="removes all alternatives of 's': one must stay"):
        everything.check(coupling)
    with pytest.raises(UsageError, match="the branch of 's\\[9\\]', and the model has none there"):
        replace(everything, branches=("s[9]",)).check(coupling)
