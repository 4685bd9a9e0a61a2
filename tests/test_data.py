"""Data sets in every form, what is refused, and what batches are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

import tgonnx as tg
from tgonnx import data
from tgonnx.data.samples import Dataset
from tgonnx.errors import DataError, UsageError
from tgonnx.losses.fit import Fit, validate
from tgonnx.losses.metric import Metric
from tgonnx.runtime.sessions import open_session


def classifier(batch: str = "N") -> onnx.ModelProto:
    """image (N x 1 x 4 x 4) -> logits (N x 16)."""
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        m (float[{batch},1,4,4] image) => (float[{batch},16] logits) {{ logits = Flatten(image) }}"""
    )


def good(count: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images = rng.random((count, 1, 4, 4), np.float32)
    return {"image": images, "label": rng.integers(0, 16, count)}


def opened(values: Mapping[str, Any]) -> Dataset:
    return data.open_dataset(data.arrays(values), classifier())


def test_npz_and_its_path_and_its_arrays_are_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **good())
    for form in (tmp_path / "d.npz", str(tmp_path / "d.npz"), data.npz(tmp_path / "d.npz"), good()):
        dataset = data.open_dataset(form, classifier())
        assert (len(dataset.train), len(dataset.held_out or ())) == (36, 4)
        assert validate(dataset, classifier()) == Fit("ce", "logits", 1)


def test_the_held_out_tenth_is_always_the_same_and_disjoint() -> None:
    first, second = opened(good()), opened(good())
    assert first.held_out
    assert second.held_out
    np.testing.assert_array_equal(first.held_out.indices, second.held_out.indices)
    together = np.concatenate([first.train.indices, first.held_out.indices])
    np.testing.assert_array_equal(np.sort(together), np.arange(40))


def test_a_test_split_is_taken_as_it_is() -> None:
    values = good() | {f"test_{name}": array[:7] for name, array in good().items()}
    dataset = opened(values)
    assert (len(dataset.train), len(dataset.held_out or ())) == (40, 7)


def pixels(count: int = 40) -> dict[str, Any]:
    return good(count) | {
        "image": np.random.default_rng(0).integers(0, 256, (count, 1, 4, 4)).astype(np.uint8)
    }


def threshold() -> onnx.ModelProto:
    """Class 0 where the mean of the pixels is below 0.5, else class 1; pixels of 0..255 are all of class 1."""
    return parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (float[N,1,4,4] image) => (float[N,2] scores) <float half = {0.5}> {
            mean = ReduceMean <axes = [1, 2, 3], keepdims = 0> (image)
            above = Sub (mean, half)
            below = Neg (above)
            both = Concat <axis = 0> (below, above)
            shape = Constant <value_ints = [2, -1]> ()
            rows = Reshape (both, shape)
            scores = Transpose <perm = [1, 0]> (rows)
        }"""
    )


def test_bytes_are_scaled_as_is_said() -> None:
    raw = pixels()["image"].astype(np.float32)
    for values, options, scale in (
        (pixels(), {"scale": 1 / 255}, 255),
        (pixels(), {"scale": 1}, 1),
        (pixels() | {"scale": np.float32(1 / 255)}, {}, 255),
    ):
        dataset = data.open_dataset(data.arrays(values, **options), classifier())
        batch = dataset.train.take(np.arange(36))
        np.testing.assert_array_equal(batch.feeds["image"], raw[dataset.train.indices] / np.float32(scale))


@pytest.mark.parametrize(("factor", "scale"), [(1, 1 / 255), (255, 1)])
def test_bytes_are_scaled_so_that_the_original_does_well(factor: float, scale: float) -> None:
    image = pixels(100)["image"]
    image[::2] //= 2
    label = (image.mean((1, 2, 3)) > 127.5).astype(np.int64)
    model = threshold()
    model.graph.initializer[0].float_data[:] = [0.5 * factor]
    dataset = data.open_dataset({"image": image, "label": label}, model)
    assert dataset.train.samples.scale == scale  # type: ignore[attr-defined]
    assert "the original's accuracy on 100 samples is 1," in dataset.notes[0]


@pytest.mark.parametrize("values", [pixels(), {"image": pixels()["image"]}])
def test_the_scale_of_bytes_is_asked_for_where_labels_cannot_tell(values: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"'image' holds bytes .* Say scale=1 or scale=1/255"):
        opened(values)


def test_integers_are_given_bytes_as_they_are() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (uint8[N,1,4,4] image) => (float[N,16] logits) { x = Cast <to = 1> (image) logits = Flatten(x) }"""
    )
    batch = data.open_dataset(pixels(), model).train.take(np.arange(4))
    assert batch.feeds["image"].dtype == np.uint8
    assert batch.feeds["image"].max() > 1


