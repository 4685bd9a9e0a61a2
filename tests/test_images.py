"""Images: what becomes of their pixels, which class is which, and what is refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image

from tgonnx import data
from tgonnx.data.ahead import read_ahead
from tgonnx.data.decoded import Decoded
from tgonnx.data.images import IMAGENET
from tgonnx.errors import DataError, UsageError
from tgonnx.losses.fit import validate

RED = (200, 20, 60)


def model(shape: str = "N,3,8,8", kind: str = "float", classes: int = 2) -> onnx.ModelProto:
    """Scores of some classes from anything."""
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        m ({kind}[{shape}] image) => (float[N,{classes}] scores)
        <int64[1] axes = {{1}}, int64[2] sizes = {{1, {classes}}}> {{
            x = Cast <to = 1> (image)
            mean = ReduceMean <axes = [1, 2, 3], keepdims = 0> (x)
            column = Unsqueeze (mean, axes)
            scores = Expand (column, sizes)
        }}"""
    )


def save(path: Path, color: Any = RED, size: tuple[int, int] = (16, 12), **extra: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **extra)
    return path


def two(root: Path) -> Path:
    for name in ("cat", "dog"):
        for index in range(4):
            save(root / name / f"{index}.png")
    return root


def first(source: Any, graph: onnx.ModelProto) -> np.ndarray[Any, Any]:
    dataset = data.open_dataset(source, graph)
    return np.asarray(dataset.train.take(np.arange(1)).feeds["image"][0])


def test_scale_mean_and_std(tmp_path: Path) -> None:
    root = two(tmp_path)
    pixel = np.array(RED, np.float32)
    np.testing.assert_allclose(first(root, model())[:, 0, 0], pixel / 255, rtol=1e-5)
    mean, std = (np.array(each, np.float32) for each in IMAGENET)
    for options, wanted in (
        ({"mean": "imagenet"}, (pixel / 255 - mean) / std),
        ({"mean": "imagenet", "color": "bgr"}, ((pixel / 255 - mean) / std)[::-1]),
        ({"scale": 1.0}, pixel),
        ({"scale": 1.0, "mean": 127.5, "std": 127.5}, pixel / 127.5 - 1),
        ({"mean": (0.1, 0.2, 0.3), "std": (1, 2, 4)}, (pixel / 255 - (0.1, 0.2, 0.3)) / (1, 2, 4)),
        ({"color": "bgr"}, pixel[::-1] / 255),
    ):
        found = first(data.folder(root, **options), model())  # type: ignore[arg-type]
        np.testing.assert_allclose(found[:, 3, 5], wanted, rtol=1e-4, err_msg=str(options))


def test_models_of_integers_are_given_pixels(tmp_path: Path) -> None:
    found = first(two(tmp_path), model("N,8,8,3", "uint8"))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[2, 2], RED)
    with pytest.raises(UsageError, match="for models of floats; input 'image' is uint8"):
        first(data.folder(tmp_path, mean=0.5), model("N,8,8,3", "uint8"))
    with pytest.raises(DataError, match="do not fit input 'image' of int8"):
        first(tmp_path, model("N,8,8,3", "int8"))


def test_sizes_of_dynamic_models_and_layouts(tmp_path: Path) -> None:
    root = two(tmp_path)
    dynamic = model("N,3,H,W")
    with pytest.raises(DataError, match=r"height and width of 'image' are open .* --size 224"):
        first(root, dynamic)
    assert first(data.folder(root, size=10), dynamic).shape == (3, 10, 10)
    assert first(data.folder(root, size=(4, 6)), dynamic).shape == (3, 4, 6)
    assert first(data.folder(root, size=(4, 6), layout="nhwc"), model("N,H,W,C")).shape == (4, 6, 3)
    with pytest.raises(UsageError, match="size 9 x 9, but 'image' is"):
        first(data.folder(root, size=9), model())
    with pytest.raises(DataError, match="layout=nchw or nhwc"):
        first(root, model("N,C,H,W"))


def test_resizing(tmp_path: Path) -> None:
    for name in ("cat", "dog"):  # the left half is white
        image = Image.new("RGB", (40, 20))
        image.paste((255, 255, 255), (0, 0, 20, 20))
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.png")
    stretched, cropped, boxed = (
        first(data.folder(tmp_path, scale=1.0, resize=how), model())[0]  # type: ignore[arg-type]
        for how in ("stretch", "crop", "letterbox")
    )
    assert (stretched[0, :2] == 255).all()
    assert (cropped[0, :2] == 255).all()
    assert (cropped[0, -2:] == 0).all()
    assert (boxed[0] == 114).all()
    assert (boxed[4, :2] == 255).all()
    with pytest.raises(UsageError, match=r"unknown resize 'fit'; there are .*stretch"):
        data.folder(tmp_path, resize="fit")  # type: ignore[arg-type]


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 32))
    image.paste((255, 255, 255), (0, 0, 32, 32))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees: white on top
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.jpg", exif=exif, quality=95)
    found = first(tmp_path, model())
    assert found[:, :3].min() > 0.9
    assert found[:, -3:].max() < 0.1


def test_images_without_classes_are_unlabelled(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / "flat" / f"{index}.png")
        save(tmp_path / "one" / "pictures" / f"{index}.png")
    for name in ("flat", "one"):
        dataset = data.open_dataset(tmp_path / name, model())
        assert dataset.answer is None
        assert validate(dataset, model()).loss == "distill"
        assert "no labels" in dataset.notes[0]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no images"):
        data.open_dataset(tmp_path / "none", model())


