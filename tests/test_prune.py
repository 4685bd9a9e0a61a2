"""The whole pipeline through the public API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from small_task import network, samples

import tgonnx as tg
from tgonnx.pipeline import PruneResult, embed, learning
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.progress import Journal
from tgonnx.training.recipe import Settings

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    from test_training import task_for

    model = network()
    return fine_tune(model, task_for(model), 150, Settings(lr=1e-2, batch=32, threads=1), Journal())


@pytest.fixture(scope="module")
def pruned(trained: onnx.ModelProto) -> PruneResult:
    how = {"criterion": "gates", "epochs": 15, "batch": 32, "lr": 1e-2, "threads": 1}
    return tg.prune(trained, samples(), tg.Target(flops=0.5), **how)


def test_pruning_halves_the_cost_and_keeps_the_accuracy(pruned: PruneResult) -> None:
    assert pruned.target_met
    assert pruned.achieved <= 0.5
    assert pruned.metric_name == "accuracy"
    assert pruned.before.metric is not None
    assert pruned.after.metric is not None
    assert pruned.after.metric >= pruned.before.metric - 0.1
    assert pruned.after.cost.flops / pruned.before.cost.flops == pytest.approx(pruned.achieved)
    assert pruned.after.file_bytes < pruned.before.file_bytes
    assert pruned.check.ok
    assert pruned.check.max_rel < 1e-4


def test_the_result_is_an_ordinary_model(
    pruned: PruneResult, trained: onnx.ModelProto, tmp_path: Path
) -> None:
    pruned.save(tmp_path / "small.onnx")
    model = onnx.load(tmp_path / "small.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [v.name for v in model.graph.input] == ["x"]
    assert not model.functions
    again = tg.CostModel(tg.analyze(tg.load(model))).cost()
    assert again == pruned.after.cost
    with pytest.raises(tg.UsageError, match="exists"):
        pruned.save(tmp_path / "small.onnx")
    pruned.save(tmp_path / "small.onnx", overwrite=True)


def test_history_has_the_three_phases(pruned: PruneResult) -> None:
    phases = [record.phase for record in pruned.history]
    assert list(dict.fromkeys(phases)) == ["search", "commit", "fine-tune"]


def test_a_run_is_determined_by_its_seed(trained: onnx.ModelProto) -> None:
    runs = [tg.prune(trained, samples(), epochs=2, batch=32, threads=1, seed=3) for _ in range(2)]
    assert runs[0].model.SerializeToString() == runs[1].model.SerializeToString()


def test_frozen_weights_are_the_original_s(trained: onnx.ModelProto) -> None:
    how = {"epochs": 3, "weights": "frozen", "threads": 1, "compensate": False}
    result = tg.prune(trained, samples(), tg.Target(params=0.6), **how)
    assert result.target_met
    coupling = tg.analyze(tg.load(trained))
    whole = {t.name: numpy_helper.to_array(t) for t in trained.graph.initializer}
    kept = np.append(result.mask.open, True)
    for tensor in result.model.graph.initializer:
        if tensor.name in ("mean", "var"):
            continue
        axes = [np.flatnonzero(kept[coupling.unit_of[a]]) for a in coupling.labelling.axes[tensor.name]]
        assert np.array_equal(numpy_helper.to_array(tensor), whole[tensor.name][np.ix_(*axes)])
    assert "fine-tune" not in {record.phase for record in result.history}


def test_without_data_nothing_is_claimed(trained: onnx.ModelProto) -> None:
    result = tg.prune(trained, target=tg.Target(flops=0.5))
    assert result.target_met
    assert result.after.metric is None
    assert any("not measured" in note for note in result.notes)
    assert result.check.ok


def test_an_impossible_target_gives_the_least_and_says_so(trained: onnx.ModelProto) -> None:
    result = tg.prune(trained, target=tg.Target(flops=0.01))
    assert not result.target_met
    assert any("not met" in note for note in result.notes)


def test_a_result_that_is_refused_is_kept_and_need_not_be_trained_again(
    trained: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise tg.VerificationError("m.onnx: verification is inconclusive")

    folder = tmp_path / "run"
    how: dict[str, Any] = {"epochs": 2, "batch": 32, "lr": 1e-2, "threads": 1}
    expected = tg.prune(trained, samples(), 0.5, **how)
    with monkeypatch.context() as broken:
        broken.setattr(learning, "verified", refuse)
        with pytest.raises(tg.VerificationError) as refused:
            tg.prune(trained, samples(), 0.5, run_dir=str(folder), **how)
    last = sorted((folder / "checkpoints").glob("2-fine-tune-*.safetensors"))[-1]
    assert str(refused.value) == (
        f"m.onnx: verification is inconclusive; what was trained is kept in {last}; "
        f"resume={str(folder)!r} does not train it again"
    )
    steps: list[int] = []
    result = tg.prune(
        trained, samples(), 0.5, resume=str(folder), progress=lambda at: steps.append(at.step), **how
    )
    assert steps == []
    assert result.model.SerializeToString() == expected.model.SerializeToString()


def test_options_reach_the_mask(trained: onnx.ModelProto) -> None:
    result = tg.prune(
        trained,
        samples(),
        tg.Target(flops=0.6),
        epochs=2,
        threads=1,
        round_to=2,
        min_channels=4,
        freeze=("w4*",),
    )
    coupling = tg.analyze(tg.load(trained))
    for group in coupling.groups:
        kept = int(result.mask.open[group.units].sum())
        assert kept % 2 == 0
        assert kept >= 4
        if any(member.value == "w4" for member in group.members):
            assert kept in (group.size,)


def test_distillation_without_labels(trained: onnx.ModelProto) -> None:
    data = samples()
    del data["label"]
    result = tg.prune(trained, data, epochs=4, batch=32, threads=1, lr=5e-3)
    assert result.metric_name == "R2"
    assert result.before.metric == pytest.approx(1.0, abs=1e-9)
    assert result.after.metric is not None
    assert 0.5 < result.after.metric < 1.0


def test_a_model_of_fixed_batch_trains_on_larger_ones() -> None:
    model = network(batch="1")
    result = tg.prune(model, samples(), epochs=1, batch=32, threads=1, from_scratch=True)
    assert result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert result.check.ok
    assert result.before.metric is not None


def test_a_quantised_model_is_not_trained() -> None:
    step = "step = Constant <value_float = 0.1> () zero = Constant <value = int8 {0}> ()"
    model = network(f"{step} q = QuantizeLinear(s, step, zero) y = DequantizeLinear(q, step, zero)")
    with pytest.raises(tg.UnsupportedError, match=r"\(QuantizeLinear\).* before it is quantised"):
        tg.prune(model, samples(40), from_scratch=True)
    assert tg.prune(model, target=tg.Target(flops=0.6)).target_met


def test_nothing_to_prune_is_said() -> None:
    body = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 4] x) => (float[N, 2] y) <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = MatMul(x, w) }"""
    with pytest.raises(tg.UnsupportedError, match="nothing can be pruned"):
        tg.prune(parser.parse_model(body))