def test_batches_cover_the_samples_in_order_or_shuffled() -> None:
    train = opened(good()).train
    in_order = [batch.answer for batch in train.batches(8)]
    assert [len(part) for part in in_order if part is not None] == [8, 8, 8, 8, 4]
    np.testing.assert_array_equal(np.concatenate(in_order), train.answers)
    shuffled = [batch.answer for batch in train.batches(8, np.random.default_rng(1), epochs=2)]
    assert [len(part) for part in shuffled if part is not None] == [8] * 8
    assert len(list(train.batches(100, np.random.default_rng(1)))) == 1


def test_feeds_and_calibration_readers() -> None:
    values = good()
    items = [{"image": values["image"][i : i + 5].astype(np.float32)} for i in range(0, 40, 5)]

    class Reader:
        def __init__(self) -> None:
            self.rest = list(items)

        def get_next(self) -> dict[str, Any] | None:
            return self.rest.pop(0) if self.rest else None

    for form in (items, (item for item in items), Reader(), data.feeds(items)):
        dataset = data.open_dataset(form, classifier())  # type: ignore[arg-type]
        assert len(dataset.train) == 36
        assert validate(dataset, classifier()).loss == "distill"


def make_images(root: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (9, 7), (100 * number, 0, 0)).save(root / name / f"{index}.png")
    return root


def test_a_folder_of_images(tmp_path: Path) -> None:
    dataset = data.open_dataset(make_images(tmp_path / "images"), threshold())
    assert dataset.classes == ("cat", "dog")
    assert validate(dataset, threshold()).loss == "ce"
    batch = dataset.train.take(np.arange(9))
    assert batch.feeds["image"].shape == (9, 1, 4, 4)
    assert batch.answer is not None
    grey = batch.feeds["image"].mean((1, 2, 3))
    np.testing.assert_allclose(grey, np.where(batch.answer == 1, 30 / 255, 0), atol=0.01)


def test_a_folder_with_train_and_test_and_normalised(tmp_path: Path) -> None:
    make_images(tmp_path / "train")
    make_images(tmp_path / "test")
    dataset = data.open_dataset(data.folder(tmp_path, mean=(0.5,), std=(0.5,)), threshold())
    assert (len(dataset.train), len(dataset.held_out or ())) == (10, 10)
    assert dataset.train.take(np.arange(2)).feeds["image"].min() == -1


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    root = make_images(tmp_path)
    (root / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png: not a readable image"):
        list(data.open_dataset(root, threshold()).train.take(np.arange(9)).feeds)


def test_targets_and_losses() -> None:
    targets = np.random.default_rng(0).random((40, 16), np.float32)
    dataset = opened({"image": good()["image"], "target": targets})
    for loss, want in (("auto", "mse"), ("l1", "l1"), ("bce", "bce"), ("distill", "distill")):
        assert validate(dataset, classifier(), loss).loss == want
    with pytest.raises(UsageError, match="unknown loss"):
        validate(dataset, classifier(), "huber")


def test_a_model_that_ends_in_classes_has_no_scores_to_learn_from() -> None:
    ending = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N,3] x) => (int64[N] y) '
        "{ y = ArgMax <axis = 1, keepdims = 0> (x) }"
    )
    values = {"x": np.zeros((4, 3), np.float32), "label": np.zeros(4, np.int64)}
    with pytest.raises(DataError, match="needs a score for each class"):
        validate(data.open_dataset(values, ending), ending)


