"""A table of wrong and odd data and options: what each comes to on the command line, and in which words.

What is refused is refused alike by `tgonnx data` and `tgonnx prune`: one line, the same exit code, nothing written.
What is odd and can be read is read, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from test_bad_input import refused
from test_images import model, save, two

from tgonnx.cli import main

Make = Callable[[Path], Path]
COUNT = 40


def good() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((COUNT, 3, 8, 8)).astype(np.float32)
    return {"image": image, "label": np.arange(COUNT) % 2}


def npz(**changes: Any) -> Make:
    """The good arrays with some changed, or left out if None."""

    def make(root: Path) -> Path:
        kept = {name: array for name, array in (good() | changes).items() if array is not None}
        np.savez(root / "d.npz", **kept)
        return root / "d.npz"

    return make


def raw(name: str, content: bytes) -> Make:
    def make(root: Path) -> Path:
        (root / name).write_bytes(content)
        return root / name

    return make


def folder(change: Callable[[Path], object] = lambda _: None) -> Make:
    """Class folders cat and dog of four images, changed."""

    def make(root: Path) -> Path:
        change(two(root / "images"))
        return root / "images"

    return make


def table(text: str) -> Make:
    def make(root: Path) -> Path:
        two(root)
        (root / "t.csv").write_text(text)
        return root / "t.csv"

    return make


def flat(root: Path) -> Path:
    for number in range(4):
        save(root / "images" / f"{number}.png")
    return root / "images"


def huge(side: int) -> Make:
    return folder(lambda root: Image.new("1", (side, side)).save(root / "cat" / "0.png"))


def rows(*label: object) -> str:
    """A table of the eight images, with labels in turn if there are some."""
    files = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(4)]
    return "\n".join(f"{file},{label[i % len(label)]}" if label else file for i, file in enumerate(files))


SPOILED = good()["image"]
SPOILED[7, 1, 2, 3] = np.nan
GREY = (3.0 * good()["image"] + 100).clip(0, 255).astype(np.uint8)
NHWC = np.ascontiguousarray(good()["image"].transpose(0, 2, 3, 1))
PATHS = rows()

# case: what makes the data, options, exit code, what the line says
REFUSED: dict[str, tuple[Make, list[str], int, str]] = {
    "no such file": (lambda root: root / "none.npz", [], 2, "none.npz: no such file or folder"),
    "a png as npz": (raw("d.npz", b"\x89PNG\r\n\x1a\n...."), [], 5, "an image; data are"),
    "a table as npz": (raw("d.npz", b"a,b\n1,2\n"), [], 5, "not a readable .npz file but text"),
    "an empty npz": (raw("d.npz", b""), [], 5, "d.npz"),
    "no arrays": (npz(image=None, label=None), [], 5, "no array for input 'image'"),
    "labels instead of label": (npz(label=None, labels=good()["label"]), [], 5, "did you mean 'label'"),
    "y instead of label": (npz(label=None, y=good()["label"]), [], 5, "did you mean 'label'"),
    "an array for nobody": (npz(weights=np.ones(COUNT)), [], 5, "'weights' is read by nothing"),
    "another name of the input": (npz(image=None, images=good()["image"]), [], 5, "rename 'images' to 'image'"),
    "channels last": (npz(image=NHWC), [], 5, "it looks like NHWC: give image.transpose(0, 3, 1, 2)"),
    "one image without its axis": (npz(image=good()["image"][0]), [], 5, "'image' has 3, 'label' has 40"),
    "another size": (npz(image=good()["image"][..., :7]), [], 5, "has shape (40, 3, 8, 7)"),
    "NaN in an image": (npz(image=SPOILED), [], 5, "first in sample 7"),
    "text for pixels": (npz(image=np.full((COUNT, 3, 8, 8), "a")), [], 5, "has type <U1"),
    "complex pixels": (npz(image=good()["image"].astype(np.complex64)), [], 5, "has type complex64"),
    "bytes without labels": (npz(image=GREY, label=None), [], 5, "without labels it cannot be told"),
    "bytes whose labels cannot tell": (npz(image=GREY), [], 5, "Say scale=1 or scale=1/255"),
    "a scale that is none": (npz(image=GREY, scale=np.array([1.0, 2.0])), [], 5, "array 'scale' is no number"),
    "labels from 1": (npz(label=np.arange(COUNT) % 2 + 1), [], 5, "1..2 were found: subtract 1"),
    "a label too many": (npz(label=np.arange(COUNT) % 3), [], 5, "label 2 of sample 2 is outside 0..1"),
    "one-hot labels": (npz(label=np.eye(2, dtype=int)[np.arange(COUNT) % 2]), [], 5, "label.argmax(1)"),
    "labels of floats": (npz(label=good()["label"] * 1.0), [], 5, "give label.astype(numpy.int64)"),
    "labels as words": (npz(label=np.full(COUNT, "cat")), [], 5, "number the classes"),
    "labels of 255": (npz(label=np.where(np.arange(COUNT) == 3, 255, 0)), [], 5, "ignore_label=255"),
    "all labels ignored": (npz(label=np.zeros(COUNT, int)), ["--ignore-label", "0"], 5, "all labels are ignored"),
    "fewer labels than images": (npz(label=np.zeros(39, int)), [], 5, "'image' has 40, 'label' has 39"),
    "test images without labels": (npz(test_image=good()["image"]), [], 5, "array 'test_label' is missing"),
    "label and target": (npz(target=np.zeros((COUNT, 2))), [], 5, "both 'label' and 'target'"),
    "classes called target": (npz(label=None, target=good()["label"]), [], 5, "rename it to 'label'"),
    "infinite targets": (npz(label=None, target=np.full((COUNT, 2), np.inf)), [], 5, "NaN or infinite"),
    "a constant for nobody": (npz(), ["--const", "sr=16000"], 2, "the model has no input 'sr'"),
    "an axis that is not there": (npz(), ["--axes", "image=9"], 2, "image"),
    "a mean for arrays": (npz(), ["--mean", "imagenet"], 2, "--mean means nothing for"),
    "a size for arrays": (npz(), ["--size", "8"], 2, "--size means nothing for"),
    "an empty folder": (lambda root: root, [], 5, "no images (.png"),
    "a broken image": (folder(lambda r: (r / "cat" / "0.png").write_bytes(b"?")), [], 5, "not a readable image"),
    "a huge image": (huge(9000), [], 5, "0.png: has 9000 x 9000 pixels, more than 80,000,000"),
    "an image that is a bomb": (huge(14_000), [], 5, "0.png: has more than 80,000,000 pixels"),
    "one class too many": (folder(lambda r: save(r / "eel" / "0.png")), [], 5, "3 classes (cat, dog, eel)"),
    "ignored labels of images": (folder(), ["--ignore-label", "0"], 2, "--ignore-label means nothing for"),
    "a mean of two channels": (folder(), ["--mean", "0.5,0.5"], 2, "--mean needs 1 or 3 entries, not 2"),
    "another size than the model's": (folder(), ["--size", "9"], 2, "size 9 x 9, but 'image' is"),
    "a scale of 0": (folder(), ["--scale", "0"], 2, "--scale 0 is not a number above 0"),
    "no file of classes": (folder(), ["--classes", "none.txt"], 2, "not a readable file of names"),
    "a class test alone": (
        folder(lambda r: [two(r / "train"), save(r / "test" / "eel" / "0.png")]), [], 5,
        "class 'eel' is not among the training classes",
    ),
    "a row without an image": (table("path,label\ncat/9.png,cat\n"), [], 5, "row 1: "),
    "some rows without labels": (table(PATHS + "\ncat/0.png,cat"), [], 5, "8 of 9 rows have no label"),
    "a table of numbers": (table("a,b\n1,2\n"), [], 5, "saved as named arrays with numpy.savez"),
    "numbers of classes beyond": (table(rows(0, 5)), [], 5, "is outside 0..1"),
    "an empty table": (table(""), [], 5, "a table must have image paths"),
}  # fmt: skip

# case: what makes the data, options, what is said
READ: dict[str, tuple[Make, list[str], list[str]]] = {
    "images without folders": (flat, [], ["without class folders: they have no labels", "imitated"]),
    "a single folder": (
        lambda root: save(root / "one" / "pictures" / "0.png").parent.parent, [], ["in one folder (pictures)"],
    ),
    "images beside the classes": (
        folder(lambda r: save(r / "beside.png")), [], ["1 images beside the class folders", "2: cat, dog"],
    ),
    "hidden files": (folder(lambda r: (r / "cat" / "._0.png").write_bytes(b"?")), [], ["7 to learn from, 1 held"]),
    "two test folders": (
        folder(lambda r: [two(r / "train"), two(r / "test"), two(r / "val")]), [],
        ["8 to learn from, 8 held out", "val is not read"],
    ),
    "grey images for a colour model": (
        folder(lambda r: Image.new("L", (9, 9), 7).save(r / "cat" / "0.png")), [], ["8 x 8, stretch, rgb"],
    ),
    "images with transparency": (
        folder(lambda r: Image.new("RGBA", (9, 9)).save(r / "cat" / "0.png")), [], ["7 to learn from"],
    ),
    "a table without labels": (table(PATHS), [], ["the table has no labels: the original is imitated"]),
    "a table of class numbers": (table(rows(0, 1)), [], ["2 different ones"]),
    "a single sample": (npz(image=good()["image"][:1], label=np.zeros(1, int)), [], ["none held out"]),
    "pixels of doubles": (npz(image=good()["image"].astype(np.float64)), [], ["float32 [16, 3, 8, 8]"]),
    "labels of bytes": (npz(label=good()["label"].astype(np.uint8)), [], ["2 different ones"]),
    "some labels ignored": (
        npz(label=np.where(np.arange(COUNT) < 4, 1, 0)), ["--ignore-label", "1"],
        ["4 labels are ignored", "4 samples have no label that counts"],
    ),
    "bytes whose scale is said": (npz(image=GREY), ["--scale", "1"], ["from "]),
    "bytes whose scale is stored": (npz(image=GREY, scale=np.array(0.5)), [], ["from "]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_data_are_refused_by_both_commands(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, options, code, said = REFUSED[case]
    place = tmp_path / "data"
    place.mkdir()
    source = make(place)
    monkeypatch.chdir(tmp_path)
    onnx.save(model(), "m.onnx")
    before = sorted(map(str, tmp_path.rglob("*")))
    for command in ("data", "prune"):
        refused([command, "m.onnx", "--data", str(source), *options], code, said, capsys)
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("case", READ)
def test_odd_data_are_read_and_that_is_said(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, options, words = READ[case]
    place = tmp_path / "data"
    place.mkdir()
    source = make(place)
    onnx.save(model(), tmp_path / "m.onnx")
    assert main(["data", str(tmp_path / "m.onnx"), "--data", str(source), *options]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for word in words:
        assert word in told


def test_the_table_is_as_long_as_promised() -> None:
    assert len(REFUSED) + len(READ) >= 40
