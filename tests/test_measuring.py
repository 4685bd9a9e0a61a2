"""The original is measured first; what makes no sense is stopped, and what figures hide is noted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from small_task import network, samples
from test_training import FAST, task_for

import tgonnx as tg
from tgonnx.cli.app import main
from tgonnx.data.samples import parted
from tgonnx.data.sources import open_dataset
from tgonnx.losses.baseline import Judge, binomial_tail
from tgonnx.losses.fit import validate
from tgonnx.losses.interval import interval, student, wilson
from tgonnx.losses.metric import Metric
from tgonnx.training.best import Best
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.progress import Journal, Progress

Array = np.ndarray[Any, Any]
Capture = pytest.CaptureFixture[str]
ORDER = "predicts 0 where the label is 1, 1 where the label is 2, 2 where the label is 0: is the order"


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    model = network()
    return fine_tune(model, task_for(model), 150, FAST, Journal())


@pytest.fixture
def folder(trained: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(trained, "m.onnx")
    onnx.save(network(), "raw.onnx")
    return tmp_path


def shuffled(data: dict[str, Array]) -> dict[str, Array]:
    return data | {"label": np.random.default_rng(5).permutation(data["label"])}


def regression(data: dict[str, Array], scale: float, noise: float = 0.1) -> dict[str, Array]:
    """Targets that are near the class, as the network's scores are not, times `scale`."""
    rng = np.random.default_rng(1)
    one_hot = np.eye(3, dtype=np.float32)[data["label"]]
    target = one_hot * scale + noise * rng.standard_normal(one_hot.shape).astype(np.float32)
    return {"x": data["x"], "target": target.astype(np.float32)}


