"""n of every m neighbours along the input axis of each weight stay: by magnitude and by gates, exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from branchy_models import made
from independent import axes_of, compare
from onnx import numpy_helper
from random_graphs import random_model
from small_task import network, samples
from zoo.pack import HERE, SUFFIX, unpack

import tgonnx as tg
from tgonnx.cli import main
from tgonnx.errors import BoundsError, OptionError
from tgonnx.passes.gate_weights import gate_weights
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.pipeline import learning

Array = np.ndarray[Any, Any]
MODELS = {  # and the axis of each weight along which inputs lie, with how many there are to a group of outputs
    "convolution": (
        "(float[N,12,6,6] x) => (float[N,5,4,4] y)",
        "y = Conv(x, w)",
        {"w": (5, 12, 3, 3)},
        {"w": (1, 12)},
    ),
    "in groups": (
        "(float[N,12,6,6] x) => (float[N,6,4,4] y)",
        "y = Conv<group = 2>(x, w)",
        {"w": (6, 6, 3, 3)},
        {"w": (1, 6)},
    ),
    "transposed": (
        "(float[N,12,6,6] x) => (float[N,6,8,8] y)",
        "y = ConvTranspose<group = 2>(x, w)",
        {"w": (12, 3, 3, 3)},
        {"w": (0, 6)},
    ),
    "Gemm": ("(float[N,12] x) => (float[N,5] y)", "y = Gemm(x, w)", {"w": (12, 5)}, {"w": (0, 12)}),
    "turned Gemm": (
        "(float[N,12] x) => (float[N,5] y)",
        "y = Gemm<transB = 1>(x, w)",
        {"w": (5, 12)},
        {"w": (1, 12)},
    ),
    "turned on the way": (
        "(float[N,12] x) => (float[N,5] y)",
        "t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)",
        {"w": (5, 12)},
        {"w": (1, 12)},
    ),
    "matrices": (
        "(float[N,3,7,12] x) => (float[N,3,7,5] y)",
        "y = MatMul(x, w)",
        {"w": (3, 12, 5)},
        {"w": (1, 12)},
    ),
    "recurrent": (
        "(float[T,N,12] x) => (float[T,1,N,4] y)",
        "y = GRU<hidden_size = 4, linear_before_reset = 1>(x, w, r)",
        {"w": (1, 12, 12), "r": (1, 12, 4)},
        {"w": (2, 12), "r": (2, 4)},
    ),
}


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def by_hand(weight: Array, axis: int, channels: int, kept: int, of: int) -> Array:
    """The weight with the n largest of every m, one element after the other."""
    rows = np.moveaxis(weight, axis, -1).copy()
    shape = rows.shape
    flat = rows.reshape(-1, shape[-1])
    for row in flat:
        for begin in range(0, len(row), channels):
            for start in range(begin, begin + channels, of):
                group = row[start : min(start + of, begin + channels)]
                for place in np.argsort(-np.abs(group), kind="stable")[kept:]:
                    group[place] = 0
    return np.moveaxis(flat.reshape(shape), -1, axis)


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (1, 4), (3, 5), (1, 16)])
@pytest.mark.parametrize("name", MODELS)
def test_the_largest_of_every_few_stay(name: str, kept: int, of: int) -> None:
    """Along the axis that an output is summed over, channels of a group of a convolution apart."""
    signature, body, shapes, axes = MODELS[name]
    model = made(signature, body, shapes)
    mask = tg.select(model, granularity="weight", nm=f"{kept}:{of}")
    found, whole = stored(tg.apply(model, mask)), stored(model)
    for weight, (axis, channels) in axes.items():
        np.testing.assert_array_equal(found[weight], by_hand(whole[weight], axis, channels, kept, of))
        assert (found[weight] == 0).any() == (kept < channels)


def held(model: onnx.ModelProto, kept: int, of: int, seed: int) -> tuple[list[str], int]:
    """What is wrong with a model of which n of every m stay, beside the original and the gated one."""
    coupling = tg.analyze(tg.load(model))
    try:
        mask = tg.select(coupling, granularity="weight", nm=f"{kept}:{of}", criterion="random", seed=seed)
    except BoundsError:
        return [], 0
    pruned = apply(coupling, mask)
    values, weights = stored(pruned), coupling.model.single_weights
    left = sum(int(mask.weights[n].sum()) if n in mask.weights else size for n, size in weights.items())
    wanted = mask.counted(coupling).cost_model.ratio(mask.open, "nonzeros")
    assert left / sum(weights.values()) == pytest.approx(wanted)
    for name, part in mask.weights.items():
        assert not values[name][~part].any()
    models = {
        "original": model,
        "all gates open": gate_weights(coupling.model.proto, coupling, {}),
        "gated": gate(coupling, mask),
        "pruned": pruned,
    }
    return compare(models, [dict.fromkeys(axes_of(model), 2)], seed)


@pytest.mark.parametrize("seed", range(6))
def test_gated_is_pruned_on_random_graphs(seed: int) -> None:
    assert held(random_model(seed, 17, 5), 2, 4, seed)[0] == []


@pytest.mark.parametrize(
    "packed", sorted(HERE.glob(f"*{SUFFIX}")), ids=lambda path: path.name.removesuffix(SUFFIX)
)
def test_gated_is_pruned_on_real_graphs(packed: Path) -> None:
    assert held(unpack(packed), 2, 4, 0) == ([], 1)


@pytest.mark.parametrize("criterion", ["l1", "gates"])
def test_patterns_stay_while_the_model_trains_on(criterion: str) -> None:
    trained = tg.tune(network(), samples(), from_scratch=True, epochs=12, lr=1e-2, batch=32, threads=1)
    result = tg.prune(
        trained.model, samples(), granularity="weight", nm="2:4", criterion=criterion, epochs=12, batch=32, lr=5e-3,
        threads=1,
    )  # fmt: skip
    assert result.check.ok
    assert result.target_met
    found = stored(result.model)
    assert (np.count_nonzero(found["w2"].reshape(8, 2, 4, 9), axis=2) <= 2).all()
    assert (np.count_nonzero(found["w3"].reshape(6, 2, 4, 1), axis=2) <= 2).all()
    assert np.count_nonzero(found["w2"]) > 0.49 * found["w2"].size
    assert found["w1"].all()  # of two channels, both stay
    magnitude = tg.select(trained.model, granularity="weight", nm="2:4")
    same = all(np.array_equal(part, magnitude.weights[n]) for n, part in result.mask.weights.items())
    assert same == (criterion == "l1")
    assert result.before.metric is not None
    assert result.after.metric is not None
    assert result.after.metric >= result.before.metric - 0.1


def test_bounds_hold_for_patterns() -> None:
    assert set(tg.select(network(), granularity="weight", nm="2:4").weights) == {"w2", "w3", "w4"}
    assert set(tg.select(network(), granularity="weight", nm="2:4", freeze="w3").weights) == {"w2", "w4"}
    assert set(tg.select(network(), granularity="weight", nm="2:4", only="w3").weights) == {"w3"}
    with pytest.raises(BoundsError, match="nm 2:4 leaves nothing to cut"):
        tg.select(network(), granularity="weight", nm="2:4", only="w1")


def test_what_does_not_go_with_a_pattern_is_refused() -> None:
    how: dict[str, Any] = {"granularity": "weight", "nm": "2:4"}
    with pytest.raises(OptionError, match="nm 2:4 is of single weights: it needs granularity weight"):
        tg.prune(network(), nm="2:4")
    with pytest.raises(OptionError, match=r"leave out target nonzeros=0\.3"):
        tg.prune(network(), None, "nonzeros=0.3", **how)
    with pytest.raises(OptionError, match=r"leave out target flops=0\.5"):
        tg.select(network(), "flops=0.5", **how)
    with pytest.raises(OptionError, match="max_drop does not go with it"):
        tg.prune(network(), samples(), max_drop=0.5, **how)
    with pytest.raises(OptionError, match="max_cut does not go with nm"):
        tg.prune(network(), max_cut={"w2": 0.5}, **how)
    with pytest.raises(OptionError, match="leave out target"):
        tg.sweep(network(), None, ["nonzeros=0.5", "nonzeros=0.3"], **how)
    share = tg.prune(network(), **how).achieved
    assert tg.prune(network(), None, {"nonzeros": share}, **how).achieved == share  # the same twice


def test_the_command_line_knows_patterns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, mask, out = (str(tmp_path / name) for name in ("model.onnx", "mask.json", "small.onnx"))
    onnx.save(network(), model)
    how = ["--granularity", "weight", "--nm", "2:4"]
    assert main(["mask", model, "-o", mask, *how]) == 0
    assert main(["apply", model, "--mask", mask, "-o", out]) == 0
    again = str(tmp_path / "again.onnx")
    capsys.readouterr()
    assert main(["prune", model, "-o", again, *how, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {layer["weight"]: layer["kept"] / layer["of"] for layer in told["nonzeros"]["layers"]} == {
        "w2": 0.5,
        "w3": 0.5,
        "w4": pytest.approx(2 / 3),
    }
    assert onnx.load(out).graph == onnx.load(again).graph
    assert main(["prune", model, "-o", again, "--overwrite", "--nm", "2:4"]) == 2
    assert "--nm 2:4 is of single weights" in capsys.readouterr().err
    assert main(["mask", model, "-o", mask, "--overwrite", *how, "--target", "nonzeros=0.1"]) == 2
    assert "--nm 2:4 says how many weights stay" in capsys.readouterr().err


def test_an_interrupted_run_of_a_pattern_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the folder says of the pattern is enough, though no target was given."""
    model, data, run = (str(tmp_path / name) for name in ("model.onnx", "data.npz", "run"))
    onnx.save(network(), model)
    np.savez(data, **samples(120))
    how = ["--granularity", "weight", "--nm", "2:4", "--epochs", "2", "--threads", "1", "--force"]
    outs = [str(tmp_path / name) for name in ("whole.onnx", "parts.onnx")]
    assert main(["prune", model, "--data", data, "-o", outs[0], "--no-run-dir", *how]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(learning, "fine_tune", _interrupted)
        assert main(["prune", model, "--data", data, "-o", outs[1], "--run-dir", run, *how]) == 130
    assert main(["prune", "--resume", run]) == 0
    assert Path(outs[0]).read_bytes() == Path(outs[1]).read_bytes()
    capsys.readouterr()


def _interrupted(*_: Any) -> onnx.ModelProto:
    raise KeyboardInterrupt