def test_the_class_axis_is_found_by_shape() -> None:
    tagger = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N,6,3] x) => (float[N,6,3] y) { y = Relu(x) }'
    )
    x = np.zeros((4, 6, 3), np.float32)
    for shape, axis in (((4, 6), 2), ((4, 3), 1)):
        dataset = data.open_dataset({"x": x, "label": np.zeros(shape, np.int64)}, tagger)
        assert validate(dataset, tagger).class_axis == axis


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing input": (
        {"picture": good()["image"]},
        "no array for input 'image'.* there is 'picture'; rename 'picture' to 'image'",
    ),
    "no samples": (good(0), "no samples"),
    "counts differ": (good() | {"label": np.zeros(39, int)}, "'image' has 40, 'label' has 39"),
    "label too large": (good() | {"label": np.full(40, 16)}, r"label 16 of sample 0 is outside 0\.\.15"),
    "label negative": (good() | {"label": np.full(40, -1)}, "label -1 of sample 0"),
    "label floats": (good() | {"label": np.zeros(40)}, "labels are whole numbers"),
    "label shape": (good() | {"label": np.zeros((40, 2), int)}, r"does not fit the output's shape \(N, 16\)"),
    "wrong shape": (
        good() | {"image": np.zeros((40, 4, 4), np.float32)},
        r"shape \(40, 4, 4\), the model wants",
    ),
    "wrong size": (
        good() | {"image": np.zeros((40, 1, 5, 4), np.float32)},
        r"the model wants float32\[N, 1, 4, 4\]",
    ),
    "nan": (good() | {"image": np.full((40, 1, 4, 4), np.nan, np.float32)}, "NaN .* first in sample 0"),
    "text": (good() | {"image": np.full((40, 1, 4, 4), "a")}, "has type <U1"),
    "both": (good() | {"target": np.zeros((40, 16))}, "both 'label' and 'target'"),
    "scalar": (good() | {"label": np.array(3)}, "a single value"),
    "test labels": (good() | {"test_image": good()["image"]}, "array 'test_label' is missing"),
    "target shape": ({"image": good()["image"], "target": np.zeros((40, 3))}, "does not fit the output"),
    "target nan": ({"image": good()["image"], "target": np.full((40, 16), np.inf)}, "NaN or infinite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused(case: str) -> None:
    values, message = BAD[case]
    with pytest.raises(DataError, match=message):
        validate(opened(values), classifier())


def test_losses_need_their_answers() -> None:
    unlabelled = opened({"image": good()["image"]})
    with pytest.raises(DataError, match="loss ce needs an array 'label'"):
        validate(unlabelled, classifier(), "ce")
    with pytest.raises(DataError, match="loss mse needs an array 'target'"):
        validate(opened(good()), classifier(), "mse")
    beyond = opened({"image": good()["image"], "target": np.full((40, 16), 2.0)})
    with pytest.raises(DataError, match=r"within 0\.\.1"):
        validate(beyond, classifier(), "bce")


def test_a_fixed_batch_needs_that_many_samples() -> None:
    with pytest.raises(DataError, match="the model's batch is fixed at 64"):
        validate(data.open_dataset(good(), classifier("64")), classifier("64"))


def test_a_file_that_is_no_npz(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        data.open_dataset(tmp_path / "d.npz", classifier())
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        data.open_dataset(tmp_path / "d.npy", classifier())
    with pytest.raises(UsageError, match="no such file"):
        data.open_dataset(tmp_path / "none.npz", classifier())


def test_feed_items_are_checked() -> None:
    with pytest.raises(DataError, match="item 1 is a list"):
        data.open_dataset([[1, 2, 3]], classifier())  # type: ignore[list-item]
    with pytest.raises(DataError, match="no samples"):
        data.open_dataset([], classifier())
    with pytest.raises(DataError, match="item 2 has other names"):
        data.open_dataset([{"image": np.zeros((1, 2))}, {"other": np.zeros((1, 2))}], classifier())


NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "labels": ({"labels": good()["label"]}, "'labels' is read by nothing; did you mean 'label'"),
    "y": ({"y": good()["label"]}, "'y' is read by nothing; did you mean 'label'"),
    "targets": ({"targets": np.zeros((40, 16))}, "did you mean 'target'"),
    "misspelt output": ({"logit": np.zeros((40, 16))}, "did you mean 'logits'"),
    "anything": (good() | {"weights": np.zeros(40)}, "'weights' is read by nothing; leave it out"),
    "test labels": (
        good() | {"test_image": good()["image"], "test_labels": good()["label"]},
        "'test_labels' is read by nothing; did you mean 'test_label'",
    ),
    "test labels alone": ({"test_label": good()["label"]}, "did you mean|is read by nothing"),
    "two for one output": (good() | {"target_logits": np.zeros((40, 16))}, "'label' and 'target_logits'"),
}


@pytest.mark.parametrize("case", NAMES)
def test_arrays_that_nothing_reads_are_refused(case: str) -> None:
    values, message = NAMES[case]
    with pytest.raises(DataError, match=message):
        opened({"image": good()["image"]} | values)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("label", "label"),
        ("target", "target"),
        ("label_logits", "label"),
        ("target_logits", "target"),
        ("logits", None),
    ],
)
def test_answers_are_called_after_their_output(name: str, kind: str | None) -> None:
    arrays = {"label": good()["label"], "target": np.zeros((40, 16), np.float32)}
    for each, array in arrays.items():
        if kind in (None, each):
            dataset = opened({"image": good()["image"], name: array})
            assert dataset.answer == each
            np.testing.assert_array_equal(dataset.train.answers, array[dataset.train.indices])  # type: ignore[arg-type]


