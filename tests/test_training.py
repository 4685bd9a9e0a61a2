"""The phases of training: what moves, what stays, and what stops them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from small_task import network, samples

from tgonnx.analysis.cost import Target
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.solver import analyze
from tgonnx.data.sources import arrays, open_dataset
from tgonnx.graph.proto import with_values
from tgonnx.loading import load
from tgonnx.losses.fit import validate
from tgonnx.losses.metric import Metric
from tgonnx.selection.bounds import Bounds
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.loop import Diverged
from tgonnx.training.progress import Journal, Progress
from tgonnx.training.recipe import Settings
from tgonnx.training.schedule import COSINE, SCHEDULES, searching
from tgonnx.training.search import lift, search, search_floors
from tgonnx.training.statistics import refresh_statistics
from tgonnx.training.task import Task, Teacher

Array = np.ndarray[Any, Any]
FAST = Settings(lr=1e-2, gate_lr=0.05, batch=32, threads=1)


def task_for(
    model: onnx.ModelProto, data: dict[str, Array] | None = None, loss: str = "auto", imitation: float = 0.0
) -> Task:
    dataset = open_dataset(arrays(samples() if data is None else data), model)
    fit = validate(dataset, model, loss)
    metric = None if dataset.held_out is None else Metric(fit, dataset.held_out, model)
    return Task(dataset.train, fit, Teacher(model, fit, 1, imitation), metric)


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    model = network()
    return fine_tune(model, task_for(model), 150, FAST, Journal())


@pytest.fixture(scope="module")
def coupling(trained: onnx.ModelProto) -> Coupling:
    return analyze(load(trained))


def test_fine_tuning_learns_and_keeps_running_averages(trained: onnx.ModelProto) -> None:
    metric = task_for(network()).metric
    assert metric is not None
    assert metric(trained) > 0.85 > metric(network())
    before, after = stored(network()), stored(trained)
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    assert (after["var"] > 0).all()


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "clip": 1.0}], ids=str)
def test_batches_of_several_sizes_train_one_network(changes: dict[str, Any]) -> None:
    """A 1 x 1 convolution learns which of three channels is the largest, from images of two sizes."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (float[N,3,H,W] x) => (float[N,3,H,W] y)
        { h = Conv (x, w) n = BatchNormalization (h, s, b, m, v) y = Conv (n, u) }"""
    )
    rng = np.random.default_rng(0)
    first = {name: rng.standard_normal((3, 3, 1, 1)) for name in "wu"}
    first |= {"b": np.zeros(3), "m": np.zeros(3), "s": np.ones(3), "v": np.ones(3)}
    for name, array in first.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    images = [rng.random((16, 3, 4, 4 + 2 * (index % 2)), np.float32) for index in range(12)]
    dataset = open_dataset([(image, image.argmax(1)) for image in images], model)
    fit = validate(dataset, model)
    assert dataset.held_out
    task = Task(dataset.train, fit, Teacher(model, fit, 1, 0.0), Metric(fit, dataset.held_out, model))
    assert task.metric
    recipe = replace(FAST, lr=0.05, **changes)
    trained = fine_tune(model, task, 80, recipe, Journal())
    assert task.metric(refresh_statistics(trained, task, recipe)) > 0.9 > task.metric(model)


def test_search_lands_near_the_target(trained: onnx.ModelProto, coupling: Coupling) -> None:
    journal = Journal()
    found = search(coupling, task_for(trained), Target(flops=0.5), 150, FAST, journal)
    assert found.cost == pytest.approx(0.5, abs=0.13)  # one channel of eight is more than a tenth
    assert found.scores.shape == (coupling.units,)
    assert {record.phase for record in journal.records} == {"search"}
    assert journal.records[-1].step == 150


def test_the_paper_s_fixed_lambda_closes_gates_too(trained: onnx.ModelProto, coupling: Coupling) -> None:
    fixed = Settings(lr=1e-2, gate_lr=0.05, batch=32, threads=1, lambda_=20.0)
    found = search(coupling, task_for(trained), Target(channels=0.5), 100, fixed, Journal())
    assert found.cost < 0.8


def test_frozen_weights_do_not_move(trained: onnx.ModelProto, coupling: Coupling) -> None:
    frozen = Settings(gate_lr=0.05, batch=32, threads=1, weights="frozen")
    found = search(coupling, task_for(trained), Target(flops=0.5), 30, frozen, Journal())
    assert set(found.values) == {"mean", "var"}
    assert found.scores.std() > 0.01


def test_a_run_is_determined_by_its_seed(trained: onnx.ModelProto, coupling: Coupling) -> None:
    runs = [
        search(
            coupling,
            task_for(trained),
            Target(flops=0.5),
            20,
            Settings(batch=32, threads=1, seed=seed),
            Journal(),
        )
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(runs[0].scores, runs[1].scores)
    assert not np.array_equal(runs[0].scores, runs[2].scores)


def test_divergence_stops_with_the_last_good_state() -> None:
    model = network()
    wild = Settings(lr=1e30, batch=32, threads=1)
    with pytest.raises(Diverged, match=r"fine-tune: the loss is \S+ at step \d+ of 60.*--lr") as caught:
        fine_tune(model, task_for(model), 60, wild, Journal())
    assert all(np.isfinite(value).all() for value in caught.value.values.values())


def test_statistics_are_those_of_all_samples() -> None:
    model = network()
    data = samples(320)
    refreshed = stored(
        refresh_statistics(
            model, task_for(model, data | {"test_x": data["x"], "test_label": data["label"]}), FAST, 10
        )
    )
    inner = onnx.ModelProto()
    inner.CopyFrom(model)
    del inner.graph.output[:]
    inner.graph.output.append(onnx.helper.make_tensor_value_info("a", 1, None))
    from tgonnx.engines.trainer import session

    values = session(inner).run(["a"], {"x": data["x"]})[0].astype(np.float64)
    assert refreshed["mean"] == pytest.approx(values.mean(axis=(0, 2, 3)), rel=1e-4, abs=1e-5)
    assert refreshed["var"] == pytest.approx(values.var(axis=(0, 2, 3)), rel=1e-4)
    assert np.array_equal(refreshed["w1"], stored(model)["w1"])


@pytest.mark.parametrize("loss", ["mse", "l1", "bce", "distill"])
def test_every_loss_goes_down(loss: str) -> None:
    model = network("y = Sigmoid(s)" if loss == "bce" else "y = Identity(s)")
    data = samples()
    if loss == "distill":
        student = with_values(model, {"w1": stored(model)["w1"] * 0.5})
        del data["label"]
    else:
        student = model
        data["target"] = np.eye(3, dtype=np.float32)[data.pop("label")]
    task = task_for(model, data, loss)
    metric = task.metric
    assert metric is not None
    assert metric.higher_is_better == (loss == "distill")
    tuned = fine_tune(student, task, 60, FAST, Journal())
    assert (metric(tuned) > metric(student)) if metric.higher_is_better else (metric(tuned) < metric(student))


def test_dropout_is_silent_and_small_data_is_one_batch() -> None:
    model = network(dropout=True)
    first, second = (
        stored(fine_tune(model, task_for(model, samples(20)), 4, FAST, Journal())) for _ in range(2)
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_floors_lift_the_best_units(coupling: Coupling) -> None:
    fewest = search_floors(coupling, Target(flops=0.5), Bounds())
    assert (fewest >= [np.ceil(0.3 * g.size) for g in coupling.groups]).all()
    logits = np.linspace(-1.0, -0.1, coupling.units).astype(np.float32)
    assert lift(logits, coupling, fewest)
    for group, least in zip(coupling.groups, fewest, strict=True):
        is_open = logits[group.units] > 0
        assert is_open.sum() == least
        assert is_open[-least:].all()  # the best ones
    assert not lift(logits, coupling, fewest)


def test_the_rate_rises_then_falls_to_zero() -> None:
    values = [COSINE.rate(done) for done in np.linspace(0, 1, 101)]
    assert values[5] == max(values) == 1.0
    assert 0 < values[0] < 0.2
    assert values[-1] == pytest.approx(0.0, abs=1e-9)
    assert values[20] == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.15 / 0.95)))


def test_schedules_share_the_warm_up() -> None:
    for warmup in (0.0, 0.05, 0.4):
        for done in np.linspace(0, warmup, 7)[:-1]:
            rates = {schedule.rate(done, warmup) for schedule in SCHEDULES.values()}
            assert len(rates) == 1
            assert rates.pop() == pytest.approx((done + 0.01) / (warmup + 0.01))
    steps = [SCHEDULES["step"].rate(done, 0.2) for done in (0.2, 0.59, 0.61, 0.79, 0.81, 1.0)]
    assert steps == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert {SCHEDULES["constant"].rate(done, 0.2) for done in (0.2, 0.5, 1.0)} == {1.0}
    assert [searching(done, 0.05) for done in (0.0, 0.02, 0.04, 1.0)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert searching(0.0, 0.0) == 1.0


def test_optimiser_schedule_and_accumulation_reach_the_training() -> None:
    model = network()
    tuned = []
    for changes in (
        {}, {"optimizer": "sgd", "lr": 0.1}, {"optimizer": "adam", "weight_decay": 1.0}, {"schedule": "constant"},
        {"warmup": 0.5}, {"clip": 0.01}, {"accumulate": 3},
    ):  # fmt: skip
        journal = Journal()
        tuned.append(fine_tune(model, task_for(model), 20, replace(FAST, **changes), journal))
        assert journal.records[-1].epoch == (7 if changes == {"accumulate": 3} else 2)
    weights = [stored(each)["w1"].tobytes() for each in tuned]
    assert len(set(weights)) == len(weights)


def test_progress_is_told_step_by_step(trained: onnx.ModelProto) -> None:
    told: list[Progress] = []
    journal = Journal(told.append)
    fine_tune(trained, task_for(trained), 25, FAST, journal, cost=0.4)
    assert [progress.step for progress in told] == list(range(1, 26))
    assert told[-1].metric is not None
    assert told[-1].metric > 0.8
    assert told[-1].cost == 0.4
    assert told[-1].seconds_left == 0.0
    assert [record.epoch for record in journal.records] == [1, 2, 3]


def test_tiny_batches_train_with_the_stored_statistics() -> None:
    model = network()
    tuned = fine_tune(model, task_for(model, samples(60)), 20, Settings(batch=4, threads=1), Journal())
    assert np.array_equal(stored(tuned)["mean"], stored(model)["mean"])
    assert not np.array_equal(stored(tuned)["scale"], stored(model)["scale"])


def test_a_teacher_of_fixed_batch_is_asked_in_pieces() -> None:
    free, fixed = network(), network(batch="3")
    batch = next(task_for(free).batches(8, 0))
    fit = validate(open_dataset(arrays(samples()), free), free, "distill")
    wanted, found = (Teacher(model, fit, 1).feeds(batch)["tgonnx.teacher/y"] for model in (free, fixed))
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_a_model_that_has_no_statistics_when_all_is_closed_imitates_itself() -> None:
    """LayerNormalization of nothing is not a number, and a model that follows itself starts at a loss of nothing."""
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 6] x) => (float[N, 3] y) {
        h = MatMul(x, a) n = LayerNormalization(h, s) y = MatMul(n, b)
    }""")
    rng = np.random.default_rng(0)
    for name, shape in (("a", (6, 16)), ("s", (16,)), ("b", (16, 3))):
        values = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    task = task_for(proto, {"x": rng.normal(size=(256, 6)).astype(np.float32)}, "distill")
    found = search(analyze(load(proto)), task, Target(flops=0.5), 24, FAST, Journal())
    assert found.stake > 0.1
    assert found.cost < 0.9
