"""Where samples are counted: states, scalars, style weights, time-major sequences, batches of several sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from tgonnx import data
from tgonnx.data import streams
from tgonnx.data.axes import find_axes
from tgonnx.errors import DataError, UsageError
from tgonnx.losses.fit import validate
from tgonnx.losses.metric import Metric


def graph(inputs: str, outputs: str) -> onnx.ModelProto:
    """A model of these inputs and outputs that computes nothing."""
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> m ({inputs}) => ({outputs}) {{ nothing = Identity (nothing) }}"""
    )


CASES: dict[str, tuple[str, str, dict[str, int | None], int | None]] = {
    "images": ("float[N,3,H,W] x", "float[N,10] y", {"x": 0}, None),
    "fixed batch": ("float[4,3,8,8] x", "float[4,10] y", {"x": 0}, 4),
    "Silero": ("float[N,32] x, float[2,N,24] state, int64 sr", "float[N,1] y", {"x": 0, "state": 1, "sr": None}, None),
    "time first": ("float[T,N,8] x", "float[T,N,4] y", {"x": 1}, None),
    "time first, names": ("float[seq_len,batch_size,8] x", "float[seq_len,batch_size,4] y", {"x": 1}, None),
    "batch by the output": ("float[a,b,8] x", "float[b,4] y", {"x": 1}, None),
    "tokens": ("int64[batch,sequence] x, int64[batch,sequence] mask", "float[batch,2] y", {"x": 0, "mask": 0}, None),
    "style": ("float[26] style, float[N,3,8,8] x", "float[N,3,8,8] y", {"style": None, "x": 0}, None),
    "names of their own": ("float[in_0,8] x, float[in_1,8] z", "float[out_0,4] y", {"x": 0, "z": 0}, None),
    "without names": ("float[?,?,8] x", "float[?,4] y", {"x": 0}, None),
    "one image of any size": ("float[1,3,H,W] x", "float[1,3,H,W] y", {"x": 0}, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_axes_are_found_by_what_is_declared(case: str) -> None:
    inputs, outputs, wanted, fixed = CASES[case]
    axes = find_axes(graph(inputs, outputs))
    assert axes.inputs == wanted
    assert axes.fixed == fixed
    assert not axes.doubt


def test_axes_are_found_by_sizes() -> None:
    model = graph("float[?,?,8] x, float[26] style, float[2,1,64] state", "float[?,4] y")
    shapes = {"x": (20, 100, 8), "style": (26,), "state": (2, 100, 64)}
    assert find_axes(model, shapes, 100).inputs == {"x": 1, "style": None, "state": 1}
    assert find_axes(model, {"x": (100, 20, 8), "style": (26,), "state": (2, 1, 64)}, 100).inputs == {
        "x": 0, "style": None, "state": None,
    }  # fmt: skip


def test_time_is_never_taken_for_samples() -> None:
    model = graph("float[T,8] x", "float[T,4] y")
    with pytest.raises(DataError, match=r"axis 0 of input 'x' is called 'T', .* axes=\{'x': 1\}"):
        data.open_dataset({"x": np.zeros((50, 8), np.float32)}, model)
    given = data.arrays({"x": np.zeros((50, 8), np.float32)}, axes={"x": 0})
    assert len(data.open_dataset(given, model).train) == 45
    with pytest.raises(UsageError, match=r"has 2 axes, 0\.\.1; there is no axis 2"):
        data.open_dataset(data.arrays({"x": np.zeros((50, 8))}, axes={"x": 2}), model)


def voice() -> onnx.ModelProto:
    return parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (float[N,4] x, float[2,N,4] state, int64 sr) => (float[N,4] y, float[2,N,4] next) {
            rate = Cast <to = 1> (sr)
            sum = Add (x, state)
            next = Mul (sum, rate)
            axes = Constant <value_ints = [0]> ()
            y = ReduceSum <keepdims = 0> (next, axes)
        }"""
    )


def test_samples_are_taken_where_the_model_has_them() -> None:
    rng = np.random.default_rng(0)
    x, state = rng.random((10, 4), np.float32), rng.random((2, 10, 4), np.float32)
    values: dict[str, Any] = {"x": x, "state": state, "sr": np.array(16000)}
    as_items = [
        {"x": x[i : i + 2], "state": state[:, i : i + 2], "sr": np.array(16000)} for i in range(0, 10, 2)
    ]
    for source in (values, data.arrays({"x": x, "state": state}, const={"sr": 16000}), as_items):
        dataset = data.open_dataset(source, voice())  # type: ignore[arg-type]
        assert len(dataset.train) == 9
        assert validate(dataset, voice()).loss == "distill"
        chosen = np.array([3, 1, 7])
        feeds = dataset.train.take(chosen).feeds
        np.testing.assert_array_equal(feeds["state"], state[:, dataset.train.indices[chosen]])
        assert feeds["sr"] == 16000
        assert feeds["sr"].shape == ()


def test_constants() -> None:
    x = np.zeros((10, 4), np.float32)
    silent = data.open_dataset(data.arrays({"x": x}, const={"sr": 8000, "state": 0.0}), voice())
    feeds = silent.train.take(np.arange(5)).feeds
    assert feeds["state"].shape == (2, 5, 4)
    assert feeds["state"].dtype == np.float32
    each = data.open_dataset({"x": x, "state": np.zeros((2, 10, 4)), "sr": np.full(10, 8000)}, voice())
    assert each.train.take(np.arange(5)).feeds["sr"] == 8000
    with pytest.raises(DataError, match="differs from sample to sample"):
        data.open_dataset({"x": x, "state": np.zeros((2, 10, 4)), "sr": np.arange(10)}, voice())
    with pytest.raises(UsageError, match="the model has no input 'rate'"):
        data.open_dataset(data.arrays({"x": x}, const={"rate": 1}), voice())
    with pytest.raises(DataError, match="'sr' differs from the items before it"):
        data.open_dataset(
            [{"x": x, "state": np.zeros((2, 10, 4)), "sr": np.array(i)} for i in range(2)], voice()
        )


def test_answers_of_time_major_outputs_are_as_the_output_or_samples_first() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> m (float[T,N,3] x) => (float[T,N,3] y) { y = Relu(x) }"""
    )
    x = np.random.default_rng(0).random((4, 10, 3), np.float32)
    label = x.argmax(2)
    items = [{"x": x[:, i : i + 2], "label": label[:, i : i + 2]} for i in range(0, 10, 2)]
    for source in ({"x": x, "label": label}, {"x": x, "label": label.T}, items, {"x": x, "target": x}):
        dataset = data.open_dataset(source, model)  # type: ignore[arg-type]
        assert len(dataset.train) == 9
        fit = validate(dataset, model)
        batch = dataset.train.take(np.arange(3))
        assert batch.answer is not None
        wanted = batch.feeds["x"] if fit.loss == "mse" else batch.feeds["x"].argmax(2)
        np.testing.assert_array_equal(batch.answer, wanted)
        assert dataset.held_out
        assert Metric(fit, dataset.held_out, model)(model) == float(fit.loss == "ce")


def scores() -> onnx.ModelProto:
    return parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (float[N,3,H,W] image) => (float[N,3,H,W] y) { y = Relu(image) }"""
    )


def test_batches_are_of_one_size_each() -> None:
    sizes = [(4, 4), (4, 6), (8, 4)]
    items = [{"image": np.full((1, 3, *sizes[i % 3]), i, np.float32)} for i in range(30)]
    dataset = data.open_dataset(items, scores())
    assert validate(dataset, scores()).loss == "distill"
    seen: list[int] = []
    for batch in dataset.train.batches(4):
        numbers = batch.feeds["image"][:, 0, 0, 0].astype(int).tolist()
        assert len({number % 3 for number in numbers}) == 1
        seen += numbers
    assert sorted(seen) == dataset.train.indices.tolist()
    shuffled = list(dataset.train.batches(4, np.random.default_rng(0)))
    assert len(shuffled) == dataset.train.batch_count(4)
    assert {len(batch) for batch in shuffled} == {4}


def test_as_many_sizes_as_samples_are_refused() -> None:
    items = [{"image": np.zeros((1, 3, 4, 4 + index), np.float32)} for index in range(70)]
    with pytest.raises(DataError, match="item 65 has the shape number 65; resize or pad"):
        data.open_dataset(items, scores())


def test_dense_labels_of_several_sizes() -> None:
    rng = np.random.default_rng(0)
    items = []
    for index in range(12):
        image = rng.random((2, 3, 4, 4 + 2 * (index % 2)), np.float32)
        items.append((image, image.argmax(1)))
    dataset = data.open_dataset(items, scores())
    fit = validate(dataset, scores())
    assert fit.loss == "ce"
    batch = next(dataset.train.batches(3))
    np.testing.assert_array_equal(batch.answer, batch.feeds["image"].argmax(1))  # type: ignore[arg-type]


class Tensor:
    """What torch's tensors do."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array
        self.shape = array.shape

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return self.array


def test_pairs_of_inputs_and_answers() -> None:
    model = graph("float[N,4] x", "float[N,3] y")
    x, label = np.random.default_rng(0).random((10, 4), np.float32), np.arange(10) % 3
    forms: list[tuple[Any, str | None]] = [
        ((x, label), "label"),
        ([[Tensor(x[i : i + 2]), Tensor(label[i : i + 2])] for i in range(0, 10, 2)], "label"),
        (((x[i], label[i]) for i in range(10)), "label"),
        ([(x[i : i + 5], np.zeros((5, 3), np.float32)) for i in (0, 5)], "target"),
        ([x[:5], x[5:]], None),
    ]
    for form, answer in forms:
        dataset = data.open_dataset(form, model)
        assert dataset.answer == answer
        np.testing.assert_array_equal(dataset.train.take(np.arange(9)).feeds["x"], x[dataset.train.indices])
        if answer == "label":
            np.testing.assert_array_equal(dataset.train.answers, label[dataset.train.indices])  # type: ignore[arg-type]


def test_many_samples_go_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IN_MEMORY", 200)
    model = graph("float[N,4] x", "float[N,3] y")
    x = np.random.default_rng(0).random((100, 4), np.float32)
    dataset = data.open_dataset(({"x": x[i : i + 10]} for i in range(0, 100, 10)), model)
    assert isinstance(dataset.train.samples.inputs["x"].base, np.memmap)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(dataset.train.take(np.arange(90)).feeds["x"], x[dataset.train.indices])
    monkeypatch.setattr(streams, "MOST", 1000)
    with pytest.raises(DataError, match="do they ever end"):
        data.open_dataset(({"x": x} for _ in iter(int, 1)), model)