def two_heads() -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N,3] x) => (float[N,3] age, float[N,3] sex) '
        "{ age = Relu (x) sex = Neg (x) }"
    )


def test_answers_of_other_outputs_are_kept_and_not_forgotten() -> None:
    x = np.zeros((10, 3), np.float32)
    values = {"x": x, "label": np.arange(10) % 3, "label_sex": np.arange(10) % 2}
    dataset = data.open_dataset(values, two_heads())
    batch = dataset.train.take(np.arange(4))
    np.testing.assert_array_equal(batch.answers["sex"], (np.arange(10) % 2)[dataset.train.indices[:4]])
    np.testing.assert_array_equal(batch.answer, batch.answers["age"])  # type: ignore[arg-type]
    found = validate(dataset, two_heads())
    assert [(part.output, part.loss) for part in found.parts] == [("age", "ce"), ("sex", "ce")]
    found = validate(data.open_dataset({"x": x, "sex": x}, two_heads()), two_heads())
    assert [(part.output, part.loss) for part in found.parts] == [("sex", "mse"), ("age", "distill")]


CURES: dict[str, tuple[dict[str, Any], str]] = {
    "one-hot": (
        {"label": np.eye(16, dtype=int)[np.arange(40) % 16]},
        r"40x16, one-hot\? give label\.argmax\(1\)",
    ),
    "one-hot floats": ({"label": np.eye(16)[np.arange(40) % 16]}, r"one-hot\? give label\.argmax\(1\)"),
    "column": ({"label": np.zeros((40, 1), int)}, r"squeeze\(1\)"),
    "from 1": ({"label": np.arange(40) % 16 + 1}, r"1\.\.16 were found: subtract 1"),
    "floats": ({"label": np.zeros(40)}, r"astype\(numpy\.int64\)"),
    "names": ({"label": np.full(40, "cat")}, "number the classes"),
    "classes under target": ({"target": np.zeros(40, int)}, "class numbers\\? rename it to 'label'"),
    "the user's index": ({"label": np.where(np.arange(40) == 27, 99, 0)}, "label 99 of sample 27 is outside"),
    "ignored by whom": ({"label": np.where(np.arange(40) == 27, 255, 0)}, "ignore_label=255"),
    "nhwc": ({"image": np.zeros((40, 4, 4, 1), np.float32)}, r"NHWC: give image\.transpose\(0, 3, 1, 2\)"),
    "no channel": ({"image": np.zeros((40, 4, 4), np.float32)}, r"numpy\.expand_dims\(image, 1\)"),
    "an axis too many": ({"image": np.zeros((40, 1, 4, 4, 1), np.float32)}, r"image\.squeeze\(4\)"),
}


@pytest.mark.parametrize("case", CURES)
def test_the_cure_is_said(case: str) -> None:
    changes, message = CURES[case]
    values = {"image": good()["image"]} | changes
    with pytest.raises(DataError, match=message):
        validate(opened(values), classifier())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "not a readable .npz file but text; data are an .npz file of named arrays, a folder"),
        (b"\x89PNG\r\n\x1a\n....", "an image; data are"),
        (b"\x80\x04pickled", "a Python pickle"),
        (b"\x1f\x8bzipped", "a gzip archive"),
        (b'{"a": 1}', "a JSON file"),
    ],
)
def test_files_of_other_kinds_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        data.open_dataset(tmp_path / "d.npz", classifier())


def dense() -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }'
    )


