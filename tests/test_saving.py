"""Written completely or not at all, never over an input."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tgonnx.saving as saving
from tests.test_loading import mlp
from tgonnx.errors import UsageError, VerificationError
from tgonnx.loading import read
from tgonnx.saving import check_destination, save


def test_round_trip_and_permissions(tmp_path: Path) -> None:
    save(mlp(), tmp_path / "m.onnx")
    assert read(tmp_path / "m.onnx") == mlp()
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "m.onnx").stat().st_mode & 0o777 == 0o666 & ~mask
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_an_existing_file_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists already"):
        save(mlp(), path)
    assert path.read_bytes() == b"precious"
    save(mlp(), path, overwrite=True)
    assert read(path) == mlp()


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "dots"])
def test_an_input_is_never_overwritten(tmp_path: Path, link: str) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    save(mlp(), source)
    if link == "symlink":
        target.symlink_to(source)
    elif link == "hardlink":
        target.hardlink_to(source)
    else:
        target = source if link == "same" else tmp_path / ".." / tmp_path.name / "in.onnx"
    with pytest.raises(UsageError, match="never overwritten"):
        check_destination(target, overwrite=True, protect=[source])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"folder .* does not exist"):
        check_destination(tmp_path / "none" / "m.onnx")


def test_an_invalid_model_leaves_nothing(tmp_path: Path) -> None:
    broken = mlp()
    broken.graph.node[0].input[0] = "nowhere"
    with pytest.raises(VerificationError, match="not valid"):
        save(broken, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def test_large_models_keep_their_weights_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PROTOBUF_LIMIT", 500)
    save(mlp(), tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert read(tmp_path / "m.onnx") == mlp()