DATA: dict[str, Any] = {
    "right": lambda: samples(),
    "few": lambda: shuffled(samples(8)),
    "pixels a hundred times too small": lambda: (d := samples()) | {"x": d["x"] / 100},
    "labels of other samples": lambda: shuffled(samples()),
    "classes in another order": lambda: (d := samples()) | {"label": (d["label"] + 1) % 3},
    "one class": lambda: (d := samples()) | {"label": np.zeros_like(d["label"])},
    "targets of another scale": lambda: regression(samples(), 1000.0),
}
# case: data, model, arguments, exit code, what the line says
CASES: dict[str, tuple[str, str, list[str], int, str]] = {
    "right": ("right", "m.onnx", [], 0, ""),
    "too few to tell": ("few", "m.onnx", [], 0, ""),
    "one class": ("one class", "m.onnx", [], 5, "all labels are 0"),
    "one class, forced": ("one class", "m.onnx", ["--force"], 0, ""),
    "wrong preprocessing": ("pixels a hundred times too small", "m.onnx", [], 5, "is the preprocessing right"),
    "wrong labels": ("labels of other samples", "m.onnx", [], 5, "do not go with the labels"),
    "wrong order": ("classes in another order", "m.onnx", [], 5, ORDER),
    "wrong order, forced": ("classes in another order", "m.onnx", ["--force"], 0, ""),
    "wrong scale": ("targets of another scale", "m.onnx", [], 5, "the scale of the targets"),
    "wrong scale, forced": ("targets of another scale", "m.onnx", ["--force"], 0, ""),
    "not trained": ("right", "raw.onnx", [], 5, "for 100% of the samples: is the preprocessing right, or the order"),
    "not trained, and said": ("right", "raw.onnx", ["--from-scratch"], 0, ""),
    "a rate far too high": ("right", "raw.onnx", ["--from-scratch", "--lr", "100"], 6, "times that at the start"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_makes_no_sense_is_stopped(case: str, folder: Path, capsys: Capture) -> None:
    data, model, arguments, code, part = CASES[case]
    np.savez("d.npz", **DATA[data]())
    command = ["prune", model, "--data", "d.npz", "--epochs", "2", "--batch", "32", "--threads", "1", "-q"]
    assert main([*command, "--no-run-dir", "-o", "out.onnx", *arguments]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(code)
    assert part in "".join(lines)
    assert (folder / "out.onnx").exists() == (code == 0)


def test_nothing_is_kept_of_a_run_that_is_stopped_first(folder: Path) -> None:
    np.savez("d.npz", **shuffled(samples()))
    assert main(["prune", "m.onnx", "--data", "d.npz"]) == 5
    assert not (folder / "runs").exists()


def test_what_will_happen_is_said_first(folder: Path, capsys: Capture) -> None:
    np.savez("d.npz", **samples())
    command = ["prune", "m.onnx", "--data", "d.npz", "--epochs", "2", "--batch", "32", "--threads", "1"]
    assert main([*command, "--no-run-dir", "--json", "--lr", "0.01", "--criterion", "gates"]) == 0
    shown = capsys.readouterr()
    head = shown.err[: shown.err.index("search 1/")]
    for part in (
        "samples   310 to learn from, 50 for validation, 40 for the test",
        "classes   3",
        "input x   float32[N, 2, 6, 6]",
        "output y  labels (loss ce, 50% of it what the original says), measured by accuracy",
        "training  6 steps of search, 12 of fine-tuning; batches of 32, lr 0.01, adamw",
        "engine    ",
        "target    flops=0.5",
        "original  accuracy 1 (test); class 2 alone 0.37",
    ):
        assert part in head
    figures = json.loads(shown.out)
    assert figures["samples"] == {"train": 310, "validation": 50, "test": 40}
    notes = {note["code"]: note["text"] for note in figures["notes"]}
    assert "gates need about 100 steps to settle, it had 6" in notes["short-search"]
    assert "between" in notes["few-samples"]
    assert "(95%)" in notes["few-samples"]


def test_the_table_names_the_part(folder: Path, capsys: Capture) -> None:
    np.savez("d.npz", **samples())
    assert main(["prune", "m.onnx", "--data", "d.npz", "--epochs", "1", "--no-run-dir"]) == 0
    assert "accuracy (test)" in capsys.readouterr().out


def test_a_result_that_is_no_better_than_a_constant_answer_is_noted(trained: onnx.ModelProto) -> None:
    result = tg.prune(trained, shuffled(samples()), epochs=3, batch=32, threads=1, force=True)
    assert "no-better-than-constant" in [note.code for note in result.notes]


def test_a_model_that_is_not_trained_is_not_imitated() -> None:
    said: list[tuple[str, str]] = []

    class Listener:
        def begins(self, outlook: tuple[tuple[str, str], ...]) -> None:
            said.extend(outlook)

        def __call__(self, progress: Progress) -> None: ...

    tg.prune(network(), samples(), epochs=1, batch=32, threads=1, from_scratch=True, progress=Listener())
    assert dict(said)["output y"] == "labels (loss ce), measured by accuracy"


# --- the parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (1, {"train": 1}),
        (4, {"train": 3, "test": 1}),
        (40, {"train": 32, "validation": 4, "test": 4}),
        (270, {"train": 219, "validation": 24, "test": 27}),
        (280, {"train": 202, "validation": 50, "test": 28}),
        (2000, {"train": 1620, "validation": 180, "test": 200}),
    ],
)
def test_the_parts_of_data(count: int, parts: dict[str, int]) -> None:
    dataset = open_dataset(samples(count), network())
    split = parted(dataset)
    assert split.counts == parts
    chosen = [part.indices for part in (split.train, split.validation, split.test) if part is not None]
    assert np.array_equal(np.sort(np.concatenate(chosen)), np.arange(count))


def test_a_test_part_of_its_own_is_left_whole() -> None:
    data = samples(100) | {f"test_{name}": array for name, array in samples(30, 1).items()}
    assert parted(open_dataset(data, network())).counts == {"train": 90, "validation": 10, "test": 30}


def test_a_fixed_batch_is_not_left_without_samples() -> None:
    dataset = open_dataset(samples(24), network(batch="20"))
    assert parted(dataset).counts == {"train": 20, "validation": 2, "test": 2}
    dataset = open_dataset(samples(24), network(batch="22"))
    assert parted(dataset).counts == {"train": 22, "test": 2}


# --- the best epoch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_epoch_is_kept_and_of_equal_ones_the_last(higher: bool) -> None:
    best = Best(higher)
    sign = 1 if higher else -1
    for metric in (1, 3, 2, 3, None, 0):
        best.consider(None if metric is None else sign * metric, {"w": np.array(len(best.arrays))})
        best.consider(None, {})
    assert best.numbers == {"best": 3 * sign}
    assert best.values["w"] == 1
    assert list(best.arrays) == ["best/w"]


def test_fine_tuning_ends_with_its_best_epoch(trained: onnx.ModelProto) -> None:
    journal, task = Journal(), task_for(trained, shuffled(samples()))
    tuned = fine_tune(trained, task, 60, FAST, journal)
    figures = [record.metric for record in journal.records]
    assert task.metric is not None
    assert task.metric(tuned) == max(figures)  # type: ignore[type-var]
    assert figures[-1] != max(figures)  # type: ignore[type-var]


# --- statistics ---------------------------------------------------------------------------------------


def test_the_binomial_tail() -> None:
    for successes, trials, chance in ((9, 10, 0.5), (1, 3, 0.2), (50, 90, 0.4), (0, 5, 0.5), (6, 5, 0.5)):
        exact = sum(
            math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k)
            for k in range(successes, trials + 1)
        )
        assert binomial_tail(successes, trials, chance) == pytest.approx(exact, rel=1e-9)


