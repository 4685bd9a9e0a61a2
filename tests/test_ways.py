"""Three ways to a smaller model, by what there is to learn from; and one that loses nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from test_criteria import with_dead_units
from tiny_models import normal

import tgonnx as tg
from tgonnx.analysis.stand_ins import STYLES, StandIns, stand_ins
from tgonnx.cli.app import main
from tgonnx.errors import OptionError, UnsupportedError
from tgonnx.loading import load
from tgonnx.pipeline import choosing
from tgonnx.pipeline.ways import ENOUGH, SHORT
from tgonnx.runtime.sessions import open_session

ROOT = Path(__file__).parent.parent
RESNET = ROOT / "models" / "fashion_resnet20.onnx"


def images(count: int, prefix: str = "") -> dict[str, np.ndarray]:
    with np.load(ROOT / "models" / "fashion_mnist.npz") as archive:
        image = archive[f"{prefix}image"][:count].astype(np.float32) / 255
        return {"image": image, "label": archive[f"{prefix}label"][:count]}


def accuracy(model: onnx.ModelProto) -> float:
    """On 500 test images, which nothing here has seen."""
    test = images(500, "test_")
    scores = open_session(model).run({"image": test["image"]})["scores"]
    return float((scores.argmax(1) == test["label"]).mean())


def unlabelled(count: int) -> dict[str, np.ndarray]:
    return {"image": images(count)["image"]}


def test_calibration_trains_nothing_and_keeps_most() -> None:
    result = tg.prune(RESNET, unlabelled(256), "flops=0.5", calibrate=True, verify_seconds=1)
    assert {record.phase for record in result.history} == {"commit"}
    assert result.target_met
    assert result.check.ok
    assert accuracy(result.model) > 0.9
    assert "recipe" in {note.code for note in result.notes}


def test_calibration_beats_the_bare_cut_by_far() -> None:
    how = {"calibrate": True, "verify_seconds": 1, "round_to": 1}
    bare = tg.prune(RESNET, unlabelled(256), "flops=0.3", compensate=False, **how)
    refitted = tg.prune(RESNET, unlabelled(256), "flops=0.3", **how)
    assert accuracy(refitted.model) > accuracy(bare.model) + 0.1
    assert accuracy(refitted.model) > 0.85


def test_few_samples_without_answers_are_for_calibration_and_a_short_distillation() -> None:
    assert ENOUGH > 200
    result = tg.prune(RESNET, unlabelled(200), "flops=0.5", verify_seconds=1)
    tuned = [record for record in result.history if record.phase == "fine-tune"]
    assert tuned[-1].steps <= SHORT
    assert any("few samples without answers" in note for note in result.notes)
    assert accuracy(result.model) > 0.9


def test_whoever_names_epochs_or_gates_trains() -> None:
    for more in ({"epochs": 1}, {"criterion": "gates", "epochs": 2}):
        result = tg.prune(RESNET, unlabelled(100), "flops=0.7", verify_seconds=1, **more)
        assert "recipe" not in {note.code for note in result.notes}


def test_without_data_a_cut_is_made_up_for_on_stand_ins() -> None:
    bare = tg.prune(RESNET, target="flops=0.7", compensate=False, verify_seconds=1)
    refitted = tg.prune(RESNET, target="flops=0.7", verify_seconds=1)
    assert any("random inputs" in note and "unit" in note for note in refitted.notes)
    assert accuracy(refitted.model) > accuracy(bare.model) + 0.3
    assert refitted.after.metric is None


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_normalizations_tell_the_range_of_inputs(scale: float) -> None:
    """The model of images in 0..1, and the same of pixels."""
    model = onnx.load(RESNET)
    stem = next(t for t in model.graph.initializer if t.name == "stem.weight")
    values = onnx.numpy_helper.to_array(stem) / np.float32(scale)
    stem.CopyFrom(onnx.numpy_helper.from_array(values, stem.name))
    inputs, known = stand_ins(load(model))
    assert known
    ((style, smooth),) = inputs.kinds
    assert style == ("unit" if scale == 1 else "pixels")
    assert smooth > 0


def without_averages() -> onnx.ModelProto:
    """The same model, its normalizations as the multiplications and additions that they are."""
    model = onnx.load(RESNET)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        scale, shift, mean, variance = (values[name].astype(np.float64) for name in node.input[1:5])
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        factor = scale / np.sqrt(variance + epsilon)
        names = [f"{node.output[0]}.{kind}" for kind in ("factor", "scaled", "shift")]
        for name, value in ((names[0], factor), (names[2], shift - mean * factor)):
            column = value.astype(np.float32).reshape(-1, 1, 1)
            model.graph.initializer.append(onnx.numpy_helper.from_array(column, name))
        nodes.append(onnx.helper.make_node("Mul", [node.input[0], names[0]], [names[1]]))
        nodes.append(onnx.helper.make_node("Add", [names[1], names[2]], [node.output[0]]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_where_nothing_tells_the_range_a_cut_is_not_made_worse() -> None:
    """What is learnt from inputs of one range is judged by those of another."""
    model = without_averages()
    inputs, known = stand_ins(load(model))
    assert not known
    assert {style for style, _ in inputs.kinds[::2]} == {"unit"}
    assert {style for style, _ in inputs.kinds[1::2]} == {"normal"}
    bare, refitted = (
        tg.prune(model, target="flops=0.7", compensate=more, verify_seconds=1) for more in (False, True)
    )
    assert any("two ranges" in note for note in refitted.notes)
    assert accuracy(refitted.model) > accuracy(bare.model) + 0.1


@pytest.mark.parametrize("style", STYLES)
def test_stand_ins_are_the_same_each_time_and_in_their_range(style: str) -> None:
    inputs = StandIns(load(RESNET), [(style, 1.0)])
    first, again = inputs[3]["image"], inputs[3]["image"]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, inputs[4]["image"])
    if style == "unit":
        assert first.min() >= 0
        assert first.max() <= 1
    rough = np.abs(np.diff(first, axis=-1)).mean() / first.std()
    assert rough < 1.0  # white noise has 1.13


def test_ids_that_nobody_knows_are_nothing_to_refit_on() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[N,6] x) => (float[N,6,5] y) '
        "{ h = Gather(table, x) i = MatMul(h, a) r = Relu(i) y = MatMul(r, b) }"
    )
    for name, shape in (("table", (50, 6)), ("a", (6, 8)), ("b", (8, 5))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(normal(*shape), name))
    bare, result = (
        tg.prune(model, target="channels=0.5", verify_seconds=1, **more)
        for more in ({"compensate": False}, {})
    )
    assert any("not made up for, because nothing in the model tells" in note for note in result.notes)
    assert result.model.SerializeToString() == bare.model.SerializeToString()


def test_what_is_of_little_use_says_so() -> None:
    far = tg.prune(
        RESNET,
        unlabelled(200),
        "flops=0.1",
        calibrate=True,
        compensate=False,
        verify_seconds=1,
        criterion="l2",
    )
    (note,) = (note for note in far.notes if note.code == "far-from-original")
    assert far.after.metric is not None
    assert far.after.metric < 0.7
    assert "more samples, training" in note
    near = tg.prune(RESNET, unlabelled(200), "flops=0.7", calibrate=True, verify_seconds=1)
    assert "far-from-original" not in {note.code for note in near.notes}


@pytest.mark.parametrize(("ahead", "first"), [(0.02, False), (0.3, True)])
def test_of_commits_the_refitted_one_is_taken_unless_another_is_clearly_better(
    ahead: float, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred samples, two answers more are chance."""
    commits = [onnx.ModelProto(producer_name=name) for name in ("bare", "refitted")]
    figures = {"bare": 0.6 + ahead, "refitted": 0.6}
    fit = SimpleNamespace(figure=SimpleNamespace(is_share=True))

    class Figure(SimpleNamespace):
        def __call__(self, model: onnx.ModelProto, limit: int, threads: int) -> float:
            return figures[model.producer_name]

    task = SimpleNamespace(metric=Figure(higher_is_better=True, fit=fit, split=range(100)))
    monkeypatch.setattr(choosing, "_commits", lambda *_: iter(commits))
    found = choosing.best_commit(None, None, task, SimpleNamespace(threads=1))  # type: ignore[arg-type]
    assert found is commits[0 if first else 1]


