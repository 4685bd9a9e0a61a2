"""Metrics against their formulas, over batches of uneven sizes; functions as metrics; the spread of outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from small_task import network, samples

import tgonnx as tg
from tgonnx.data.sources import arrays, open_dataset
from tgonnx.errors import DataError, UsageError
from tgonnx.losses import metric as evaluator
from tgonnx.losses.asked import Asked
from tgonnx.losses.figures import METRICS, MetricKind
from tgonnx.losses.fit import validate
from tgonnx.losses.metric import Metric
from tgonnx.losses.own_metric import metric_of
from tgonnx.losses.spread import spread_of
from tgonnx.runtime.sessions import open_session

Array = np.ndarray[Any, Any]


def identity(dims: str, opset: int = 17) -> onnx.ModelProto:
    """A model whose output is its input, so that a test says what the scores are."""
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> m (float[N,{dims}] x) => (float[N,{dims}] y) '
        "{ y = Identity (x) }"
    )


def scaled(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """The same with its output multiplied: another model to compare with."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.node[0].op_type = "Mul"
    other.graph.node[0].input.append("by")
    other.graph.initializer.append(onnx.numpy_helper.from_array(np.array(by, np.float32), "by"))
    return other


def measured(
    model: onnx.ModelProto, values: dict[str, Array], metric: Any, of: onnx.ModelProto | None = None
) -> float:
    values = values | {f"test_{name}": array for name, array in values.items()}
    dataset = open_dataset(arrays(values), model)
    fit = validate(dataset, model, Asked(metric=metric_of(metric)))
    assert dataset.held_out is not None
    found = Metric(fit, dataset.held_out, model)
    assert found.name == fit.figure.title
    return found(of or model)


