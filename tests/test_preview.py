"""`tgonnx data`: what is said of data, and the picture of a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from test_images import RED, model, two
from test_loading import mlp

from tgonnx import data
from tgonnx.cli import main
from tgonnx.data.pictures import ImageInput
from tgonnx.errors import DataError, UnsupportedError, UsageError

WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"mean": "imagenet"},
    {"mean": (0.1, 0.2, 0.3), "std": (1, 2, 4), "color": "bgr"},
    {"scale": 1.0, "mean": 127.5, "std": 127.5},
)


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("shape", ["N,3,8,8", "N,8,8,3"])
def test_images_are_shown_as_they_were_before_their_preparation(
    options: dict[str, Any], shape: str, tmp_path: Path
) -> None:
    shown = data.preview(data.folder(two(tmp_path), **options), model(shape))
    assert shown.pixels is not None
    assert shown.pixels.shape == (7, 8, 8, 3)
    assert (shown.pixels == RED).all()
    assert set(shown.captions) == {"cat", "dog"}


@pytest.mark.parametrize("shape", [(12, 3, 8, 8), (12, 8, 8, 3)])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (-2, 3)])
def test_arrays_are_shown_from_black_to_white(shape: tuple[int, ...], low: float, high: float) -> None:
    values = np.linspace(low, high, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    image = ImageInput("image", shape[-1] == 3)
    pixels, how = image.pixels(values)
    assert pixels.shape == (12, 8, 8, 3)
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert f"{low}..{high}" in how


def test_the_picture_has_a_tile_for_each_sample(tmp_path: Path) -> None:
    shown = data.preview(two(tmp_path / "i"), model(), samples=4)
    shown.save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture)
    assert len(shown.batch) == 4
    assert (pixels == RED).all(-1).sum() == 4 * 96 * 96  # 8 x 8, each pixel magnified to 12 x 12
    with pytest.raises(UsageError, match="exists"):
        shown.save(tmp_path / "p.png")
    shown.save(tmp_path / "p.png", overwrite=True)
    with pytest.raises(UsageError, match=r"p\.jpg: a preview is a \.png file"):
        shown.save(tmp_path / "p.jpg")


def test_what_is_no_image_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((40, 8)).astype(np.float32), "label": rng.integers(0, 4, 40)}
    shown = data.preview(arrays, mlp())
    assert shown.pixels is None
    assert ("picture", f"none: {shown.no_picture}") in shown.rows
    with pytest.raises(UnsupportedError, match="data: there is no picture to draw: no input"):
        shown.save(tmp_path / "p.png")
    features = data.preview({"image": np.zeros((20, 7, 8, 8), np.float32)}, model("N,7,8,8"))
    assert features.no_picture == "samples of 'image' are 7x8x8, without 1, 3 or 4 channels"


def test_wrong_data_are_no_preview() -> None:
    values = np.zeros((20, 3, 8, 8), np.float32)
    values[3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        data.preview({"image": values}, model())


def test_the_command_says_what_it_reads_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    given = ["data", str(tmp_path / "m.onnx"), "--data", str(two(tmp_path / "i")), "--mean", "imagenet"]
    picture = tmp_path / "p.png"
    assert main([*given, "--preview", str(picture)]) == 0
    said = capsys.readouterr().out
    for text in (
        "7 to learn from, 1 held out",
        "2: cat, dog",
        "float32[N, 3, 8, 8]",
        "0.485, 0.456",
        "wrote ",
    ):
        assert text in said
    assert picture.exists()
    assert main([*given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert ["classes", "2: cat, dog"] in told["rows"]
    assert told["preview"] is None
    assert main([*given, "--preview", str(picture)]) == 2
    assert "exists" in capsys.readouterr().err


def test_the_command_refuses_what_prune_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.zeros((40, 8), np.float32), label=np.full(40, 9))
    given = ["data", str(tmp_path / "m.onnx"), "-d", str(tmp_path / "d.npz")]
    assert main([*given, "--preview", str(tmp_path / "p.png")]) == 5
    assert "label 9 of sample 0 is outside 0..3" in capsys.readouterr().err
    np.savez(tmp_path / "d.npz", x=np.zeros((40, 8), np.float32), label=np.full(40, 3))
    assert main([*given, "--preview", str(tmp_path / "p.png")]) == 4
    assert "there is no picture to draw" in capsys.readouterr().err
    assert main(given) == 0
    assert not (tmp_path / "p.png").exists()