def test_quantiles_and_wilson_are_those_of_tables() -> None:
    for freedom, value in ((3, 3.182), (5, 2.571), (10, 2.228), (48, 2.011)):
        assert student(freedom) == pytest.approx(value, rel=0.015)
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(1.0, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


def linear(ending: str = "y = Identity(s)") -> onnx.ModelProto:
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> m (float[N,2] x) => (float[N,2] y)
        <float[2,2] w = {{1, 0, 0, 1}}> {{ s = MatMul(x, w) {ending} }}"""
    )


def judged(model: onnx.ModelProto, data: dict[str, Array], loss: str = "auto") -> tuple[Judge, Metric]:
    dataset = open_dataset(data, model)
    fit = validate(dataset, model, loss)
    assert dataset.held_out is not None
    metric = Metric(fit, dataset.held_out, model)
    return Judge(metric, dataset.train), metric


def test_the_interval_of_a_mean_is_student_s() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 2)).astype(np.float32)
    data = {"x": x, "target": x * 0, "test_x": x, "test_target": x * 0}
    _, metric = judged(linear(), data)
    each = (x.astype(np.float64) ** 2).mean(1)
    reach = student(19) * each.std(ddof=1) / math.sqrt(20)
    assert interval(metric, linear()) == pytest.approx((each.mean() - reach, each.mean() + reach), rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "l1", "bce"])
def test_targets_are_judged_beside_their_mean(loss: str) -> None:
    model = linear("y = Identity(s)") if loss != "bce" else linear("y = Sigmoid(s)")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 2)).astype(np.float32)
    target = x if loss != "bce" else (x > 0).astype(np.float32)
    good, bad = ({"x": x, "target": answer} for answer in (target, target[::-1].copy()))
    judge, metric = judged(model, good, loss)
    standing = judge(model)
    assert standing.better is True
    assert standing.metric == standing.value == metric(model)
    assert standing.constant is not None
    assert standing.constant > standing.value
    judge, _ = judged(model, bad, loss)
    assert judge(model).better is False


def test_logits_are_judged_beside_the_logit_of_the_mean() -> None:
    x = np.random.default_rng(0).standard_normal((200, 2)).astype(np.float32)
    target = (x > 1).astype(np.float32)
    judge, metric = judged(linear(), {"x": x, "target": target}, "bce")
    held = metric.split.answers
    assert held is not None
    p, shares = judge.learned.answers, held.mean(0)
    assert p is not None
    mean = p.astype(np.float64).mean(0)
    expected = -(shares * np.log(mean) + (1 - shares) * np.log(1 - mean)).mean()
    assert judge(linear()).constant == pytest.approx(expected, rel=1e-6)


def test_dense_labels_are_judged_sample_by_sample() -> None:
    """Pixels of one image are alike: four images of a thousand pixels are four samples."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> m (float[N,3,8,8] x) => (float[N,3,8,8] y)
        <float[1] one = {1}> { y = Mul(x, one) }"""
    )
    x = np.random.default_rng(0).standard_normal((100, 3, 8, 8)).astype(np.float32)
    right = x.argmax(1)
    ignored = right.copy()
    ignored[:, :4] = 255
    for label, better in ((right, True), (ignored, True), (np.roll(right, 1, 0), False)):
        judge, metric = judged(model, {"x": x, "label": label})
        standing = judge(model)
        assert standing.better is better
        assert standing.samples == 10
        assert standing.metric == pytest.approx(metric(model))
    few, _ = judged(model, {"x": x[:40], "label": np.roll(right, 1, 0)[:40]})
    assert few(model).better is None


# --- test data of their own ---------------------------------------------------------------------------


def test_test_data_of_their_own(folder: Path, capsys: Capture) -> None:
    np.savez("d.npz", **samples(100))
    np.savez("t.npz", **samples(60, 1))
    command = ["prune", "m.onnx", "-d", "d.npz", "--epochs", "1", "--json", "--no-run-dir"]
    assert main([*command, "--test", "t.npz"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == {"train": 90, "validation": 10, "test": 60}
    result = tg.prune("m.onnx", samples(100), test=samples(60, 1), epochs=1)
    assert result.samples["test"] == 60


TESTS: dict[str, tuple[dict[str, Array], str, int, str]] = {  # training data, test file, exit code, what is said
    "no such file": (samples(40), "none.npz", 2, "none.npz: no such file"),
    "another test part": (
        samples(40) | {f"test_{n}": a for n, a in samples(20).items()}, "t.npz", 5, "d.npz: there is a test part",
    ),
    "a test part in it": (samples(40), "both.npz", 5, "both.npz: there is a test part"),
    "no labels there": (samples(40), "bare.npz", 5, "bare.npz"),
    "labels out of range": (samples(40), "wild.npz", 5, "wild.npz: array 'label': label 7 of sample 3"),
    "no labels here": ({"x": samples(40)["x"]}, "t.npz", 5, "t.npz: the test data have labels, d.npz has no answers"),
}  # fmt: skip


@pytest.mark.parametrize("case", TESTS)
def test_test_data_that_do_not_fit_are_refused(case: str, folder: Path, capsys: Capture) -> None:
    training, test, code, part = TESTS[case]
    np.savez("d.npz", **training)
    good = samples(20, 1)
    np.savez("t.npz", **good)
    np.savez("both.npz", **good, **{f"test_{name}": array for name, array in good.items()})
    np.savez("bare.npz", x=good["x"])
    wild = good["label"].copy()
    wild[3] = 7
    np.savez("wild.npz", **good | {"label": wild})
    assert main(["prune", "m.onnx", "-d", "d.npz", "--test", test, "-q"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line


def test_test_data_without_data_are_refused(folder: Path, capsys: Capture) -> None:
    assert main(["prune", "m.onnx", "--test", "t.npz", "-q"]) == 2
    assert "--data, which is not given" in capsys.readouterr().err
