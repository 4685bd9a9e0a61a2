"""Options are refused in the same words in Python and on the command line, and have one default."""

from __future__ import annotations

import dataclasses
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_task import network, samples

import tgonnx as tg
from tgonnx.analysis.target import Target
from tgonnx.cli.app import main
from tgonnx.errors import OptionError, flag
from tgonnx.options import specs
from tgonnx.runtime.options import Comparing, Timing
from tgonnx.selection.bounds import Ranking
from tgonnx.training.recipe import Recipe, Run, Settings

Capture = pytest.CaptureFixture[str]

# option, its value in Python (text is what the command line is given), what both say
REFUSED: list[tuple[str, Any, str]] = [
    ("epochs", 0, "0 is not a whole number of at least 1 or auto"),
    ("epochs", "many", "'many' is not a whole number of at least 1 or auto"),
    ("epochs", "1.5", "'1.5' is not a whole number of at least 1 or auto"),
    ("batch", 0, "0 is not a whole number of at least 1 or auto"),
    ("lr", -1, "-1 is not a number of at least 0 or auto"),
    ("lr", "nan", "'nan' is not a number of at least 0 or auto"),
    ("lr", "inf", "inf is not a number of at least 0 or auto"),
    ("gate_lr", -0.5, "-0.5 is not a number of at least 0"),
    ("lambda_", -1, "-1 is not a number of at least 0 or auto"),
    ("lambda_", "large", "'large' is not a number of at least 0 or auto"),
    ("weight_decay", -1, "-1 is not a number of at least 0 or auto"),
    ("loss", "distil", "'distil'; there are distill, "),
    ("gradient", "relu", "'relu'; there are one, sigmoid, tanh"),
    ("weights", "thawed", "'thawed'; there are train, frozen"),
    ("optimizer", "adamax", "'adamax'; there are adam, adamw, sgd"),
    ("metric", "acuracy", "'acuracy'; there are accuracy, "),
    ("smoothing", 1, "1 is not a number of at least 0 and below 1"),
    ("loss_weight", "y", "'y': write NAME=NUMBER"),
    ("loss_weight", "y=-1", "-1 is not a number of at least 0"),
    ("schedule", "linear", "'linear'; there are "),
    ("warmup", 1, "1 is not a number of at least 0 and below 1"),
    ("clip", -1, "-1 is not a number of at least 0"),
    ("accumulate", 0, "0 is not a whole number of at least 1"),
    ("augment", "flip", "unknown augment 'flip'; there are crop, mirror"),
    ("augment", "mirror,rotate", "unknown augment 'rotate'; there are "),
    ("engine", "ort", "'ort'; there are portable, ort-training, auto"),
    ("device", "gpu", "'gpu'; there are "),
    ("attention", "head", "'head'; there are heads, head-dim"),
    ("round_to", 0, "0 is not a whole number of at least 1 or auto"),
    ("round_to", -8, "-8 is not a whole number of at least 1 or auto"),
    ("min_channels", 0, "0 is not a whole number of at least 1"),
    ("freeze", "zz*", "'zz*' matches no prunable group"),
    ("only", "zz*", "'zz*' matches no prunable group"),
    ("max_cut", "zz*=0.5", "'zz*' matches no prunable group"),
    ("max_cut", "w1", "'w1': write NAME=NUMBER"),
    ("max_cut", "w1=-1", "-1 is not a number of at least 0"),
    ("max_cut", "w1=1.5", "'w1=1.5': a share is at most 1"),
    ("granularity", "blocks", "'blocks'; there are block, "),
    ("granularity", "channel,weight", "'channel,weight': weight goes with nothing else"),
    ("granularity", "head,head-dim", "'head,head-dim': heads go whole or lose width, not both"),
    ("granularity", "head", "head leaves nothing to cut: all units must stay"),
    ("min_units", "block=1", "names block, and granularity channel,head cuts none"),
    ("min_units", "channels=1", "'channels'; there are channel, "),
    ("min_units", "channel=0.5", "0.5 is not a whole number of at least 1"),
    ("nm", "4:2", "'4:2': write N:M, as in 2:4"),
    ("nm", "2:4", "2:4 is of single weights: it needs granularity weight"),
    ("seed", -1, "-1 is not a whole number of at least 0"),
    ("threads", -1, "-1 is not a whole number of at least 0"),
    ("verify_seconds", -1, "-1 is not a number of at least 0"),
    ("target", "flops=2", "'flops=2': a share is above 0 and at most 1"),
    ("target", "flops=50", "did you mean 50%?"),
    ("target", "flops:0.5", "write flops=0.5"),
    ("target", "flop=0.5", "did you mean flops?"),
    ("target", "flops=half", "'half' is not a number"),
    ("target", "params=2MB", "bytes are a size"),
    ("target", "size=0.5", "a size has a unit"),
]
IN_MASK = {"criterion", "round_to", "min_channels", "freeze", "only", "max_cut", "granularity", "nm", "min_units"} | {
    "seed", "target", "attention"
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    return "m.onnx"


def on_command_line(arguments: list[str], capsys: Capture) -> tuple[int, str]:
    """Exit code and message of a command that fails and writes nothing."""
    before = sorted(os.listdir())
    code = main(arguments)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert sorted(os.listdir()) == before
    return code, shown.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_both_doors_refuse_in_the_same_words(
    name: str, value: Any, said: str, path: str, capsys: Capture
) -> None:
    with pytest.raises(OptionError) as error:
        tg.prune(path, **{name: value})
    assert said in str(error.value)
    expected = str(error.value).replace(name, flag(name), 1)
    given = f"{flag(name)}={value}"
    assert on_command_line(["prune", path, given], capsys) == (error.value.exit_code, expected)
    if name in IN_MASK:
        assert on_command_line(["mask", path, "-o", "k.json", given], capsys) == (2, expected)
    if name in IN_MASK - {"attention"}:
        with pytest.raises(OptionError) as again:
            tg.select(path, **{"target": 0.5, name: value})
        assert str(again.value) == str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("samples", 0, "0 is not a whole number of at least 1"),
        ("rtol", -1, "-1 is not a number of at least 0"),
        ("rtol", "small", "'small' is not a number of at least 0"),
        ("seed", "x", "'x' is not a whole number of at least 0"),
    ],
)
def test_both_doors_refuse_a_comparison_in_the_same_words(
    name: str, value: Any, said: str, path: str, capsys: Capture
) -> None:
    with pytest.raises(OptionError) as error:
        tg.verify(path, path, **{name: value})
    assert str(error.value) == f"{name} {said}"
    given = f"{flag(name)}={value}"
    assert on_command_line(["verify", path, path, given], capsys) == (2, f"{flag(name)} {said}")


