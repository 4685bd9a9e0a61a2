"""Latency as a kind of cost: what is fitted to times, how whole blocks are chosen, profiles as files and commands.

No test depends on how fast this machine is: times are made up from a formula, or only that there are some is looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_models import model_of, normal

import tgonnx as tg
from tgonnx.analysis import profile_file
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import Axes
from tgonnx.analysis.time_fit import Measured, fitted, non_negative
from tgonnx.analysis.times import Profile, Staircase, elements_of, work_of
from tgonnx.cli.app import main
from tgonnx.cli.repeated import added_up
from tgonnx.errors import OptionError, TargetError, UsageError
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.pipeline.clock import Clock, by_the_clock
from tgonnx.pipeline.profiling import candidates
from tgonnx.runtime.operator_times import ADDED, operator_times
from tgonnx.selection.bounds import Ranking
from tgonnx.selection.budget import shop_of
from tgonnx.selection.criteria import ranks, select
from tgonnx.selection.mask import Mask

Machine = Callable[[np.ndarray], np.ndarray]


def convolutions(*widths: int) -> onnx.ModelProto:
    """A chain of convolutions with activations, 8 x 8 pixels, 3 channels in and 5 out."""
    sizes, nodes, stored = (3, *widths, 5), [], {}
    for number, (before, after) in enumerate(pairwise(sizes)):
        name, last = f"w{number}", number == len(widths)
        stored[name] = normal(after, before, 3, 3)
        source = "x" if number == 0 else f"r{number - 1}"
        made = "y" if last else f"c{number}"
        nodes.append(onnx.helper.make_node("Conv", [source, name], [made], pads=[1, 1, 1, 1]))
        if not last:
            nodes.append(onnx.helper.make_node("Relu", [made], [f"r{number}"]))
    return model_of(nodes, ["n", 3, 8, 8], stored, ["y"])


def blocks_of(size: int) -> Machine:
    return lambda lengths: np.ceil(lengths / size) * size


def made_up(coupling: Coupling, machine: Machine, odd: float = 1.0, fused: bool = True) -> list[Measured]:
    """What a machine would need that computes convolutions in blocks: 2 us each, and a nanosecond for a product."""
    axes = Axes(coupling)
    work, elements = work_of(axes), elements_of(axes)
    for node in coupling.model.nodes:
        assert node.outputs[0] in elements
    varies = axes.per_unit.any(axis=1)
    found = []
    for mask in candidates(coupling):
        counts = coupling.cost_model.open_counts(mask.open)
        lengths = axes.lengths(counts)
        slow = odd if np.mean(lengths[varies] % 4 != 0) > 0.5 else 1.0
        priced = np.where(varies, machine(lengths), lengths)
        times = {}
        for node in coupling.model.nodes:
            terms = work.get(node.outputs[0], [])
            if terms:
                name = node.outputs[0].replace("c", "r") if fused and slow == 1 else node.outputs[0]
                times[name] = 2 + slow * sum(
                    1e-3 * t.coefficient * priced[list(t.axes)].prod() for t in terms
                )
        found.append(Measured(counts, sum(times.values()), times))
    return found


@pytest.fixture(scope="module")
def coupling() -> Coupling:
    return tg.analyze(convolutions(64, 48, 96))


@pytest.fixture(scope="module")
def profile(coupling: Coupling) -> Profile:
    return fitted(coupling, made_up(coupling, blocks_of(16)))


# --- what is fitted ---------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 4, 8, 16])
@pytest.mark.parametrize("fused", [True, False])
def test_blocks_are_found(coupling: Coupling, block: int, fused: bool) -> None:
    measured = made_up(coupling, blocks_of(block), fused=fused)
    found = fitted(coupling, measured)
    assert found.stairs["Conv"].block == max(4, block)  # what is timed has multiples of four
    assert found.error < 1e-3
    costs = tg.CostModel(coupling)
    costs.use(found)
    for one in measured[:-2]:
        assert costs.count("latency", one.counts) == pytest.approx(one.us, rel=1e-2)
    assert costs.total("latency") == pytest.approx(found.original_us, rel=1e-2)


def test_odd_counts_that_are_slow_are_found(coupling: Coupling) -> None:
    found = fitted(coupling, made_up(coupling, blocks_of(16), odd=3.0)).stairs["Conv"]
    assert (found.aligned, found.block) == (4, 16)
    assert 2 < found.penalty < 4
    assert fitted(coupling, made_up(coupling, blocks_of(4))).stairs["Conv"].penalty == 1


def test_times_of_whole_models_tell_the_blocks_of_types(coupling: Coupling) -> None:
    measured = [Measured(one.counts, one.us) for one in made_up(coupling, blocks_of(8))]
    found = fitted(coupling, measured)
    assert found.stairs["Conv"].block == 8
    assert found.error < 1e-2


def test_stairs() -> None:
    lengths = np.array([1.0, 12, 16, 18, 32])
    assert Staircase(16).of(lengths).tolist() == [16, 16, 16, 32, 32]
    assert Staircase(16, linear=True).of(lengths).tolist() == [1, 12, 16, 32, 32]
    assert Staircase(16, aligned=4, penalty=2).of(lengths).tolist() == [32, 16, 16, 64, 32]


def test_least_squares_without_negative_coefficients() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((20, 3))
    assert non_negative(rows, rows @ [1, 0, 2]) == pytest.approx([1, 0, 2], abs=1e-9)
    found = non_negative(rows, rows @ [1, -1, 2])
    assert (found >= 0).all()
    assert found[1] == 0


# --- what is chosen ---------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3, 0.15])
def test_whole_blocks_are_kept(coupling: Coupling, profile: Profile, share: float) -> None:
    coupling.cost_model.use(profile)
    mask = select(coupling, f"latency={share}")
    costs = coupling.cost_model
    assert costs.ratio(mask.open, "latency") <= share
    for group in coupling.groups:
        left = int(mask.open[group.units].sum())
        assert left % 16 == 0 or left < 16  # a started block is a paid one
    for group in coupling.groups:  # one block more of any group would be too much
        closed = group.units[~mask.open[group.units]]
        if len(closed) >= 16:
            more = mask.open.copy()
            more[closed[:16]] = True
            assert costs.ratio(more, "latency") > share


def test_going_back_and_forth_makes_no_difference(coupling: Coupling, profile: Profile) -> None:
    coupling.cost_model.use(profile)
    scores = ranks(coupling, Ranking())
    shop = shop_of(coupling, scores, "latency")
    there = [shop.mask(share)[0] for share in (0.9, 0.3, 0.6, 0.3, 0.9)]
    alone = [shop_of(coupling, scores, "latency").mask(share)[0] for share in (0.9, 0.3, 0.6, 0.3, 0.9)]
    for a, b in zip(there, alone, strict=True):
        assert np.array_equal(a, b)


def test_what_cannot_be_reached_is_an_error(coupling: Coupling, profile: Profile) -> None:
    coupling.cost_model.use(profile)
    with pytest.raises(TargetError, match=r"at least .* of the latency must stay"):
        select(coupling, "latency=0.001")
    with pytest.raises(TargetError):
        select(coupling, "latency=0.3", min_channels=48)
    kept = select(coupling, "latency=0.8", freeze=("w1",))
    assert 0 not in kept.kept(coupling).get("w1", {})


def test_round_to_goes_with_a_latency(coupling: Coupling, profile: Profile) -> None:
    coupling.cost_model.use(profile)
    mask = select(coupling, "latency=0.6", round_to=24)
    assert all(mask.open[g.units].sum() in (24, 48, 72, 96, g.size) for g in coupling.groups)


def test_without_a_profile_there_is_no_latency() -> None:
    with pytest.raises(OptionError, match=r"latency is known once .* was measured"):
        select(tg.analyze(convolutions(16, 16)), "latency=0.5")


def test_the_clock_has_the_last_word(coupling: Coupling, profile: Profile) -> None:
    coupling.cost_model.use(profile)
    costs, asked = coupling.cost_model, list[float]()

    def slower(mask: Mask) -> float:  # than what is predicted
        asked.append(0.2 + 0.8 * costs.ratio(mask.open, "latency"))
        return asked[-1]

    def found(share: float) -> Mask:
        return by_the_clock(
            tg.Target(latency=share),
            lambda goal: select(coupling, goal),
            lambda mask: costs.ratio(mask.open, "latency"),
            slower,
        )

    mask = found(0.6)
    assert 0.4 < slower(mask) <= 0.6
    assert len(asked) <= 6
    asked.clear()
    least = found(0.22)  # less than 0.2 cannot be reached at all
    assert slower(least) == min(asked)


def test_a_search_sees_ramps(coupling: Coupling, profile: Profile) -> None:
    """What the objective counts is one where all gates are open, and falls as gates close one by one."""
    from tgonnx.graph.builder import Emitter
    from tgonnx.runtime.sessions import open_session

    coupling.cost_model.use(profile)
    emitter = Emitter("price.")
    measure = coupling.cost_model.measure("latency")
    share = measure.emit(emitter, emitter.value("kept"))
    graph = onnx.helper.make_graph(
        [*emitter.nodes, onnx.helper.make_node("Identity", [share.name], ["share"])],
        "price",
        [onnx.helper.make_tensor_value_info("kept", 1, [coupling.units, 1])],
        [onnx.helper.make_tensor_value_info("share", 1, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    session, kept, told = open_session(model), np.ones((coupling.units, 1), np.float32), []
    for unit in coupling.groups[0].units[:20]:
        told.append(float(session.run({"kept": kept})["share"]))
        kept[unit] = 0
    assert told[0] == pytest.approx(1, abs=1e-5)
    assert (np.diff(told) < 0).all()


# --- targets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("latency=0.6", 0.6),
        ("latency=60%", 0.6),
        ("latency=5ms", 5000),
        ("latency=0.5ms", 500),
        ("latency=250us", 250),
    ],
)
def test_targets(text: str, value: float) -> None:
    found = tg.Target.parse(text)
    assert (found.kind, found.value) == ("latency", pytest.approx(value))


@pytest.mark.parametrize(
    "text", ["latency=5", "latency=1M", "latency=0", "latency=-1ms", "flops=5ms", "latency=2MB"]
)
def test_wrong_targets(text: str) -> None:
    with pytest.raises(OptionError, match="target"):
        tg.Target.parse(text)


# --- profiles as files ----------------------------------------------------------------------------------


def test_a_profile_is_read_as_it_was_written(profile: Profile, tmp_path: Path) -> None:
    profile_file.write(profile, tmp_path / "p.json")
    assert profile_file.read(tmp_path / "p.json") == profile


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": 2}',
        '{"format": 1, "rates": [{"outputs": 3}], "stairs": {}}',
    ],
)
def test_what_is_no_profile(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UsageError, match=r"p\.json: is "):
        profile_file.read(tmp_path / "p.json")


def test_a_profile_of_another_model(profile: Profile) -> None:
    other = tg.analyze(convolutions(16, 16))
    with pytest.raises(UsageError, match="is of another model than"):
        other.cost_model.use(profile)


def test_no_time_is_negative(profile: Profile, tmp_path: Path) -> None:
    document = json.loads(profile_file.as_text(profile))
    document["rates"][0]["per_work"] = -1
    (tmp_path / "p.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="damaged latency profile"):
        profile_file.read(tmp_path / "p.json")


# --- what is measured -------------------------------------------------------------------------------------


def test_every_operator_is_attributed() -> None:
    model = onnx.load(Path(__file__).parent.parent / "models" / "fashion_resnet20.onnx")
    shape = [max(1, dim.dim_value) for dim in model.graph.input[0].type.tensor_type.shape.dim]
    times = operator_times(model, {model.graph.input[0].name: np.ones(shape, np.float32)}, 1, 0.05)
    outputs = {node.output[0] for node in model.graph.node}
    named = [each for each in times if each.output != ADDED]
    assert {each.output for each in named} <= outputs
    assert sum(e.microseconds for e in named if e.op_type == "Conv") > 0
    assert all(each.microseconds > 0 for each in times)


def test_copies_that_are_timed_are_different(coupling: Coupling) -> None:
    masks = [*candidates(coupling)]
    assert masks[0].open.all()
    assert len({mask.open.tobytes() for mask in masks}) == len(masks) >= 12
    for mask in masks:
        cut = remove_channels(coupling.model.proto, coupling, mask)
        assert [t.dims[0] for t in cut.graph.initializer][-1] == 5


def test_the_clock_times_in_turns(coupling: Coupling) -> None:
    before, after = Clock.of(coupling.model, 1).beside(coupling.model.original, 0.05)
    assert before.share == 1
    assert after.share > 0
    assert before.cpu > 0


# --- commands -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(convolutions(64, 48, 96), "m.onnx")
    profile_file.write(profile, "made-up.json")
    return tmp_path


def test_prune_to_a_latency(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["prune", "m.onnx", "--target", "latency=0.6", "--threads", "1", "--json", "--report", "r.json"]
    )
    told = json.loads((folder / "r.json").read_text())
    assert told["target"]["kind"] == "latency"
    assert told["timed"]["threads"] == 1
    assert told["achieved"] == told["timed"]["after"]["share"]
    assert told["target_met"] == (told["achieved"] <= 0.6 * 1.05 + 1e-9)
    assert code == (0 if told["target_met"] else TargetError.exit_code)
    capsys.readouterr()


def test_prune_by_a_profile(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(Path("made-up.json").read_text())
    document["about"] = {"device": "a phone"}
    Path("phone.json").write_text(json.dumps(document))
    command = ["prune", "m.onnx", "--target", "latency=0.5", "--latency-profile", "phone.json", "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["timed"] is None  # nothing here can tell
    assert told["achieved"] <= 0.5


def test_a_profile_needs_a_latency(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "m.onnx", "--target", "latency=0.5", "--latency-profile", "no.json"]) == 2
    assert "no.json" in capsys.readouterr().err


def test_profile_and_script(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "m.onnx", "-o", "here.json", "--threads", "1"]) == 0
    assert profile_file.read("here.json").rates
    assert main(["profile", "m.onnx", "-o", "here.json"]) == 2  # it is there already
    assert main(["profile", "m.onnx", "--script", "device"]) == 0
    subprocess.run([sys.executable, "device/run.py", "--threads", "1", "--rounds", "4"], check=True)
    assert main(["profile", "m.onnx", "--answers", "device/answers.json", "-o", "there.json"]) == 0
    assert profile_file.read("there.json").device
    answers = json.loads(Path("device/answers.json").read_text())
    for wrong in (
        answers | {"structure": "0"},
        answers | {"ms": {"model00.onnx": 1.0}},
        answers | {"ms": {"model00.onnx": "fast"}},
        {},
    ):
        Path("wrong.json").write_text(json.dumps(wrong))
        assert main(["profile", "m.onnx", "--answers", "wrong.json", "-o", "x.json"]) == 2
        assert "wrong.json" in capsys.readouterr().err
        assert not Path("x.json").exists()


def test_bench_by_operator(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "m.onnx", "--repeats", "3", "--by-operator", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["operators"]
    assert sum(each["op_type"] == "Conv" for each in told["operators"]) == 4


def test_branches_and_channels_by_time(folder: Path) -> None:
    """What closed branches take is not counted, and gates of branches learn from times."""
    from branchy_models import BRANCHY

    from tgonnx.analysis.gate_cost import BranchCost
    from tgonnx.graph.builder import Emitter

    coupling = tg.analyze(tg.load(BRANCHY["projection"][0]()))
    coupling.cost_model.use(tg.profile(coupling, threads=1))
    costs, every = coupling.cost_model, np.ones(coupling.units, bool)
    assert costs.ratio(every, "latency") == pytest.approx(1)
    closed = coupling.closing([coupling.branches[0].name])
    assert closed.cost_model.ratio(every, "latency") < 1
    emitter = Emitter("price.")
    share = BranchCost(coupling).measure("latency").emit(emitter, emitter.value("kept"))
    assert share.name
    assert emitter.nodes
    mask = tg.select(coupling, "latency=0.8", granularity="channel,head,block")
    assert mask.counted(coupling).cost_model.ratio(mask.open, "latency") <= 0.8


def test_a_profile_is_for_a_target_of_latency(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "m.onnx", "--latency-profile", "made-up.json"]) == 2
    assert "--latency-profile is for a target of latency" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given", ["params=0.3,flops=0.6", {"flops": 0.6, "params": 0.3}, "flops=0.6, params=30%"]
)
def test_targets_together(coupling: Coupling, given: object) -> None:
    costs = coupling.cost_model
    target = tg.Target.of(given)  # type: ignore[arg-type]
    assert {target.kind, *(each.kind for each in target.also)} == {"flops", "params"}
    mask = select(coupling, given)  # type: ignore[arg-type]
    left = {kind: costs.ratio(mask.open, kind) for kind in ("flops", "params")}
    assert left["flops"] <= 0.6
    assert left["params"] <= 0.3
    assert left["params"] > 0.2  # no more goes than must


def test_a_latency_comes_first() -> None:
    target = tg.Target.parse("params=1M,latency=5ms")
    assert (target.kind, target.value, str(target)) == ("latency", 5000, "params=1M,latency=5ms")
    assert [(each.kind, each.value) for each in target.also] == [("params", 1e6)]


@pytest.mark.parametrize(
    "text", ["flops=0.5,flops=0.4", "flops=0.5,", "flops=0.5,params", ",", "flops=0.5,size=3"]
)
def test_what_does_not_go_together(text: str) -> None:
    with pytest.raises(OptionError, match="target"):
        tg.Target.parse(text)


def test_targets_that_cannot_be_met_together(coupling: Coupling) -> None:
    with pytest.raises(TargetError, match="cannot be met together"):
        select(coupling, "flops=0.8,params=1000", min_channels=40)
    with pytest.raises(OptionError, match="no second one goes with it"):
        tg.sweep(coupling.model, None, ["flops=0.5,params=0.5"])


def test_prune_to_two_targets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "m.onnx", "--target", "flops=0.6", "--json", "--target=params=0.3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["achieved"] <= 0.6
    assert told["also"]["params"]["left"] <= 0.3
    model = onnx.load("m.pruned.onnx")
    stamps = {entry.key: entry.value for entry in model.metadata_props}
    assert stamps["tgonnx.target"] == "flops=0.6,params=0.3"


def test_targets_add_up_on_the_command_line() -> None:
    assert added_up(["a", "--target", "x=1", "b", "--target=y=2"]) == ["a", "--target", "x=1,y=2", "b"]
    assert added_up(["--target=x=1", "a"]) == ["--target", "x=1", "a"]
    assert added_up(["a", "--target"]) == ["a", "--target"]
    assert added_up([]) == []