def test_an_operator_that_nothing_runs_is_no_hindrance() -> None:
    """What stands before it can be run, and refitted."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "trt" : 1]> g (float[2,6] x) => (float[2,5] y, float[2,5] z) '
        "{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) z = trt.EfficientNMS_TRT(y) }"
    )
    for name, shape in (("a", (6, 8)), ("b", (8, 5))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(normal(*shape), name))
    result = tg.prune(model, target="channels=0.5", verify_seconds=1)
    assert result.target_met
    assert any("made up for on random inputs" in note for note in result.notes)
    assert result.check.up_to == ("EfficientNMS_TRT (trt)",)


def test_lossless_removes_what_does_nothing_and_nothing_else() -> None:
    model, dead = with_dead_units()
    result = tg.prune(model, lossless=True, verify_seconds=1)
    assert set(np.flatnonzero(~result.mask.open)) == dead
    assert result.target_met
    x = normal(3, 3, 9, 9)
    before, after = (open_session(m).run({"x": x})["y"] for m in (model, result.model))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedError, match="every unit does something"):
        tg.prune(RESNET, lossless=True)


def test_lossless_on_the_command_line(tmp_path: Path) -> None:
    onnx.save(with_dead_units()[0], tmp_path / "m.onnx")
    assert main(["prune", str(tmp_path / "m.onnx"), "--lossless", "-q"]) == 0
    assert (tmp_path / "m.pruned.onnx").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"calibrate": True, "criterion": "gates"}, "gates must learn"),
        ({"lossless": True, "criterion": "l2"}, "leaves nothing to choose"),
        ({"criterion": "obs"}, "'obs' needs data"),
        ({"criterion": "gates"}, "'gates' needs data"),
    ],
)
def test_what_does_not_go_together_is_said(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tg.prune(RESNET, **options)
