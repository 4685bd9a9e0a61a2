"""Masks as files, and choosing units without training: targets are met and options are respected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper, parser
from random_graphs import random_model

from tgonnx.analysis.cost import CostModel, Target
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import KINDS, Kind
from tgonnx.analysis.solver import analyze
from tgonnx.errors import TargetError, UsageError
from tgonnx.loading import load
from tgonnx.passes import remove_channels
from tgonnx.selection.budget import fit, random_mask
from tgonnx.selection.criteria import select
from tgonnx.selection.mask import Mask
from tgonnx.selection.norms import unit_norms


@pytest.fixture(scope="module")
def coupling() -> Coupling:
    found = analyze(load(random_model(5, 17, 4)))
    assert len(found.groups) > 2
    return found


def kept(coupling: Coupling, mask: Mask) -> list[int]:
    """Units kept of each group."""
    return [int(mask.open[group.units].sum()) for group in coupling.groups]


def test_a_mask_survives_its_file(coupling: Coupling, tmp_path: Path) -> None:
    mask = random_mask(coupling, 0.5)
    mask.save(tmp_path / "mask.json")
    again = Mask.load(tmp_path / "mask.json")
    assert np.array_equal(again.open, mask.open)
    assert again.groups == mask.groups
    again.check(coupling)


@pytest.mark.parametrize(("content", "message"), [
    ("", "not a mask file"),
    ("[1]", "not a mask file"),
    ('{"format": "other"}', "is not tgonnx-mask-1"),
    ('{"format": "tgonnx-mask-1", "groups": [{"group": "a", "units": 2, "keep": [5]}]}', "not a mask file"),
    ('{"format": "tgonnx-mask-1", "groups": [{"group": "a", "units": "x", "keep": []}]}', "not a mask file"),
])  # fmt: skip
def test_a_bad_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as error:
        Mask.load(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.json"):
        Mask.load(tmp_path / "nowhere.json")


def test_a_mask_of_another_model_is_refused(coupling: Coupling, tmp_path: Path) -> None:
    mask = random_mask(coupling, 0.5)
    mask.save(tmp_path / "mask.json")
    data = json.loads((tmp_path / "mask.json").read_text())
    data["groups"][0]["group"] = "another"
    (tmp_path / "mask.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match="other groups"):
        Mask.load(tmp_path / "mask.json").check(coupling)


def test_an_emptied_group_is_refused(coupling: Coupling) -> None:
    opened = np.ones(coupling.units, bool)
    opened[coupling.groups[0].units] = False
    with pytest.raises(UsageError, match="empties group"):
        Mask.of(coupling, opened)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "latency"]
)  # that is tests/test_latency.py
@pytest.mark.parametrize("criterion", ["l2", "random"])
def test_targets_are_met(coupling: Coupling, kind: Kind, criterion: str) -> None:
    ratio = CostModel(coupling).ratio(random_mask(coupling, 0.5).open, kind)  # one that can be reached
    mask = select(coupling, Target(**{kind: ratio}), criterion)  # type: ignore[arg-type]
    achieved = CostModel(coupling).ratio(mask.open, kind)
    assert achieved <= ratio + 1e-9
    assert achieved > ratio - 0.15  # units of these small models are coarse


def test_the_size_is_that_of_the_file() -> None:
    model = load(Path(__file__).parent.parent / "models" / "fashion_resnet20.onnx")
    wide = analyze(model)
    for seed in range(3):
        mask = random_mask(wide, 0.5, seed)
        found = remove_channels.apply(wide, mask).ByteSize()
        counted = wide.cost_model.count("size", wide.cost_model.open_counts(mask.open))
        assert found == pytest.approx(counted, rel=2e-3)
    assert wide.cost_model.total("size") == model.original.ByteSize()


def test_nothing_more_than_needed_is_closed(coupling: Coupling) -> None:
    scores = np.random.default_rng(0).random(coupling.units)
    assert fit(coupling, scores, Target(flops=1.0)).open.all()


def test_the_lowest_scores_go_first(coupling: Coupling) -> None:
    scores = np.arange(coupling.units, dtype=np.float64)
    mask = fit(coupling, scores, Target(channels=0.9))
    assert not mask.open.all()
    for group in coupling.groups:
        if not group.kinds.any():  # units of one kind cost the same
            kept_scores, cut_scores = (
                scores[group.units[mask.open[group.units]]],
                scores[group.units[~mask.open[group.units]]],
            )
            assert kept_scores.min() > cut_scores.max(initial=-1)


def test_min_channels_and_round_to(coupling: Coupling) -> None:
    floor = analyze(load(random_model(5, 17, 4)))
    for option, holds in (
        ({"min_channels": 3}, lambda n, size: n >= min(3, size)),
        ({"round_to": 2}, lambda n, size: n % 2 == 0 or n == size),
    ):
        mask = select(floor, Target(flops=0.8), **option)
        for group, count in zip(floor.groups, kept(floor, mask), strict=True):
            assert holds(count, group.size), (option, group.name, count)


def test_rounds_to_blocks_as_far_as_the_target_allows(coupling: Coupling) -> None:
    wide = analyze(load(Path(__file__).parent.parent / "models" / "fashion_resnet20.onnx"))
    mask = select(wide, Target(flops=0.5), "l2")
    assert all(n % min(8, g.size // 4) == 0 for g, n in zip(wide.groups, kept(wide, mask), strict=True))
    assert 0.495 < CostModel(wide).ratio(mask.open, "flops") <= 0.5
    narrow = CostModel(coupling)
    exact = narrow.ratio(random_mask(coupling, 0.5).open, "params")
    assert narrow.ratio(select(coupling, Target(params=exact), "random").open, "params") == pytest.approx(
        narrow.ratio(select(coupling, Target(params=exact), "random", round_to=1).open, "params"), rel=0.01
    )


def test_frozen_groups_stay(coupling: Coupling) -> None:
    name = coupling.groups[0].name
    mask = select(coupling, Target(flops=0.9), freeze=[name])
    assert mask.open[coupling.groups[0].units].all()
    with pytest.raises(UsageError, match="matches no prunable group"):
        select(coupling, Target(flops=0.9), freeze=["no such *"])


def test_only_what_is_named_is_cut(coupling: Coupling) -> None:
    first, second = coupling.groups[:2]
    for only in ([first.name], [first.members[0].value], [first.name, second.name]):
        loose = {0, 1} if len(only) == 2 else {0}
        mask = select(coupling, Target(channels=0.99), only=only)
        cut = {number for number, group in enumerate(coupling.groups) if not mask.open[group.units].all()}
        assert cut
        assert cut <= loose
    with pytest.raises(UsageError, match="only 'no such \\*' matches no prunable group"):
        select(coupling, Target(flops=0.9), only=["no such *"])


def test_nodes_are_named_for_only_as_for_freeze(coupling: Coupling) -> None:
    group = coupling.groups[0]
    reader = next(n for n in coupling.model.nodes if group.members[0].value in n.inputs)
    mask = select(coupling, Target(channels=0.99), only=reader.label)
    frozen = select(coupling, Target(channels=0.9), freeze=reader.label)
    assert not mask.open[group.units].all()
    assert frozen.open[group.units].all()


@pytest.mark.parametrize("criterion", ["l2", "random", "lamp"])
@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_at_most_a_share_is_cut(coupling: Coupling, share: float, criterion: str) -> None:
    """Of one group; the others make up for it. The numbers are whole: of 5 units, a half are 2."""
    group = max(coupling.groups, key=lambda each: each.size)
    word = {group.name: share}
    mask = select(coupling, Target(channels=0.6), criterion, max_cut=word)
    assert (~mask.open[group.units]).sum() <= share * group.size
    assert CostModel(coupling).ratio(mask.open, "channels") <= 0.6
    alone = (
        select(coupling, Target(channels=0.998), criterion, only=group.name, max_cut=word) if share else None
    )
    assert alone is None or not alone.open[group.units].all()


def test_shares_of_several_globs_hold_together(coupling: Coupling) -> None:
    name = coupling.groups[0].name
    mask = select(coupling, Target(channels=0.7), max_cut=["*=0.5", f"{name}=0"])
    for group, count in zip(coupling.groups, kept(coupling, mask), strict=True):
        assert count >= group.size / 2
    assert mask.open[coupling.groups[0].units].all()
    with pytest.raises(TargetError, match="must stay"):
        select(coupling, Target(channels=0.3), max_cut="*=0.5")
    with pytest.raises(UsageError, match="max_cut 'none\\*' matches no prunable group"):
        select(coupling, Target(channels=0.9), max_cut="none*=0.5")


def test_an_impossible_target_says_what_must_stay(coupling: Coupling) -> None:
    with pytest.raises(TargetError, match="must stay"):
        select(coupling, Target(flops=1e-6))
    with pytest.raises(TargetError, match="must stay"):
        select(coupling, Target(flops=0.9), freeze=["*"])


@pytest.mark.parametrize("text", ["flops", "flops=", "flops=2", "flops=0", "size=0.5", "flops=nan"])
def test_bad_targets(text: str) -> None:
    with pytest.raises(UsageError):
        Target.parse(text)


def test_norms_see_the_weights(coupling: Coupling) -> None:
    norms = unit_norms(coupling)
    assert norms.shape == (coupling.units,)
    assert (norms > 0).all()


@pytest.mark.parametrize(
    ("steps", "options"), [((6,), "axis=0"), ((), "axis=0"), ((6, 2, 1, 1), "axis=1, block_size=2")]
)
def test_norms_of_quantised_weights_are_those_of_what_they_stand_for(
    steps: tuple[int, ...], options: str
) -> None:
    rng = np.random.default_rng(0)
    scale, zero = rng.uniform(0.01, 1, steps).astype(np.float32), rng.integers(0, 9, steps).astype(np.uint8)
    stored = rng.integers(0, 255, (6, 4, 1, 1)).astype(np.uint8)
    if len(steps) == 4:
        whole = [np.repeat(part, 2, axis=1) for part in (scale, zero)]
    else:
        whole = [part.reshape(-1, 1, 1, 1) for part in (scale, zero)]
    real = np.asarray((stored - whole[1].astype(np.float32)) * whole[0], np.float32)
    weights = {"q": stored, "s": scale, "z": zero, "v": np.ones((2, 6, 1, 1), np.float32), "w": real}
    norms = []
    for body in ("", f"w = DequantizeLinear <{options}> (q, s, z) "):
        signature = "(float[1,4,3,3] x) => (float[1,2,3,3] y)"
        text = f'<ir_version: 10, opset_import: ["" : 21]> g {signature} {{ {body}h = Conv(x, w) y = Conv(h, v) }}'
        proto = parser.parse_model(text)
        used = ("q", "s", "z", "v") if body else ("w", "v")
        proto.graph.initializer.extend(numpy_helper.from_array(weights[name], name) for name in used)
        norms.append(unit_norms(analyze(load(proto))))
    assert len(norms[0]) == 6
    np.testing.assert_allclose(np.sort(norms[1]), np.sort(norms[0]), rtol=1e-5)
