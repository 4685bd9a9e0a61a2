"""Pictures as PNG, where the library is there, and in one line where it is not."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_task import network, samples

import tgonnx as tg
from tgonnx.cli import main
from tgonnx.drawing import files, png
from tgonnx.errors import UsageError


def test_pictures_are_drawn_as_png(tmp_path: Path) -> None:
    """Of twice the pixels, white behind, with bars in the colours of light surroundings."""
    pytest.importorskip("resvg_py")
    images = pytest.importorskip("PIL.Image")
    result = tg.prune(network(), None, "flops=0.5")
    drawing = result.plot()
    drawing.save(tmp_path / "kept.png")
    picture = np.asarray(images.open(BytesIO((tmp_path / "kept.png").read_bytes())).convert("RGB"))
    assert picture.shape[1] == 2 * (drawing.width + 32)
    assert picture.shape[0] == pytest.approx(2 * (drawing.height + 32), abs=2)
    assert (picture[:8] == 255).all()
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3  # text, bars, what there was
    with pytest.raises(UsageError, match="exists already"):
        drawing.save(tmp_path / "kept.png")


def test_runs_and_commands_have_them(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    onnx.save(network(), tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--svg", str(tmp_path / "c.png"), "-q"]) == 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    run = tmp_path / "run"
    tg.prune(network(), samples(100), "flops=0.7", epochs=1, run_dir=str(run), force=True, threads=1)
    names = {path.name for path in (run / "pictures").iterdir()}
    assert "kept.png" in names
    assert {Path(name).stem for name in names if name.endswith(".svg")} == {
        Path(name).stem for name in names if name.endswith(".png")
    }


def test_without_the_library_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read, and runs have SVG alone."""
    monkeypatch.setattr(png, "find_spec", lambda name: None)
    assert files.can_rasterise is png.can_rasterise
    with pytest.raises(
        UsageError, match=r"kept\.png: PNG needs resvg-py: pip install 'tgonnx\[png\]', or write \.svg"
    ):
        tg.prune(network(), None, "flops=0.5").plot().save(tmp_path / "kept.png")
    assert main(["inspect", str(tmp_path / "none.onnx"), "--svg", str(tmp_path / "c.png")]) == 2
    run = tmp_path / "run"
    tg.prune(network(), samples(100), "flops=0.7", epochs=1, run_dir=str(run), force=True, threads=1)
    assert {path.suffix for path in (run / "pictures").iterdir()} == {".svg"}