def scores(count: int = 530, classes: int = 8, *space: int) -> tuple[Array, Array]:
    """Scores [count, classes, *space], and labels [count, *space] that are often those of high scores."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, classes, (count, *space))
    x = rng.normal(size=(count, classes, *space)) + 1.5 * np.moveaxis(np.eye(classes)[labels], -1, 1)
    return x.astype(np.float32), labels


def test_accuracy_and_top5() -> None:
    x, labels = scores()
    values = {"x": x, "label": labels}
    ranks = (x > np.take_along_axis(x, labels[:, None], 1)).sum(1)
    assert measured(identity("8"), values, "auto") == pytest.approx((ranks == 0).mean())
    assert measured(identity("8"), values, "accuracy") == pytest.approx((ranks == 0).mean())
    assert measured(identity("8"), values, "top5") == pytest.approx((ranks < 5).mean())
    with pytest.raises(DataError, match="output 'y' has 5 classes: metric top5 says nothing"):
        measured(identity("5"), {"x": x[:, :5], "label": labels % 5}, "top5")


def test_dense_labels_that_are_ignored_count_for_nothing() -> None:
    x, labels = scores(300, 8, 3, 4)
    labels[np.random.default_rng(0).random(labels.shape) < 0.4] = 255
    labels[10:90] = np.where(np.arange(12).reshape(3, 4) == 5, labels[10:90] % 8, 255)  # most of some batches
    values, said, counts = {"x": x, "label": labels}, x.argmax(1), labels != 255
    right = (said == labels)[counts].mean()
    assert measured(identity("8,H,W"), values, "accuracy") == pytest.approx(right)
    assert measured(identity("8,H,W"), values, "token-accuracy") == pytest.approx(right)
    each = []
    for number in range(8):
        a, b = (said == number) & counts, labels == number
        each.append((a & b).sum() / (a | b).sum())
    assert measured(identity("8,H,W"), values, "miou") == pytest.approx(np.mean(each))


def test_mean_iou_leaves_out_classes_that_there_are_not() -> None:
    x = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
    assert measured(identity("4"), {"x": x, "label": np.array([0, 1, 1, 1])}, "miou") == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )


def test_classes_on_the_last_axis() -> None:
    x, labels = scores(300, 7, 5)
    values = {"x": np.ascontiguousarray(x.transpose(0, 2, 1)), "label": labels}
    assert measured(identity("5,7"), values, "token-accuracy") == pytest.approx(
        (x.argmax(1) == labels).mean()
    )


def test_regression_against_targets() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(530, 3)).astype(np.float32)
    target = (x + rng.normal(size=x.shape) * 0.5 + 7).astype(np.float32)
    values = {"x": x, "target": target}
    error = x.astype(np.float64) - target
    assert measured(identity("3"), values, "mse") == pytest.approx(np.square(error).mean())
    assert measured(identity("3"), values, "mae") == pytest.approx(np.abs(error).mean())
    assert measured(identity("3"), values, "auto") == pytest.approx(np.square(error).mean())
    assert measured(identity("3"), values, "r2") == pytest.approx(
        1 - np.square(error).mean() / target.var(), rel=1e-5
    )


def test_r2_of_what_follows_the_original_counts_channels_alike() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(400, 2, 50)) * [[200], [1]]).astype(np.float32)
    x[:, 1] = np.abs(x[:, 1]).clip(0, 1)
    model = identity("2,50")
    assert measured(model, {"x": x}, "auto") == 1.0
    moved = scaled(model, 1.1)
    wanted = 1 - np.mean([np.square(0.1 * x[:, c]).mean() / x[:, c].var() for c in (0, 1)])
    assert measured(model, {"x": x}, "auto", moved) == pytest.approx(wanted, abs=0.01)


def test_agreement_is_of_the_largest() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N,4] x) => (float[N,4] y) { y = Softmax (x) }'
    )
    turned = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N,4] x) => (float[N,4] y) { a = Relu (x) b = Neg (a) '
        "y = Softmax (b) }"
    )
    x = np.random.default_rng(0).normal(size=(530, 4)).astype(np.float32)
    agree = (open_session(turned).run({"x": x})["y"].argmax(1) == x.argmax(1)).mean()
    assert measured(model, {"x": x}, "auto", turned) == pytest.approx(agree)
    assert 0 < agree < 1
    assert measured(model, {"x": x}, "agreement") == 1.0


def test_a_metric_without_its_answers_is_refused() -> None:
    x = np.zeros((20, 8), np.float32)
    with pytest.raises(DataError, match="metric accuracy needs an array 'label'"):
        measured(identity("8"), {"x": x}, "accuracy")
    with pytest.raises(DataError, match="metric mse needs an array 'target'"):
        measured(identity("8"), {"x": x, "label": np.zeros(20, int)}, "mse")
    assert measured(identity("8"), {"x": x}, "r2") == 1.0  # against the original


def test_functions_are_called_once_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "BATCH", 64)
    x, labels = scores()
    seen = []

    def area(output: Array, answer: Array) -> float:
        """A rank statistic, which is no mean over batches."""
        seen.append((output.shape, answer.shape, answer.dtype))
        positive = answer == 0
        return float((output[positive, 0][:, None] > output[~positive, 0]).mean())

    wanted = area(x, labels)
    assert measured(identity("8"), {"x": x, "label": labels}, area) == pytest.approx(wanted)
    assert seen[1:] == [((530, 8), (530,), labels.dtype)]
    kind = metric_of(area)
    assert kind is not None
    assert kind.higher_is_better
    area.higher_is_better = False  # type: ignore[attr-defined]
    assert not metric_of(area).higher_is_better  # type: ignore[union-attr]
    assert measured(identity("8"), {"x": x}, lambda output, original: np.ptp(output - original)) == 0.0


@pytest.mark.parametrize(("text", "name", "said"), [
    ("def f(a, b): return a.mean()", "g", "has no function 'g'; there are f"),
    ("def f(a, b): return 1 / 0", "f", "f: ZeroDivisionError: division by zero"),
    ("def f(a, b): return float('nan')", "f", "f is nan for outputs of shape"),
    ("import nothing_such", "f", "ModuleNotFoundError: No module named 'nothing_such'"),
    ("def f(a, b) return", "f", "SyntaxError"),
    (None, "f", "no such file"),
])  # fmt: skip
def test_scripts_that_do_not_work_are_named(text: str | None, name: str, said: str, tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    if text is not None:
        script.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"metric .*own\.py:") as error:
        measured(identity("8"), {"x": np.zeros((20, 8), np.float32)}, f"{script}:{name}")
    assert said in str(error.value)


def test_a_script_is_a_metric_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("FACTOR = 100", encoding="utf-8")
    script = tmp_path / "own.py"
    script.write_text(
        "from helper import FACTOR\ndef percent(output, answer):\n"
        "    return FACTOR * (output.argmax(1) == answer).mean()\n",
        encoding="utf-8",
    )
    result = tg.prune(
        network(), samples(), 0.7, epochs=2, threads=1, verify_seconds=1, metric=f"{script}:percent",
        run_dir=str(tmp_path / "run"), from_scratch=True,
    )  # fmt: skip
    plain = tg.prune(network(), samples(), 0.7, epochs=2, threads=1, verify_seconds=1, from_scratch=True)
    assert result.metric_name == "percent"
    assert result.before.metric == pytest.approx(100 * (plain.before.metric or 0))
    assert f'metric = "{script}:percent"' in (tmp_path / "run" / "recipe.toml").read_text(encoding="utf-8")


def test_every_metric_has_a_name_of_its_own() -> None:
    assert all(kind.name == name and isinstance(kind, MetricKind) for name, kind in METRICS.items())
    assert len({kind.title for kind in METRICS.values()}) == len(METRICS)


# --- spread ---------------------------------------------------------------------------------------------


def test_the_spread_is_the_variance_of_each_channel() -> None:
    rng = np.random.default_rng(0)
    boxes, shares = rng.normal(300, 100, (40, 4, 70)), rng.beta(0.1, 2.0, (40, 6, 70))
    output = np.concatenate([boxes, shares], 1).astype(np.float32)
    spread = spread_of(output[start : start + 8] for start in range(0, 40, 8))
    assert spread is not None
    assert spread.axis == 1
    assert spread.variance == pytest.approx(output.astype(np.float64).var((0, 2)), rel=1e-9)
    last = spread_of([output.transpose(0, 2, 1)])
    assert last is not None
    assert last.axis == 2
    assert last.variance == pytest.approx(spread.variance)
    assert spread_of([output.transpose(1, 0, 2)], 1).axis == 2  # type: ignore[union-attr]  # not along samples


def test_channels_that_hardly_vary_do_not_make_noise_count() -> None:
    rng = np.random.default_rng(0)
    output = rng.normal(size=(64, 5)) * [100, 50, 1e-3, 0, 0] + [0, 0, 5e3, 2, 0]
    output[:, 4] = rng.random(64) * 1e-6
    spread = spread_of([output])
    assert spread is not None
    largest = output[:, 0].var()
    assert spread.variance == pytest.approx(
        [largest, output[:, 1].var(), 1e-4 * largest, 1e-4 * largest, output[:, 4].var()]
    )
    shares = spread_of([rng.random((64, 3)) * [1, 0.1, 1e-4]])
    assert shares is not None
    assert shares.variance[2] == pytest.approx(1e-4)
    assert spread_of([np.zeros(9)]) is None
