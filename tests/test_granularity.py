"""What may be cut, word by word: channels, heads, their width, branches; and the fewest of each that stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from branchy_models import BRANCHY, made
from onnx import numpy_helper
from small_task import network, samples
from zoo.pack import HERE, SUFFIX, unpack

import tgonnx as tg
from tgonnx.analysis.coupling import Coupling
from tgonnx.cli import main
from tgonnx.errors import BoundsError, OptionError, TargetError
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.runtime.sessions import open_session

HEADS = {  # of exported graphs: how many groups of heads there are, and of how many heads
    "bert_tiny.dynamo": (2, {4}),
    "deit_tiny_distilled_patch16_224.ts": (4, {3}),
    "gpt_tiny.ts": (2, {4}),
    "mobilevit_xxs.ts": (9, {4}),
    "seq2seq_transformer.dynamo": (6, {4}),
    "swin_t.dynamo": (12, {3, 6, 12, 24}),
}
PACKED = {
    path.name.removesuffix(f".onnx{SUFFIX}").removesuffix(SUFFIX): path for path in HERE.glob(f"*{SUFFIX}")
}


def sizes(coupling: Coupling) -> tuple[int, set[int]]:
    return len(coupling.of_attention), {coupling.groups[n].size for n in coupling.of_attention}


def left_of(coupling: Coupling, mask: tg.Mask) -> dict[str, list[tuple[int, int]]]:
    """What is kept of each group, and of how many, by family."""
    found: dict[str, list[tuple[int, int]]] = {}
    for number, group in enumerate(coupling.groups):
        pair = int(mask.open[group.units].sum()), group.size
        found.setdefault(coupling.family_of(number), []).append(pair)
    return found


def test_heads_of_exported_graphs_are_told_from_channels() -> None:
    names = {name.removesuffix(".onnx"): path for name, path in PACKED.items()}
    assert HEADS.keys() <= names.keys()
    for name, path in names.items():
        coupling = tg.analyze(tg.load(unpack(path)))
        assert sizes(coupling) == HEADS.get(name, (0, set())), name


def transformer() -> onnx.ModelProto:
    return BRANCHY["pre_norm"][0]()


def test_width_is_told_from_channels() -> None:
    """Queries with keys, and values with what reads them, each with four of width in each of four heads."""
    coupling = tg.analyze(tg.load(transformer()), "head-dim")
    assert sizes(coupling) == (2, {4})
    assert {coupling.family_of(n) for n in coupling.of_attention} == {"head-dim"}
    assert sizes(tg.analyze(tg.load(transformer()))) == (1, {4})


@pytest.mark.parametrize(
    ("granularity", "cut"),
    [
        ("channel", {"channel"}),
        ("head", {"head"}),
        ("channel,head", {"channel", "head"}),
        ("head-dim", {"head-dim"}),
        ("channel,head-dim", {"channel", "head-dim"}),
    ],
)
def test_only_what_is_named_is_cut(granularity: str, cut: set[str]) -> None:
    model = transformer()
    mask = tg.select(model, "params=0.8", granularity=granularity, round_to=1, allocation="uniform")
    assert mask.attention == ("head-dim" if "head-dim" in granularity else "heads")
    coupling = tg.analyze(tg.load(model), mask.attention)
    lost = {family for family, groups in left_of(coupling, mask).items() if any(a < b for a, b in groups)}
    assert lost == cut
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)}
    wanted, found = (open_session(m).run(feeds)["y"] for m in (gate(coupling, mask), apply(coupling, mask)))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("granularity", ["channel,block", "head,block", "head-dim,block"])
def test_branches_go_with_any_of_them(granularity: str) -> None:
    x = np.random.default_rng(0).normal(size=(40, 5, 16)).astype(np.float32)
    result = tg.prune(transformer(), {"x": x}, "params=0.5", granularity=granularity, calibrate=True)
    assert result.check.ok
    coupling = tg.analyze(tg.load(transformer()), result.mask.attention)
    lost = {f for f, groups in left_of(coupling, result.mask).items() if any(a < b for a, b in groups)}
    assert lost <= {granularity.removesuffix(",block")}


@pytest.mark.parametrize("granularity", ["channel", "head-dim", "channel,block"])
def test_gates_learn_of_what_is_named_alone(granularity: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5, 16)).astype(np.float32)
    result = tg.prune(
        transformer(), {"x": x}, "params=0.75", granularity=granularity, criterion="gates", epochs=3, batch=24,
        threads=1,
    )  # fmt: skip
    assert result.check.ok
    coupling = tg.analyze(tg.load(transformer()), result.mask.attention)
    left = left_of(coupling, result.mask)
    assert all(a == b for family, groups in left.items() if family not in granularity for a, b in groups)
    assert not result.mask.open.all() or result.mask.branches


def test_the_old_way_to_ask_for_width_stays() -> None:
    model = transformer()
    old = tg.prune(model, None, "params=0.7", attention="head-dim")
    new = tg.prune(model, None, "params=0.7", granularity="channel,head-dim")
    assert old.model.graph == new.model.graph
    np.testing.assert_array_equal(old.mask.open, new.mask.open)
    with pytest.raises(OptionError, match=r"head-dim: analyze\(model, 'head-dim'\) makes a coupling for it"):
        tg.select(tg.analyze(tg.load(model)), "params=0.7", granularity="head-dim")


def test_without_heads_there_is_nothing_to_cut() -> None:
    for how in ("head", "head-dim"):
        with pytest.raises(BoundsError, match=f"granularity {how} leaves nothing to cut"):
            tg.prune(network(), None, "flops=0.8", granularity=how)


def test_so_many_of_each_family_stay() -> None:
    model = transformer()
    coupling = tg.analyze(tg.load(model))
    mask = tg.select(
        model, "params=0.6", min_units={"channel": 20, "head": 2}, round_to=1, allocation="global"
    )
    left = left_of(coupling, mask)
    assert all(kept >= min(20, size) for kept, size in left["channel"])
    assert all(kept >= 2 for kept, _ in left["head"])
    free = left_of(coupling, tg.select(model, "params=0.4", round_to=1, allocation="global"))
    assert min(kept for kept, _ in free["channel"]) < 20
    same = tg.select(model, "params=0.6", min_units="channel=20, head=2", round_to=1, allocation="global")
    np.testing.assert_array_equal(same.open, mask.open)
    with pytest.raises(TargetError, match="must stay"):
        tg.select(model, "params=0.3", min_units={"channel": 20, "head": 4})
    with pytest.raises(BoundsError, match="min_units 'channel=32, head=4' leaves nothing to cut"):
        tg.select(model, "params=0.3", min_units="channel=32, head=4")


def test_so_many_branches_stay() -> None:
    model = BRANCHY["nested"][0]()  # a in b in y
    for fewest, target, most in ((1, "flops=0.9", 2), (2, "flops=0.95", 1)):
        mask = tg.select(model, target, granularity="block", min_units={"block": fewest})
        gone = {b.name for b in tg.load(model).branches if {b.name, *b.within} & {*mask.branches}}
        assert 1 <= len(gone) <= most
    with pytest.raises(TargetError, match="is in no branch"):
        tg.select(model, "flops=0.9", granularity="block", min_units={"block": 3})
    both = tg.prune(
        BRANCHY["inverted_residual"][0](), None, "flops=0.3", granularity="channel,block", min_units="block=1"
    )
    assert len(both.mask.branches) <= 1


def test_what_saves_most_goes_where_few_may() -> None:
    """One of two branches may go, and only the one that matters more saves enough."""
    text = "a = MatMul(x, v)  t = Add(x, a)  b = MatMul(t, w)  c = MatMul(b, u)  y = Add(t, c)"
    model = made("(float[N,16] x) => (float[N,16] y)", text, {"v": (16, 16), "w": (16, 64), "u": (64, 16)})
    for tensor in model.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(numpy_helper.from_array(1e-3 * numpy_helper.to_array(tensor), "v"))
    assert tg.select(model, "params=0.2", granularity="block", min_units={"block": 1}).branches == ("y",)
    assert tg.select(model, "params=0.9", granularity="block", min_units={"block": 1}).branches == ("t",)


def test_so_many_of_each_weight_stay() -> None:
    mask = tg.select(network(), "nonzeros=0.2", granularity="weight", min_units={"weight": 15})
    assert all(part.sum() >= 15 for part in mask.weights.values())
    free = tg.select(network(), "nonzeros=0.05", granularity="weight")
    assert min(part.sum() for part in free.weights.values()) < 15
    with pytest.raises(OptionError, match="min_units does not go with nm"):
        tg.select(network(), granularity="weight", nm="2:4", min_units={"weight": 3})


def test_the_command_line_knows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, mask, out = (str(tmp_path / name) for name in ("m.onnx", "mask.json", "small.onnx"))
    onnx.save(transformer(), path)
    how = [
        "--granularity",
        "channel,head-dim",
        "--target",
        "params=0.7",
        "--min-units",
        "head-dim=2,channel=4",
    ]
    assert main(["mask", path, "-o", mask, *how]) == 0
    assert json.loads(Path(mask).read_text())["attention"] == "head-dim"
    assert main(["apply", path, "--mask", mask, "-o", out]) == 0
    assert main(["prune", path, "-o", out, "--overwrite", *how]) == 0
    capsys.readouterr()
    assert main(["inspect", path, "--json"]) == 0
    groups: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["groups"]
    assert sorted(group["of"] for group in groups) == ["channel", "head"]


def test_a_run_remembers_what_may_be_cut(tmp_path: Path) -> None:
    result = tg.prune(
        network(), samples(100), "flops=0.7", granularity="channel", min_units={"channel": 3}, epochs=1,
        run_dir=str(tmp_path / "run"), force=True, threads=1,
    )  # fmt: skip
    assert result.mask.open.sum() < len(result.mask.open)
    text = (tmp_path / "run" / "recipe.toml").read_text()
    assert 'granularity = "channel"' in text
    assert "channel=3" in text