def test_the_classes_are_those_of_the_model(tmp_path: Path) -> None:
    root = two(tmp_path / "images")
    with pytest.raises(DataError, match=r"2 classes \(cat, dog\), the model's output has 3; give the names"):
        data.open_dataset(root, model(classes=3))
    names = tmp_path / "names.txt"
    names.write_text("dog\n\nbird\ncat\n")
    for classes in (names, ["dog", "bird", "cat"]):
        dataset = data.open_dataset(data.folder(root, classes=classes), model(classes=3))
        assert sorted(set(dataset.train.answers.tolist())) == [0, 2]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="folder 'cat' is not among the 2 given classes"):
        data.open_dataset(data.folder(root, classes=["dog", "bird"]), model())
    save(root / "eel" / "0.png")
    with pytest.raises(DataError, match=r"3 classes \(cat, dog, eel\), the model's output has 2"):
        data.open_dataset(root, model())


def test_what_is_hidden_or_beside_the_classes_is_not_read(tmp_path: Path) -> None:
    root = two(tmp_path / "train")
    two(tmp_path / "test")
    two(tmp_path / "val")
    (root / "cat" / "._0.png").write_bytes(b"a resource fork")
    save(root / ".ipynb_checkpoints" / "0.png")
    save(root / "beside.png")
    dataset = data.open_dataset(tmp_path, model())
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) == 8
    assert len(dataset.held_out or ()) == 8
    assert "1 images beside the class folders" in dataset.notes[0]
    assert dataset.notes[1] == f"{tmp_path / 'val'} is not read: the test part is {tmp_path / 'test'}"


def test_a_table_of_paths_and_labels(tmp_path: Path) -> None:
    two(tmp_path)
    rows = [f"{name}/{index}.png" for name in ("dog", "cat") for index in range(4)]
    table = tmp_path / "table.csv"
    for text, answers in (
        ("path,label\n" + "\n".join(f"{row},{row[:3]}" for row in rows), [0, 1]),
        ("\n".join(f"{row},{int(row < 'd')}" for row in rows), [0, 1]),
        ("label,file\n" + "\n".join(f"{row[:3]},{row}" for row in rows), [0, 1]),
        ("\n".join(rows), None),
    ):
        table.write_text(text)
        dataset = data.open_dataset(table, model())
        found = None if dataset.train.answers is None else sorted(set(dataset.train.answers.tolist()))
        assert found == answers
    table.write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match="numbers are to be saved as named arrays"):
        data.open_dataset(table, model())
    table.write_text("path,label\ncat/9.png,cat\n")
    with pytest.raises(DataError, match=r"row 1: .*9\.png: no such image"):
        data.open_dataset(table, model())


def test_an_image_is_decoded_once(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{index}.png", (index, 0, 0)) for index in range(4)]
    asked: list[Path] = []

    def decode(path: Path) -> np.ndarray[Any, Any]:
        asked.append(path)
        return np.full((2, 2, 3), files.index(path), np.uint8)

    decoded = Decoded(files, (2, 2, 3), 3 * 12)  # room for three
    for _ in range(3):
        for index in range(4):
            np.testing.assert_array_equal(decoded.get(index, decode), np.full((2, 2, 3), index))
    assert [asked.count(file) for file in files] == [1, 1, 1, 3]


def test_a_full_disk_only_costs_time(tmp_path: Path) -> None:
    decoded = Decoded([tmp_path], (2, 2, 3), 1000)

    class Full:
        def seek(self, _: int) -> None: ...

        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

    decoded._file.close()
    decoded._file = Full()  # type: ignore[assignment]
    for _ in range(2):
        assert decoded.get(0, lambda _: np.ones((2, 2, 3), np.uint8)).all()


def test_reading_ahead_keeps_the_order_and_ends_with_its_reader() -> None:
    def slow(value: int) -> int:
        time.sleep(0.01 * (value % 2))
        return value

    assert list(read_ahead(slow, range(20))) == list(range(20))
    before = threading.active_count()
    reader = read_ahead(slow, range(1000))
    assert next(reader) == 0
    reader.close()  # type: ignore[attr-defined]
    for _ in range(100):
        if threading.active_count() <= before:
            break
        time.sleep(0.02)
    assert threading.active_count() <= before
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda value: 1 // value, [1, 0]))


def test_batches_are_the_same_read_ahead_or_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(8):
            save(tmp_path / name / f"{index}.png", (index * 20, 0, 0))
    train = data.open_dataset(tmp_path, model()).train
    batches = list(train.batches(4, np.random.default_rng(3), epochs=2))
    rng = np.random.default_rng(3)
    orders = [rng.permutation(len(train)) for _ in range(2)]
    chosen = [
        order[start : start + 4] for order in orders for start in range(0, len(train) - len(train) % 4, 4)
    ]
    for batch, positions in zip(batches, chosen, strict=True):
        np.testing.assert_array_equal(batch.feeds["image"], train.take(positions).feeds["image"])


def test_options_of_images_are_not_for_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=np.zeros((4, 3, 8, 8), np.float32))
    with pytest.raises(UsageError, match=r"mean means nothing for .* which holds arrays"):
        data.read(tmp_path / "d.npz", images=data.ImageOptions(mean="imagenet"))
    with pytest.raises(UsageError, match=r"ignore_label means nothing for .* which holds images"):
        data.read(two(tmp_path / "i"), arrays=data.ArrayOptions(ignore_label=3))
    with pytest.raises(UsageError, match=r"std 0\.0: nothing can be divided by 0"):
        data.folder(two(tmp_path / "j"), std=0.0)