@pytest.mark.parametrize("options", [{"weights": "thawed"}, {"epochs": 0}, {"batch": 0}, {"loss": "hinge"}])
def test_wrong_options_are_named(trained: onnx.ModelProto, options: dict[str, Any]) -> None:
    with pytest.raises(tg.UsageError):
        tg.prune(trained, samples(40), **options)


def test_gate_and_apply_agree(trained: onnx.ModelProto) -> None:
    model = tg.load(trained)
    coupling = tg.analyze(model)
    mask = tg.select(coupling, target=tg.Target(flops=0.5), criterion="random", seed=1)
    assert tg.verify(tg.gate(model, mask), tg.apply(model, mask)).ok


def test_embedding_restores_the_pruned_weights(trained: onnx.ModelProto) -> None:
    model = tg.load(trained)
    coupling = tg.analyze(model)
    mask = tg.select(coupling, target=tg.Target(flops=0.5), criterion="random", seed=1)
    small = tg.apply(model, mask)
    other = onnx.ModelProto()
    other.CopyFrom(small)
    for tensor in other.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
    whole = embed(model.proto, other, coupling, mask)
    cut = tg.passes.remove_channels.remove_channels(whole, coupling, mask)
    for a, b in zip(cut.graph.initializer, other.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


@pytest.mark.parametrize(("engine", "gradient"), [("portable", "sigmoid"), ("auto", "tanh")])
def test_engines_and_gradient_shapes(trained: onnx.ModelProto, engine: Any, gradient: Any) -> None:
    result = tg.prune(
        trained, samples(), epochs=10, batch=32, lr=1e-2, threads=1, engine=engine, gradient=gradient
    )
    assert result.target_met
    assert result.check.ok
    assert result.after.metric is not None
    assert result.after.metric > 0.8


def test_a_model_that_ends_in_an_unknown_operator_is_trained_up_to_there() -> None:
    """The operator, what follows it, and the values and weights that are read there stay as they were."""
    model = network("p = Softmax(s) y = Identity(p)")
    del model.graph.node[-1]
    make = onnx.helper.make_node
    model.graph.node.extend(
        [
            make("EfficientNMS_TRT", ["s", "p", "w4"], ["count", "boxes"], domain="TRT"),
            make("Cast", ["count"], ["t"], to=1),
            make("Mul", ["t", "p"], ["y"]),
        ]
    )
    model.opset_import.append(onnx.helper.make_opsetid("TRT", 1))
    data = samples(40)
    del data["label"]
    result = tg.prune(model, data, target=tg.Target(params=0.6), epochs=3, batch=16, threads=1)
    assert result.target_met
    assert result.check.ok
    assert result.check.up_to == ("EfficientNMS_TRT (TRT)",)
    assert result.model.graph.output == model.graph.output
    assert [node.op_type for node in result.model.graph.node] == [node.op_type for node in model.graph.node]
    weights = {tensor.name: tensor for tensor in result.model.graph.initializer}
    operator = next(node for node in result.model.graph.node if node.domain == "TRT")
    there = {tensor.name: tensor for tensor in model.graph.initializer}
    assert weights[operator.input[2]].dims == there["w4"].dims
    assert weights[operator.input[2]].raw_data == there["w4"].raw_data
    onnx.checker.check_model(result.model)
