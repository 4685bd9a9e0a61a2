"""Single weights become zero: by magnitude and by gates, exactly, and stay so while the model trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from branchy_models import BRANCHY, made
from fuzz_damage import damage_json, damaged_bytes
from independent import axes_of, compare
from onnx import numpy_helper
from random_graphs import random_model
from small_task import network, samples
from zoo.pack import HERE, SUFFIX, unpack

import tgonnx as tg
from tgonnx.analysis.coupling import Coupling
from tgonnx.cli import main
from tgonnx.errors import OptionError, TargetError, UsageError
from tgonnx.passes.gate_families import WEIGHTS
from tgonnx.passes.gate_weights import WEIGHT_GATES, gate_weights
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.budget import random_mask

Array = np.ndarray[Any, Any]


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def random_weights(coupling: Coupling, keep: float, seed: int = 0) -> tg.Mask:
    rng, tensors = np.random.default_rng(seed), coupling.model.initializers
    parts = {name: rng.random(tuple(tensors[name].dims)) < keep for name in coupling.model.single_weights}
    return tg.Mask.all_open(coupling).thinned(parts)


def test_kernels_and_matrices_are_gated_and_nothing_else() -> None:
    assert set(tg.load(network()).single_weights) == {"w1", "w2", "w3", "w4"}
    assert set(tg.load(BRANCHY["pre_norm"][0]()).single_weights) == {"wq", "wk", "wv", "wo", "w1", "w2"}


def test_magnitude_keeps_the_largest_of_all() -> None:
    """Sorted by hand: what is kept is the largest tenth, but for the largest of each weight, which stays."""
    model = network()
    mask = tg.select(model, "nonzeros=0.1", "l1", granularity="weight")
    found, whole = stored(apply(tg.analyze(tg.load(model)), mask)), stored(model)
    names = ["w1", "w2", "w3", "w4"]
    everything = np.sort(np.concatenate([np.abs(whole[name]).ravel() for name in names]))[::-1]
    count = int(0.1 * len(everything))
    threshold = everything[count]
    assert sum(int((found[name] != 0).sum()) for name in names) == count
    for name in names:
        kept = found[name] != 0
        np.testing.assert_array_equal(found[name][kept], whole[name][kept])
        assert np.abs(whole[name][~kept]).max() <= everything[count - 5]
        assert (np.abs(whole[name][kept]) > threshold).sum() >= kept.sum() - 1
        assert kept.any()
    for name in whole.keys() - {*names}:
        np.testing.assert_array_equal(found[name], whole[name])


def test_the_cost_is_what_is_not_zero() -> None:
    model = network()
    coupling = tg.analyze(tg.load(model))
    mask = random_weights(coupling, 0.3)
    counted = mask.counted(coupling).cost_model
    pruned = stored(apply(coupling, mask))
    left = sum(int(np.count_nonzero(pruned[name])) for name in coupling.model.single_weights)
    everything = np.ones(coupling.units, bool)
    assert counted.count("nonzeros", counted.open_counts(everything)) == pytest.approx(left)
    assert counted.ratio(everything, "nonzeros") == pytest.approx(
        left / coupling.cost_model.total("nonzeros")
    )
    assert counted.cost() == coupling.cost_model.cost()  # zeros are stored and multiplied as before


@pytest.mark.parametrize("seed", range(8))
def test_gated_is_pruned_on_random_graphs(seed: int) -> None:
    model = random_model(seed, 17, 5)
    coupling = tg.analyze(tg.load(model))
    mask = random_weights(coupling, 0.5, seed)
    models = {
        "original": model,
        "all gates open": gate_weights(coupling.model.proto, coupling, {}),
        "gated": gate(coupling, mask),
        "pruned": apply(coupling, mask),
    }
    faults, looked = compare(models, [dict.fromkeys(axes_of(model), 9)], seed)
    assert faults == []
    assert looked or seed  # sequence models may not run at this size


@pytest.mark.parametrize(
    "packed", sorted(HERE.glob(f"*{SUFFIX}")), ids=lambda path: path.name.removesuffix(SUFFIX)
)
def test_gated_is_pruned_on_real_graphs(packed: Path) -> None:
    model = unpack(packed)
    coupling = tg.analyze(tg.load(model))
    mask = random_weights(coupling, 0.5)
    assert mask.weights
    pruned = apply(coupling, mask)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(pruned, strict_mode=True), full_check=True)
    opened = gate_weights(coupling.model.proto, coupling, {})
    models = {"original": model, "all gates open": opened, "gated": gate(coupling, mask), "pruned": pruned}
    assert compare(models, [dict.fromkeys(axes_of(model), 2)]) == ([], 1)


def test_mask_files_know_weights(tmp_path: Path) -> None:
    coupling = tg.analyze(tg.load(network()))
    mask = random_weights(coupling, 0.4)
    mask.save(tmp_path / "mask.json")
    read = tg.Mask.load(tmp_path / "mask.json")
    assert read.weights.keys() == mask.weights.keys()
    for name, part in mask.weights.items():
        np.testing.assert_array_equal(read.weights[name], part)
    assert tg.apply(network(), read).graph == apply(coupling, mask).graph
    assert "zeros" in str(read.summary())
    document = json.loads((tmp_path / "mask.json").read_text())
    assert document["format"] == "tgonnx-mask-4"
    for key, value, why in (
        ("bits", "AAAA", "not a mask file"),
        ("shape", [2, 2], "are not 4"),
        ("shape", [10**6, 10**6], "more than"),
    ):
        damaged = json.loads(json.dumps(document))
        damaged["weights"]["w1"][key] = value
        (tmp_path / "wrong.json").write_text(json.dumps(damaged))
        with pytest.raises(UsageError, match=why):
            tg.Mask.load(tmp_path / "wrong.json")
    document["weights"]["w9"] = document["weights"].pop("w1")
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="the mask keeps elements of 'w9'"):
        tg.apply(network(), tmp_path / "wrong.json")


@pytest.mark.parametrize("closed", ["branches", "weights"])
def test_a_damaged_mask_file_is_refused_in_one_line(closed: str, tmp_path: Path) -> None:
    """Or it is read, and then it is of the model."""
    coupling, rng = tg.analyze(tg.load(BRANCHY["nested"][0]())), np.random.default_rng(0)
    mask = random_weights(coupling, 0.5) if closed == "weights" else random_mask(coupling.closing(["b"]), 0.6)
    path, said = tmp_path / "mask.json", list[str]()
    mask.save(path)
    text = path.read_text()
    for number in range(300):
        damaged = damaged_bytes(text.encode(), rng) if number % 3 == 0 else damage_json(text, rng).encode()
        path.write_bytes(damaged)
        try:
            tg.Mask.load(path).check(coupling)
        except UsageError as error:
            said.append(str(error))
    assert len(said) > 150
    assert all(message.startswith(str(path)) and "\n" not in message for message in said)


def test_weights_go_alone() -> None:
    coupling = tg.analyze(tg.load(network()))
    both = random_mask(coupling, 0.5).thinned(random_weights(coupling, 0.5).weights)
    with pytest.raises(UsageError, match="single weights to zero and cuts channels or branches, too"):
        apply(coupling, both)


def test_bounds_hold_for_single_weights() -> None:
    model = network()
    sizes = {name: array.size for name, array in stored(model).items()}
    kept = {
        "freeze": tg.select(model, "nonzeros=0.6", granularity="weight", freeze="w1"),
        "only": tg.select(model, "nonzeros=0.6", granularity="weight", only="w2"),
        "max_cut": tg.select(model, "nonzeros=0.6", granularity="weight", max_cut={"w1": 0.25}),
    }
    assert "w1" not in kept["freeze"].weights
    assert set(kept["only"].weights) == {"w2"}
    assert int(kept["max_cut"].weights["w1"].sum()) >= 0.75 * sizes["w1"]
    with pytest.raises(OptionError, match="freeze 'w9' matches no kernel or matrix"):
        tg.select(model, "nonzeros=0.6", granularity="weight", freeze="w9")
    with pytest.raises(TargetError, match="must stay"):
        tg.select(model, "nonzeros=0.01", granularity="weight", freeze="w2")


def test_what_does_not_go_with_single_weights_is_refused() -> None:
    with pytest.raises(OptionError, match="granularity 'weight' needs a target of nonzeros"):
        tg.prune(network(), None, "flops=0.5", granularity="weight")
    with pytest.raises(OptionError, match="'obs' does not rank single weights; there are l1, l2, random"):
        tg.prune(network(), samples(60), "nonzeros=0.5", granularity="weight", criterion="obs")
    with pytest.raises(OptionError, match="weight"):
        tg.Bounds(granularity="weight,block")


@pytest.mark.parametrize("criterion", ["l1", "gates"])
def test_zeros_stay_zero_while_the_model_trains_on(criterion: str) -> None:
    trained = tg.tune(network(), samples(), from_scratch=True, epochs=12, lr=1e-2, batch=32, threads=1)
    result = tg.prune(
        trained.model, samples(), "nonzeros=0.2", granularity="weight", criterion=criterion, epochs=12, batch=32,
        lr=5e-3, threads=1,
    )  # fmt: skip
    assert result.check.ok
    found = stored(result.model)
    left = sum(int(np.count_nonzero(found[name])) for name in ("w1", "w2", "w3", "w4"))
    total = sum(found[name].size for name in ("w1", "w2", "w3", "w4"))
    assert left <= 0.2 * total
    assert left > 0.18 * total
    for name, part in result.mask.weights.items():
        assert not found[name][~part].any()
    assert result.target_met
    assert result.before.metric is not None
    assert result.after.metric is not None
    assert result.after.metric >= result.before.metric - 0.1
    before = stored(trained.model)
    assert any((found[n][p] != before[n][p]).any() for n, p in result.mask.weights.items())  # it did train


def test_gates_find_the_weights_that_matter() -> None:
    """Large weights of an input that the answer does not depend on go; small ones of another stay."""
    model = made("(float[N,8] x) => (float[N,4] y)", "y = MatMul(x, w)", {"w": (8, 4)})
    (tensor,) = model.graph.initializer
    values = numpy_helper.to_array(tensor).copy()
    values[4:] = 3 * np.sign(values[4:])
    tensor.CopyFrom(numpy_helper.from_array(values, "w"))
    x = np.random.default_rng(0).normal(size=(800, 8)).astype(np.float32)
    x[:, 4:] *= 1e-2  # which hardly vary
    arrays = {"x": x, "target_y": open_session(model).run({"x": x})["y"]}
    how: dict[str, Any] = {
        "granularity": "weight",
        "epochs": 20,
        "batch": 32,
        "weights": "frozen",
        "threads": 1,
    }
    learned = tg.prune(model, arrays, "nonzeros=0.5", criterion="gates", **how)
    by_size = tg.prune(model, arrays, "nonzeros=0.5", criterion="l1", **how)
    kept = learned.mask.weights["w"]
    assert kept[:4].sum() > 3 * kept[4:].sum()
    assert not by_size.mask.weights["w"][:4].any()
    assert learned.after.metric is not None
    assert by_size.after.metric is not None
    assert learned.after.metric < 0.05 * by_size.after.metric


def test_the_vector_has_a_gate_for_each_element() -> None:
    coupling = tg.analyze(tg.load(network()))
    gated = WEIGHTS.insert(coupling.model.proto, coupling, None)
    (vector,) = (value for value in gated.graph.input if value.name == WEIGHT_GATES)
    assert (
        vector.type.tensor_type.shape.dim[0].dim_value == WEIGHTS.count(coupling) == 16 * 9 + 64 * 9 + 48 + 18
    )


def test_the_command_line_knows_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, mask, out = (str(tmp_path / name) for name in ("model.onnx", "mask.json", "small.onnx"))
    onnx.save(network(), model)
    assert main(["mask", model, "-o", mask, "--granularity", "weight", "--target", "nonzeros=0.1"]) == 0
    assert main(["apply", model, "--mask", mask, "-o", out]) == 0
    capsys.readouterr()
    again = str(tmp_path / "again.onnx")
    how = ["--granularity", "weight", "--target", "nonzeros=0.1", "--json"]
    assert main(["prune", model, "-o", again, *how]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["achieved"] <= 0.1
    assert sum(layer["kept"] for layer in told["nonzeros"]["layers"]) == 78
    assert told["nonzeros"]["compressed_bytes"] < Path(model).stat().st_size
    assert onnx.load(out).graph == onnx.load(again).graph


def test_a_file_says_that_it_was_cut_whatever_went() -> None:
    """Branches alone, and single weights alone: all units being open, they are cut files, too."""
    coupling = tg.analyze(tg.load(BRANCHY["nested"][0]()))
    for mask in (tg.Mask.all_open(coupling.closing(["b"])), random_weights(coupling, 0.5)):
        keys = {entry.key for entry in tg.apply(coupling, mask).metadata_props}
        assert "tgonnx.mask" in keys
    assert not tg.apply(coupling, tg.Mask.all_open(coupling)).metadata_props
