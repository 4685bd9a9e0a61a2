"""How data are read, as the command line says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image

import tgonnx as tg
from tgonnx.cli import main
from tgonnx.data import DataOptions, Source, open_dataset, read
from tgonnx.data.options import ImageOptions
from tgonnx.errors import OptionError, UsageError, flag


def classifier() -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,2] y) '
        "{ m = ReduceMean<axes = [2,3], keepdims = 0>(x) s = Constant<value_ints = [0]>() "
        "e = Constant<value_ints = [2]>() a = Constant<value_ints = [1]>() y = Slice(m, s, e, a) }"
    )


def source(path: Path, **text: object) -> Source:
    """The data at a path, read as the command line says it."""
    options = DataOptions(**text)  # type: ignore[arg-type]
    return read(path, arrays=options, images=options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(
                tmp_path / "images" / name / f"{i}.png"
            )
    return tmp_path / "images"


def test_images_are_read_as_in_python(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    classes = str(tmp_path / "names.txt")
    said = source(folder, mean="0.5,0.4,0.3", std="imagenet", color="bgr", classes=classes, scale="0.01")
    plain = tg.data.folder(
        folder, mean=(0.5, 0.4, 0.3), std="imagenet", scale=0.01, color="bgr", classes=["dog", "cat"]
    )
    ours, theirs = (open_dataset(source, classifier()).train for source in (said, plain))
    a, b = (part.take(np.arange(len(part))) for part in (ours, theirs))
    np.testing.assert_array_equal(a.feeds["x"], b.feeds["x"])
    np.testing.assert_array_equal(a.answers["y"], b.answers["y"])
    unsaid = open_dataset(folder, classifier()).train
    assert not np.allclose(unsaid.take(np.arange(len(unsaid))).feeds["x"], a.feeds["x"])


def test_arrays_are_read_as_in_python(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.full((20, 3, 8, 8), 51, np.uint8), label=np.arange(20) % 2)
    taken = open_dataset(source(path, scale="0.1"), classifier()).train.take(np.arange(2))
    np.testing.assert_allclose(taken.feeds["x"], 5.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mean", "a"], "--mean 'a' is neither numbers"),
        (["--size", "0x3"], "--size '0x3' is neither a number nor height x width"),
        (["--const", "sr"], "--const 'sr' is not an input and its numbers"),
        (["--resize", "stretsh"], "stretsh"),
        (["--scale", "x"], "--scale 'x' is not a number"),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(classifier(), model)
    assert main(["verify", str(model), str(model), "--data", str(folder), *options]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_options_of_images_are_refused_for_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    with pytest.raises(UsageError, match=r"mean means nothing for .*d\.npz, which holds arrays"):
        source(tmp_path / "d.npz", mean="0.5")


def test_options_of_arrays_are_refused_for_images(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"const means nothing for .*images, which holds images"):
        source(folder, const=["sr=16000"])
    source(folder, scale="0.5")  # both have one


@pytest.mark.parametrize(
    ("name", "value", "text", "read_as"),
    [
        ("mean", (0.5, 0.4), "0.5,0.4", (0.5, 0.4)),
        ("mean", np.array([0.5]), "0.5", 0.5),
        ("mean", "imagenet", "imagenet", "imagenet"),
        ("std", None, "auto", None),
        ("scale", 0.1, "0.1", 0.1),
        ("size", (224, 320), "224x320", (224, 320)),
        ("size", np.int64(9), "9", 9),
        ("ignore_label", -100, "-100", -100),
        ("const", {"sr": 16000}, ["sr=16000"], {"sr": 16000}),
        ("const", {"s": [1, 0.5]}, ["s=1,0.5"], {"s": [1, 0.5]}),
        ("axes", {"x": 1, "sr": None}, ["x=1", "sr=none"], {"x": 1, "sr": None}),
        ("const", None, [], {}),
    ],
)
def test_text_means_what_python_says(name: str, value: object, text: object, read_as: object) -> None:
    assert getattr(DataOptions(**{name: value}), name) == read_as
    assert getattr(DataOptions(**{name: text}), name) == read_as


# option, its value in Python (text is what the command line is given), what both say
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("mean", "nan", "'nan' is neither numbers"),
        ("mean", "1,x", "'1,x' is neither numbers"),
        ("std", "0", "'0': nothing can be divided by 0"),
        ("std", "1,0,1", "nothing can be divided by 0"),
        ("scale", 0, "0 is not a number above 0"),
        ("scale", -1, "-1 is not a number of at least 0"),
        ("size", "1x2x3", "'1x2x3' is neither a number nor height x width"),
        ("size", "0", "'0' is neither a number nor height x width"),
        ("resize", "fit", "unknown resize 'fit'; there are "),
        ("color", "grey", "unknown color 'grey'; there are "),
        ("layout", "chw", "unknown layout 'chw'; there are "),
        ("ignore_label", "x", "'x' is not a whole number or auto"),
        ("const", "sr", "'sr' is not an input and its numbers"),
        ("const", "sr=fast", "'sr=fast' is not an input and its numbers"),
        ("axes", "x=first", "is not an input and the axis that counts its samples"),
    ],
)
def test_both_doors_refuse_in_the_same_words(
    name: str, value: object, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    arrays = name in ("const", "axes", "ignore_label")
    opened, place = (tg.data.npz, tmp_path / "d.npz") if arrays else (tg.data.folder, folder)
    with pytest.raises(OptionError) as error:
        opened(place, **{name: value})  # type: ignore[operator]
    assert said in str(error.value)
    onnx.save(classifier(), tmp_path / "m.onnx")
    model = str(tmp_path / "m.onnx")
    assert main(["verify", model, model, "--data", str(place), f"{flag(name)}={value}"]) == 2
    expected = str(error.value).replace(name, flag(name), 1)
    assert capsys.readouterr().err == f"error: {expected}\n"


def test_an_unknown_keyword_is_told_with_the_nearest(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.folder has no option 'colour'; did you mean color"):
        tg.data.folder(folder, colour="bgr")
    with pytest.raises(UsageError, match=r"data\.arrays has no option 'mean'"):
        tg.data.arrays({}, mean=0.5)


@pytest.mark.parametrize("scale", ["1/255", 1 / 255, "0.00392156862745098"])
def test_a_scale_may_be_a_fraction(scale: Any) -> None:
    assert ImageOptions(scale=scale).scale == 1 / 255


@pytest.mark.parametrize("scale", ["1/0", "1/2/3", "a/255", "-1/255", "1/", "/255", "0/255"])
def test_what_is_no_fraction(scale: str) -> None:
    with pytest.raises(OptionError, match="scale"):
        ImageOptions(scale=scale)