def test_both_doors_refuse_an_allocation_in_the_same_words(path: str, capsys: Capture) -> None:
    with pytest.raises(OptionError) as error:
        tg.select(path, 0.5, allocation="even")
    assert str(error.value).startswith("unknown allocation 'even'; there are ")
    expected = 2, str(error.value).replace("allocation", "--allocation")
    assert on_command_line(["mask", path, "-o", "k.json", "--allocation=even"], capsys) == expected


def test_timing_is_refused_in_the_same_voice(path: str, capsys: Capture) -> None:
    wanted = 2, "--repeats 0 is not a whole number of at least 1"
    assert on_command_line(["bench", path, "--repeats=0"], capsys) == wanted
    wanted = 2, "--batch 'many' is not a whole number of at least 1"
    assert on_command_line(["bench", path, "--batch=many"], capsys) == wanted


@pytest.mark.parametrize(
    ("name", "value"),
    [("freeze", "*"), ("round_to", 64), ("min_channels", 1000), ("max_cut", "*=0")],
)
def test_an_option_that_forbids_every_cut_is_named(name: str, value: Any, path: str, capsys: Capture) -> None:
    with pytest.raises(tg.TargetError, match=f"^{name} .*leaves nothing to cut") as error:
        tg.select(path, 0.5, **{name: value})
    with pytest.raises(tg.TargetError, match=f"^{name} .*leaves nothing to cut"):
        tg.prune(path, samples(40), epochs=1, **{name: value})
    expected = 2, flag(name) + str(error.value).removeprefix(name)
    given = f"{flag(name)}={value}"
    assert on_command_line(["mask", path, "-o", "k.json", given], capsys) == expected
    assert on_command_line(["prune", path, given], capsys) == expected


