"""Residual branches: found whatever the order and the names, closed and cut alike, counted as the file has it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from branchy_models import BRANCHY, made, nested, pre_norm
from independent import axes_of, choices, compare
from onnx import helper, numpy_helper
from random_graphs import random_model
from zoo.pack import HERE, SUFFIX, unpack

import tgonnx as tg
from tgonnx.analysis.coupling import Coupling
from tgonnx.cli import main
from tgonnx.errors import OptionError, UsageError, VerificationError
from tgonnx.passes.gate_branches import BRANCH_GATES, gate_branches
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_branches import remove_branches
from tgonnx.passes.remove_channels import apply
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.budget import random_mask

MODELS = pytest.mark.parametrize("name", BRANCHY)
WITH_BRANCHES = pytest.mark.parametrize("name", [name for name, (_, sums) in BRANCHY.items() if sums])


def coupling_of(name: str) -> Coupling:
    return tg.analyze(tg.load(BRANCHY[name][0]()))


def subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    for count in range(len(names) + 1):
        yield from combinations(names, count)


def masks_of(coupling: Coupling, closed: Collection[str], keep: float = 0.6, seed: int = 0) -> list[tg.Mask]:
    """These branches closed, with all channels, and with some where no layer of a plain chain is among them."""
    alone = tg.Mask.all_open(coupling.closing(closed))
    if any(branch.layer and branch.name in closed for branch in coupling.branches):
        return [alone]
    return [alone, random_mask(coupling.closing(closed), keep, seed)]


def feeds_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = {"N": 2, "T": 5, "H": 6, "W": 9}
    shape = [d.dim_value or sizes[d.dim_param] for d in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": rng.normal(size=shape).astype(np.float32)}


@MODELS
def test_branches_are_found(name: str) -> None:
    make, sums = BRANCHY[name]
    assert {branch.name for branch in tg.load(make()).branches} == sums


def test_a_branch_is_all_that_flows_only_into_its_sum() -> None:
    a, b, y = sorted(tg.load(nested()).branches, key=lambda branch: branch.name)
    assert (a.within, b.within, y.within) == (("b", "y"), ("y",), ())
    assert a.nodes < b.nodes < y.nodes
    assert (a.shortcut, b.shortcut, y.shortcut) == ("j", "r", "x")
    assert (a.weights, y.weights) == ({"w3"}, {"w1", "w2", "w3", "w4", "w5"})


@MODELS
def test_order_and_names_do_not_matter(name: str) -> None:
    """Operands are swapped, nodes stand as late as they can, and everything has another name."""
    make, sums = BRANCHY[name]
    model = make()
    graph, new = model.graph, {}
    for node in graph.node:
        if node.op_type in ("Add", "Sum"):
            node.input[:] = [*node.input][::-1]
        new |= {output: f"z{len(new)}_{i}" for i, output in enumerate(node.output) if output}
    held = {value.name for value in graph.output}
    new = {old: name for old, name in new.items() if old not in held}
    for node in graph.node:
        node.input[:] = [new.get(n, n) for n in node.input]
        node.output[:] = [new.get(n, n) for n in node.output]
    late = as_late_as_can_be(list(graph.node))
    del graph.node[:]
    graph.node.extend(late)
    onnx.checker.check_model(model, full_check=True)
    expected = {" from ".join(new.get(part, part) for part in sum_.split(" from ")) for sum_ in sums}
    assert {branch.name for branch in tg.load(model).branches} == expected


def as_late_as_can_be(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    order: list[onnx.NodeProto] = []
    left = nodes
    while left:
        read = {name for node in left for name in node.input}
        last = next(node for node in left if not read & ({*node.output} - {""}))
        order.insert(0, last)
        left = [node for node in left if node is not last]
    return order


@WITH_BRANCHES
def test_gated_is_pruned_for_every_set_of_closed_branches(name: str) -> None:
    coupling = coupling_of(name)
    feeds = feeds_of(coupling.model.original)
    for closed in subsets([branch.name for branch in coupling.branches]):
        for chosen in masks_of(coupling, closed):
            pruned = apply(coupling, chosen)
            onnx.checker.check_model(
                onnx.shape_inference.infer_shapes(pruned, strict_mode=True), full_check=True
            )
            assert [*map(str, pruned.graph.input)] == [*map(str, coupling.model.original.graph.input)]
            assert [*map(str, pruned.graph.output)] == [*map(str, coupling.model.original.graph.output)]
            wanted, found = (open_session(model).run(feeds) for model in (gate(coupling, chosen), pruned))
            assert wanted.keys() == found.keys()
            for output, value in wanted.items():
                assert np.abs(found[output] - value).max() <= 1e-4 * np.abs(value).max()


@WITH_BRANCHES
def test_all_open_is_the_original(name: str) -> None:
    coupling = coupling_of(name)
    feeds = feeds_of(coupling.model.original)
    gated = gate_branches(coupling.model.proto, coupling)
    opened = {BRANCH_GATES: np.ones(len(coupling.branches), np.float32)}
    wanted, found = (
        open_session(coupling.model.original).run(feeds),
        open_session(gated).run({**feeds, **opened}),
    )
    for output, value in wanted.items():
        np.testing.assert_allclose(found[output], value, rtol=1e-6, atol=1e-6 * np.abs(value).max())
    mask = tg.Mask.of(coupling.closing(()), np.ones(coupling.units, bool))
    assert mask.keeps_everything
    assert apply(coupling, mask) == coupling.model.original


@WITH_BRANCHES
def test_the_predicted_cost_is_that_of_the_file(name: str) -> None:
    coupling = coupling_of(name)
    for closed in subsets([branch.name for branch in coupling.branches]):
        for mask in masks_of(coupling, closed):
            predicted = mask.counted(coupling).cost_model.cost(mask.open)
            counted = tg.analyze(tg.load(apply(coupling, mask))).cost_model.cost()
            assert (predicted.flops, predicted.params) == (counted.flops, counted.params)
            assert bool(closed) == (predicted.flops < coupling.cost_model.cost(mask.open).flops)


def test_shares_are_of_the_whole_model() -> None:
    coupling = tg.analyze(tg.load(pre_norm()))
    closed, everything = coupling.closing(["t"]), np.ones(coupling.units, bool)
    assert closed.cost_model.total("params") == coupling.cost_model.total("params")
    attention = 4 * 16 * 16 + 32
    left = 1 - attention / coupling.cost_model.total("params")
    assert closed.cost_model.ratio(everything, "params") == pytest.approx(left)
    assert closed.closing(()) is coupling
    with pytest.raises(KeyError, match="nowhere"):
        coupling.closing(["nowhere"])


def test_weights_that_others_read_stay() -> None:
    text = "a = MatMul(x, w)  t = Add(x, a)  b = MatMul(t, w)  y = Add(t, b)"
    coupling = tg.analyze(tg.load(made("(float[N,16] x) => (float[N,16] y)", text, {"w": (16, 16)})))
    assert [branch.weights for branch in coupling.branches] == [frozenset(), frozenset()]
    one, both = (coupling.closing(names).cost_model.cost() for names in (["t"], ["t", "y"]))
    assert (one.params, both.params) == (256, 0)
    assert one.flops == coupling.cost_model.cost().flops / 2


def test_a_sum_that_is_an_output_or_read_in_a_subgraph_keeps_its_name() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["t"], ["n"])], "then", [], [helper.make_tensor_value_info("n", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["t"], ["m"])], "else", [], [helper.make_tensor_value_info("m", 1, None)]
    )
    text = "a = MatMul(x, w)  t = Add(a, x)  s = ReduceSum<keepdims=0>(x)  c = Greater(s, zero)"
    model = made("(float[N,16] x) => (float[N,16] t) <float zero = {0}>", text, {"w": (16, 16)})
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other))
    model.graph.output.append(helper.make_tensor_value_info("y", 1, ["N", 16]))
    coupling = tg.analyze(tg.load(model))
    pruned = apply(coupling, tg.Mask.all_open(coupling.closing(["t"])))
    feeds = {"x": np.ones((2, 16), np.float32)}
    found = open_session(pruned).run(feeds)
    np.testing.assert_array_equal(found["t"], feeds["x"])
    np.testing.assert_array_equal(found["y"], -feeds["x"])
    assert "w" not in {tensor.name for tensor in pruned.graph.initializer}


def test_a_branch_that_is_not_there_is_refused() -> None:
    model = tg.load(nested())
    with pytest.raises(VerificationError, match="does not add"):
        remove_branches(pre_norm(), model, [branch for branch in model.branches if branch.name == "a"])


def test_mask_files_know_branches(tmp_path: Path) -> None:
    coupling = tg.analyze(tg.load(nested()))
    mask = random_mask(coupling.closing(["b"]), 0.6)
    mask.save(tmp_path / "mask.json")
    document = json.loads((tmp_path / "mask.json").read_text())
    assert (document["format"], document["removed branches"]) == ("tgonnx-mask-3", ["b"])
    read = tg.Mask.load(tmp_path / "mask.json")
    assert read.branches == ("b",)
    assert tg.apply(nested(), read).graph == apply(coupling, mask).graph
    assert "branch b" in str(read.summary())
    plain = random_mask(coupling, 0.6)
    plain.save(tmp_path / "plain.json")
    assert json.loads((tmp_path / "plain.json").read_text())["format"] == "tgonnx-mask-2"
    document["removed branches"] = ["h"]
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with pytest.raises(
        UsageError, match=r"wrong\.json: the mask removes the branch of 'h', and the model has none"
    ):
        tg.apply(nested(), tmp_path / "wrong.json")
    document["removed branches"] = "b"
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="removed branches are no list"):
        tg.Mask.load(tmp_path / "wrong.json")


def assert_exact(model: onnx.ModelProto, coupling: Coupling, mask: tg.Mask) -> None:
    """The cut file has the predicted cost and computes what the gated model does, at batches of 1 and 3."""
    pruned = apply(coupling, mask)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(pruned, strict_mode=True), full_check=True)
    predicted = mask.counted(coupling).cost_model.cost(mask.open)
    counted = tg.analyze(tg.load(pruned)).cost_model.cost()
    assert (predicted.flops, predicted.params) == (counted.flops, counted.params)
    sizes = [{name: batch for name in axes_of(model)} for batch in (1, 3)]
    opened = gate_branches(coupling.model.proto, coupling, ())
    models = {"original": model, "all gates open": opened, "gated": gate(coupling, mask), "pruned": pruned}
    assert compare(models, sizes) == ([], len(sizes))


@pytest.mark.parametrize(
    "packed", sorted(HERE.glob(f"*{SUFFIX}")), ids=lambda path: path.name.removesuffix(SUFFIX)
)
def test_branches_of_real_graphs(packed: Path) -> None:
    """Half of the branches of exported graphs go, alone and with half of the channels, at batches of 1 and 3."""
    model = unpack(packed)
    coupling = tg.analyze(tg.load(model))
    closed = [branch.name for branch in coupling.branches[::2]]
    assert bool(closed) == (packed.name.split(".")[0] not in WITHOUT)
    residual = [branch.name for branch in coupling.branches if not branch.layer][::2]
    for mask in (tg.Mask.all_open(coupling.closing(closed)), random_mask(coupling.closing(residual), 0.5)):
        assert_exact(model, coupling, mask)


@pytest.mark.parametrize("seed", range(24))
def test_branches_of_random_graphs(seed: int) -> None:
    """Some branches and some channels go, at sizes that the model runs at."""
    model = random_model(seed, 17, 6)
    coupling, rng = tg.analyze(tg.load(model)), np.random.default_rng(seed)
    closed = [branch.name for branch in coupling.branches if rng.random() < 0.6]
    mask = masks_of(coupling, closed, 0.6, seed)[-1]
    pruned = apply(coupling, mask)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(pruned, strict_mode=True), full_check=True)
    predicted = mask.counted(coupling).cost_model.cost(mask.open)
    counted = tg.analyze(tg.load(pruned)).cost_model.cost()
    assert (predicted.flops, predicted.params) == (counted.flops, counted.params)
    opened = gate_branches(coupling.model.proto, coupling, ())
    models = {"original": model, "all gates open": opened, "gated": gate(coupling, mask), "pruned": pruned}
    faults, looked = compare(models, [*choices(model)][:2], seed)
    assert faults == []
    assert looked


WITHOUT = {"lstm_tagger"}


def test_branches_that_matter_least_go_first() -> None:
    """Two branches of equal cost, one of which adds next to nothing."""
    text = "a = MatMul(x, v)  t = Add(x, a)  b = MatMul(t, w)  y = Add(t, b)"
    for small, kept in (("v", "y"), ("w", "t")):
        model = made("(float[N,16] x) => (float[N,16] y)", text, {"v": (16, 16), "w": (16, 16)})
        for tensor in model.graph.initializer:
            if tensor.name == small:
                tensor.CopyFrom(numpy_helper.from_array(0.01 * numpy_helper.to_array(tensor), small))
        arrays = {"x": np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)}
        for data in (arrays, None):
            mask = tg.select(model, "params=0.5", granularity="block", data=data)
            assert mask.branches == tuple({"t", "y"} - {kept})
            assert mask.open.all()


def test_the_least_branches_that_meet_the_target_go() -> None:
    model = BRANCHY["inverted_residual"][0]()
    coupling = tg.analyze(tg.load(model))
    for target, count in ((0.99, 1), (0.5, 1), (0.49, 2)):
        mask = tg.select(coupling, {"flops": target}, granularity="block")
        assert len(mask.branches) == count
        assert mask.counted(coupling).cost_model.ratio(mask.open, "flops") <= target
    assert tg.select(coupling, 1.0, granularity="block").keeps_everything


def test_what_is_frozen_stays() -> None:
    model = nested()
    for pattern, stays in (("y", {"y"}), ("w4", {"b", "y"})):
        mask = tg.select(model, "flops=0.95", granularity="block", freeze=pattern)
        assert mask.branches
        assert not stays & {*mask.branches}
    with pytest.raises(tg.TargetError, match="at least 1"):
        tg.select(model, "flops=0.9", granularity="block", freeze="w3")
    with pytest.raises(tg.UsageError, match="'w9' matches no prunable group and no branch"):
        tg.select(model, "flops=0.9", granularity="block", freeze="w9")


def test_branches_and_channels_share_a_target() -> None:
    """Of several splits the one that moves the outputs least is taken: a branch of nothing goes, channels elsewhere."""
    model = BRANCHY["inverted_residual"][0]()
    for tensor in model.graph.initializer:
        if tensor.name == "wp0":
            tensor.CopyFrom(numpy_helper.from_array(1e-3 * numpy_helper.to_array(tensor), "wp0"))
    coupling = tg.analyze(tg.load(model))
    mask = tg.select(coupling, "flops=0.3", granularity="channel,head,block")
    assert mask.branches == ("t",)
    assert not mask.open.all()
    assert mask.counted(coupling).cost_model.ratio(mask.open, "flops") <= 0.3
    gone = {
        int(unit) for number in coupling.closing(["t"]).gone_groups for unit in coupling.groups[number].units
    }
    assert gone
    assert mask.open[list(gone)].all()  # what goes with a branch is not cut beforehand


@pytest.mark.parametrize("granularity", ["block", "channel,head,block"])
def test_prune_removes_branches(granularity: str, tmp_path: Path) -> None:
    """Without data, from a few samples, and by what a mask says."""
    model = BRANCHY["squeeze_excite"][0]() if granularity == "block" else BRANCHY["inverted_residual"][0]()
    for tensor in model.graph.initializer:
        if tensor.name in ("wp0", "w2"):  # next to nothing is added
            tensor.CopyFrom(numpy_helper.from_array(1e-3 * numpy_helper.to_array(tensor), tensor.name))
    x = np.random.default_rng(0).normal(size=(40, 8, 6, 6)).astype(np.float32)
    for data in (None, {"x": x}):
        result = tg.prune(model, data, "flops=0.4", granularity=granularity, calibrate=data is not None)
        assert result.check.ok
        assert result.mask.branches == ("t",)
        assert bool(result.mask.open.all()) == (granularity == "block")
        for figures, file in ((result.before, model), (result.after, result.model)):
            counted = tg.analyze(tg.load(file, result.counted_at or None)).cost_model.cost()
            assert (figures.cost.flops, figures.cost.params) == (counted.flops, counted.params)
    result.mask.save(tmp_path / "mask.json")
    again = tg.prune(model, {"x": x}, mask=tmp_path / "mask.json", calibrate=True)
    assert again.mask.branches == result.mask.branches
    assert again.model.graph == result.model.graph


def test_what_reads_a_shortcut_is_refitted() -> None:
    """A linear branch is made up for by what comes behind it, exactly."""
    text = "a = MatMul(x, v)  t = Add(x, a)  y = MatMul(t, w)"
    model = made("(float[N,16] x) => (float[N,4] y)", text, {"v": (16, 16), "w": (16, 4)})
    x = np.random.default_rng(0).normal(size=(256, 16)).astype(np.float32)
    result = tg.prune(model, {"x": x}, "params=0.3", granularity="block", calibrate=True)
    assert result.mask.branches == ("t",)
    wanted, found = (open_session(each).run({"x": x})["y"] for each in (model, result.model))
    assert np.square(found - wanted).mean() < 1e-4 * np.square(wanted).mean()


def test_without_branches_the_answer_is_clear() -> None:
    with pytest.raises(tg.UnsupportedError, match="there is no residual branch"):
        tg.prune(BRANCHY["used_elsewhere"][0](), None, "flops=0.5", granularity="block")


def test_the_command_line_knows_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, mask, out = (str(tmp_path / name) for name in ("model.onnx", "mask.json", "small.onnx"))
    onnx.save(nested(), model)

    def told(*words: str) -> dict[str, Any]:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    found = {branch["branch"]: branch for branch in told("inspect", model)["branches"]}
    assert found.keys() == {"a", "b", "y"}
    assert found["a"]["within"] == ["b", "y"]
    assert found["y"]["params"] == pytest.approx(1)
    assert 0 < found["a"]["flops"] < found["b"]["flops"] < 1
    how = ("--granularity", "block", "--target", "flops=0.95", "--freeze", "w5")
    told("mask", model, "-o", mask, *how)
    left = told("apply", model, "--mask", mask, "-o", out)["left"]
    closed = json.loads(Path(mask).read_text())["removed branches"]
    assert left["flops"] == pytest.approx(1 - found[closed[0]]["flops"])
    assert "y" not in closed
    stay = {name for name, branch in found.items() if not {name, *branch["within"]} & {*closed}}
    assert {branch["branch"] for branch in told("inspect", out)["branches"]} == stay
    told("gate", model, "--mask", mask, "-o", str(tmp_path / "gated.onnx"))
    told("verify", str(tmp_path / "gated.onnx"), out)
    assert main(["inspect", model]) == 0
    assert "Residual branches" in capsys.readouterr().out
    pruned = told("prune", model, "-o", str(tmp_path / "p.onnx"), *how)
    assert pruned["removed_branches"] == closed


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("blocks", "unknown granularity 'blocks'; there are block, "),
        ("", "unknown granularity ''; there are "),
        ([], "is empty; there are channel, head, head-dim, block, weight"),
        ("block,weight", "'block,weight': weight goes with nothing else"),
        ("head-dim,block,head", "heads go whole or lose width, not both"),
        (3, "is a int, not names with commas between them"),
    ],
)
def test_granularities_that_are_none_are_refused(value: Any, why: str) -> None:
    with pytest.raises(OptionError, match=why):
        tg.Bounds(granularity=value)


def test_granularities_are_read_in_any_order() -> None:
    assert tg.Bounds(granularity="block, head,channel").granularity == "channel,head,block"
    assert tg.Bounds(granularity=["head", "channel"]).granularity == "channel,head"  # type: ignore[arg-type]
    assert tg.Bounds(granularity="block,head-dim").granularity == "head-dim,block"
    assert tg.Bounds() == tg.Bounds(granularity="channel,head")


def test_bounds_hold_for_branches() -> None:
    """What may go in part only does not go with a branch."""
    model = BRANCHY["inverted_residual"][0]()
    for bounds, closed in (
        ({"only": "wd0"}, ("t",)),
        ({"only": "wd1"}, ("y",)),
        ({"max_cut": {"wd1": 0.5}}, ("t",)),
        ({"max_cut": {"*": 1}, "only": ["t"]}, ("t",)),
    ):
        mask = tg.select(model, "flops=0.6", granularity="block", **bounds)
        assert mask.branches == closed
    with pytest.raises(tg.TargetError, match="at least 1"):
        tg.select(model, "flops=0.6", granularity="block", only="wd0", freeze="we0")
    with pytest.raises(OptionError, match="only 'zz' matches no prunable group and no branch"):
        tg.select(model, "flops=0.6", granularity="block", only="zz")
    both = tg.select(model, "flops=0.3", granularity="channel,head,block", max_cut="wd1=0.75")
    assert "y" not in both.branches
    coupling = tg.analyze(tg.load(model))
    for group in coupling.groups:
        if "wd1" in {member.value for member in group.members}:
            assert both.open[group.units].sum() >= group.size / 4


def test_files_say_which_branches_went() -> None:
    """Two cuts of the same channels and of other branches have other hashes."""
    coupling = tg.analyze(tg.load(BRANCHY["nested"][0]()))
    found = set()
    for branch in coupling.branches:
        cut = tg.apply(coupling, tg.Mask.all_open(coupling.closing([branch.name])))
        found |= {entry.value for entry in cut.metadata_props if entry.key == "tgonnx.mask"}
    assert len(found) == len(coupling.branches) > 1