def test_dense_labels_that_mean_nothing_are_ignored() -> None:
    x = np.random.default_rng(0).random((10, 3, 4, 4), np.float32)
    labels = x.argmax(1)
    wrong = labels.copy()
    wrong[:, 0] = 255
    wrong[:, 1, 0] = -100
    dataset = data.open_dataset({"x": x, "label": wrong}, dense())
    fit = validate(dataset, dense())
    assert fit.ignores
    assert dataset.notes == ("50 labels are ignored",)
    assert dataset.held_out
    assert Metric(fit, dataset.held_out, dense())(dense()) == 1.0
    wrong[3, 3, 3] = 7
    with pytest.raises(DataError, match="label 7 of sample 3"):
        validate(data.open_dataset({"x": x, "label": wrong}, dense()), dense())
    chosen = data.open_dataset(
        data.arrays({"x": x, "label": np.where(labels == 2, 9, labels)}, ignore_label=9), dense()
    )
    assert validate(chosen, dense()).ignores
    assert chosen.notes == (f"{int((labels == 2).sum())} labels are ignored",)


def test_outputs_that_nobody_teaches_follow_the_original_unless_they_are_free() -> None:
    """Two heads with branches of their own: labels of the one must not let the other rot."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,3] age, float[N,2] gender) '
        "{ a = MatMul(x, a1) r = Relu(a) age = MatMul(r, a2) b = MatMul(x, b1) s = Relu(b) gender = MatMul(s, b2) }"
    )
    for name, shape in (("a1", (8, 24)), ("a2", (24, 3)), ("b1", (8, 24)), ("b2", (24, 2))):
        values = rng.standard_normal(shape) / np.sqrt(shape[0])
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    x = rng.standard_normal((400, 8)).astype(np.float32)
    age, gender = open_session(model).run({"x": x}).values()
    data = tg.data.arrays({"x": x, "label": age.argmax(1)})

    def error(*free: str) -> float:
        result = tg.prune(
            model,
            data,
            "params=0.4",
            epochs=30,
            threads=1,
            criterion="gates",
            compensate=False,
            free_output=free,
        )
        assert set(result.after.others) == (set() if free else {"gender: R2"})
        return float(np.square(open_session(result.model).run({"x": x})["gender"] - gender).mean())

    assert error() < 0.6 * error("gender")


def test_samples_without_a_label_that_counts_are_left_out() -> None:
    x = np.random.default_rng(0).random((10, 3, 4, 4), np.float32)
    labels = x.argmax(1)
    labels[[2, 5]] = 255
    dataset = data.open_dataset({"x": x, "label": labels}, dense())
    assert not {2, 5} & set(dataset.train.indices.tolist())
    assert "2 samples have no label that counts, and are left out" in dataset.notes
    with pytest.raises(DataError, match="all labels are ignored"):
        data.open_dataset({"x": x, "label": np.full_like(labels, 255)}, dense())


@pytest.mark.parametrize("masked", [False, True])
def test_integers_that_name_no_row_of_a_table(masked: bool) -> None:
    """Found before training, unless the model masks them."""
    select = "none = Equal(ids, pad) use = Where(none, zero, ids)" if masked else "use = Identity(ids)"
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        m (int64[N,T] ids) => (float[N,T,3] y) <int64 zero = {{0}}, int64 pad = {{77}}> {{
            {select} y = Gather(table, use)
        }}"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.eye(50, 3, dtype=np.float32), "table"))
    ids = np.random.default_rng(0).integers(0, 50, (40, 6))
    ids[7, 2] = 77
    if masked:
        data.open_dataset(data.arrays({"ids": ids}), proto)
        return
    with pytest.raises(DataError, match=r"array 'ids': 77 in sample 7 names no row .* \(0..49\)"):
        data.open_dataset(data.arrays({"ids": ids}), proto)


def test_labels_are_those_of_the_scores_though_the_choice_comes_first() -> None:
    """As classifiers of classical machine learning have it, whose first output may be called `label` itself."""
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (float[N,1,4,4] image) => (int64[N] label, float[N,16] scores) {
            scores = Flatten(image) label = ArgMax <axis=1, keepdims=0> (scores)
        }"""
    )
    dataset = data.open_dataset(data.arrays(good()), proto)
    assert [(each.output, each.array) for each in dataset.taught] == [("scores", "label")]
    assert validate(dataset, proto, "auto").output == "scores"