def test_what_has_no_text_is_refused_in_python() -> None:
    for name, value in {
        "freeze": 3, "unverified": "yes", "epochs": True, "lr": [1], "loss": 7, "round_to": 8.5, "seed": "x",
        "recipe": {}, "bounds": Run(), "run": Recipe(), "progress": 5,
    }.items():  # fmt: skip
        with pytest.raises(tg.UsageError, match=name):
            tg.prune(network(), **{name: value})


@pytest.mark.parametrize(
    ("name", "meant"), [("epoch", "epochs"), ("learning_rate", ""), ("roundto", "round_to")]
)
def test_an_unknown_keyword_is_told_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(tg.UsageError, match=f"prune has no option '{name}'.*{meant}"):
        tg.prune(network(), **{name: 1})
    with pytest.raises(tg.UsageError, match="select has no option 'min_channel'; did you mean min_channels"):
        tg.select(network(), 0.5, min_channel=2)


def test_text_is_read_as_on_the_command_line() -> None:
    bounds = tg.Bounds(round_to="8", min_channels=np.int64(2), freeze="w1*")  # type: ignore[arg-type]
    assert (bounds.round_to, bounds.min_channels, bounds.freeze) == (8, 2, ("w1*",))
    assert tg.Bounds(freeze=["a", "b"]).freeze == ("a", "b")  # type: ignore[arg-type]
    recipe = tg.Recipe(lr="1e-3", epochs="auto", lambda_="auto")  # type: ignore[arg-type]
    assert (recipe.lr, recipe.epochs, recipe.lambda_) == (1e-3, None, None)


def test_none_leaves_the_default_and_a_keyword_changes_an_object() -> None:
    coupling = tg.analyze(network())
    plain = tg.select(coupling, 0.5)
    assert np.array_equal(tg.select(coupling, 0.5, round_to=None, freeze=None).open, plain.open)
    assert np.array_equal(tg.select(coupling, 0.5, criterion="l2").open, plain.open)
    both = tg.select(coupling, 0.9, bounds=tg.Bounds(freeze="w4"), min_channels=2)
    assert np.array_equal(both.open, tg.select(coupling, 0.9, freeze="w4", min_channels=2).open)


def test_objects_and_keywords_mean_the_same() -> None:
    short = {
        "epochs": 1,
        "batch": 32,
        "lr": 1e-2,
        "seed": 4,
        "threads": 1,
        "round_to": 2,
        "from_scratch": True,
    }
    by_keyword = tg.prune(network(), samples(80), "flops=60%", **short)
    by_object = tg.prune(
        network(),
        samples(80),
        {"flops": 0.6},
        recipe=tg.Recipe(epochs=1, batch=32, lr=1e-2, from_scratch=True),
        bounds=tg.Bounds(round_to=2),
        run=tg.Run(seed=4, threads=1),
    )
    assert by_keyword.model.SerializeToString() == by_object.model.SerializeToString()


@pytest.mark.parametrize("kind", [Recipe, tg.Bounds, Run, tg.data.DataOptions, Ranking, Comparing, Timing])
def test_options_are_frozen_and_keyword_only(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(kind).parameters.values())
    name = next(iter(specs(kind)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), name, None)


def test_a_weight_decay_is_what_the_optimiser_takes() -> None:
    assert [Settings(optimizer=name).decay for name in ("adamw", "adam", "sgd")] == [1e-2, 0.0, 1e-3]
    assert (Settings(weight_decay=0.3).decay, Settings(weight_decay=0.3, optimizer="sgd").decay) == (0.3, 0.3)


@pytest.mark.parametrize(("given", "kind", "value"), [
    (None, "flops", 0.5), ("flops=0.5", "flops", 0.5), ("FLOPs=50%", "flops", 0.5), ("0.25", "flops", 0.25),
    (0.5, "flops", 0.5), (np.float32(0.5), "flops", 0.5), ({"params": 0.5}, "params", 0.5), (1, "flops", 1.0),
    ("params=1M", "params", 1e6), ("params=1.5e6", "params", 1.5e6), ("flops = 2 G", "flops", 2e9),
    ("size=2MB", "size", 2e6), ("size=1MiB", "size", 2**20), ("size=50%", "size", 0.5), ({"size": 0.5}, "size", 0.5),
    ("channels=2k", "channels", 2000), (Target(params="75%"), "params", 0.75), ({"flops": "50%"}, "flops", 0.5),
])  # fmt: skip
def test_forms_of_a_target(given: Any, kind: str, value: float) -> None:
    target = Target.of(given)
    assert (target.kind, target.value) == (kind, value)
    assert target == Target.of(target)


