"""How data are read, as the command line says it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image

import tgonnx as tg
from tgonnx.cli import main
from tgonnx.cli.preprocessing import Preprocessing
from tgonnx.data import open_dataset
from tgonnx.errors import UsageError


def classifier() -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,2] y) '
        "{ m = ReduceMean<axes = [2,3], keepdims = 0>(x) s = Constant<value_ints = [0]>() "
        "e = Constant<value_ints = [2]>() a = Constant<value_ints = [1]>() y = Slice(m, s, e, a) }"
    )


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
    said = Preprocessing(
        mean="0.5,0.4,0.3", std="imagenet", color="bgr", classes=str(tmp_path / "names.txt"), scale="0.01"
    )
    plain = tg.data.folder(
        folder, mean=(0.5, 0.4, 0.3), std="imagenet", scale=0.01, color="bgr", classes=["dog", "cat"]
    )
    ours, theirs = (open_dataset(source, classifier()).train for source in (said.source(folder), plain))
    a, b = (part.take(np.arange(len(part))) for part in (ours, theirs))
    np.testing.assert_array_equal(a.feeds["x"], b.feeds["x"])
    np.testing.assert_array_equal(a.answers["y"], b.answers["y"])
    unsaid = open_dataset(folder, classifier()).train
    assert not np.allclose(unsaid.take(np.arange(len(unsaid))).feeds["x"], a.feeds["x"])


def test_arrays_are_read_as_in_python(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.full((20, 3, 8, 8), 51, np.uint8), label=np.arange(20) % 2)
    taken = open_dataset(Preprocessing(scale="0.1").source(path), classifier()).train.take(np.arange(2))
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
    with pytest.raises(UsageError, match="are for images"):
        Preprocessing(mean="0.5").source(tmp_path / "d.npz")