def test_an_amount_is_what_may_stay_of_the_model() -> None:
    model = tg.load(Path(__file__).parent.parent / "models" / "fashion_resnet20.onnx")
    costs = tg.CostModel(tg.analyze(model))
    mask = tg.select(model, "params=100k")
    assert 95_000 < costs.cost(mask.open).params <= 100_000
    assert tg.select(model, "params=100M").open.all()
    result = tg.prune(model, target="params=100k")
    assert result.target_met
    assert str(result.target) == "params=100k"
    assert result.after.cost.params <= 100_000


def test_a_size_is_that_of_the_file(tmp_path: Path) -> None:
    model = Path(__file__).parent.parent / "models" / "fashion_resnet20.onnx"
    result = tg.prune(model, target="size=500kB")
    assert result.target_met
    assert 490_000 < result.after.file_bytes < 501_000
    result.save(tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size == result.after.file_bytes


def test_paths_masks_and_bools_are_taken_where_objects_are(path: str) -> None:
    model = tg.load(path)
    coupling = tg.analyze(path)
    assert tg.load(model) is model
    mask = tg.select(path, 0.5)
    mask.save("k.json")
    pruned = tg.apply(path, "k.json").SerializeToString()
    for anything in (path, Path(path), model, coupling, network(), network().SerializeToString()):
        assert tg.apply(anything, mask).SerializeToString() == pruned
    assert tg.apply(model, Path("k.json")).SerializeToString() == pruned
    assert tg.apply(model, mask.open).SerializeToString() == pruned
    assert tg.apply(model, mask.open.tolist()).SerializeToString() == pruned
    onnx.save(tg.gate(path, mask.open), "gated.onnx")
    onnx.save(tg.apply(path, mask), "pruned.onnx")
    assert tg.verify("gated.onnx", Path("pruned.onnx")).ok
    assert tg.verify(model, path).ok


@pytest.mark.parametrize("call", [
    lambda: tg.prune(None), lambda: tg.prune(network(), target="..."), lambda: tg.prune(network(), 5),
    lambda: tg.verify(1, 2), lambda: tg.verify(network(), network(), rtol=-1), lambda: tg.load(3.5),
    lambda: tg.verify(network(), network(), seed=-1), lambda: tg.analyze("none.onnx"), lambda: tg.analyze([]),
    lambda: tg.analyze(network(), "head"), lambda: tg.analyze(network(), []), lambda: tg.gate(network(), None),
    lambda: tg.apply(network(), "none.json"), lambda: tg.apply(network(), [1, 0]),
    lambda: tg.apply(network(), [True]), lambda: tg.apply(network(), [[True], [True, False]]),
    lambda: tg.select(None, 0.5), lambda: tg.select(network(), []), lambda: tg.select(network(), {}),
    lambda: tg.Target(), lambda: tg.Target(flops=0.5, params=0.5), lambda: tg.Target(speed=0.5),
    lambda: tg.select(network(), 0.5, criterion="l3"), lambda: tg.select(network(), 0.5, bounds={}),
    lambda: tg.load(network(), 5), lambda: tg.verify(network(), network(), feeds=5), lambda: tg.data.npz(5),
    lambda: tg.verify(network(), network(), sizes=3), lambda: tg.data.arrays(5), lambda: tg.data.folder(None),
    lambda: tg.prune(network()).save(3), lambda: tg.select(network(), 0.5).save(None), lambda: tg.Mask.load(3),
    lambda: tg.Mask.of(tg.analyze(network()), "abc"), lambda: tg.analyze(network(), attention=None),
    lambda: tg.select(network(), 0.5).save("none/mask.json"), lambda: tg.prune(""), lambda: tg.Target(flops=True),
])  # fmt: skip
def test_what_a_caller_does_wrong_is_an_error_of_ours(call: Any) -> None:
    with pytest.raises(tg.TgonnxError) as error:
        call()
    assert "\n" not in str(error.value)
