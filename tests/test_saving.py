"""Written completely or not at all, never over an input."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import tgonnx.io.save as saving
from tests.test_loading import mlp
from tgonnx.cli.app import main
from tgonnx.errors import UsageError, VerificationError
from tgonnx.io.save import check_destination, save, save_anyway
from tgonnx.loading import read


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


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("m.TFLITE", "write 'm.onnx' and convert it"),
        ("m.pb", "write 'm.onnx'"),
        ("m.mlmodel", "write 'm.onnx'"),
        ("m.xml", "write 'm.onnx'"),
        ("m.bin", "write 'm.onnx'"),
        ("m.v1.2", "write 'm.v1.2.onnx'"),
        ("m.onnx.bak", "write 'm.onnx.bak.onnx'"),
    ],
)
def test_a_name_that_promises_another_format_is_refused(
    name: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(cure)):
        save(mlp(), name)
    assert os.listdir() == []
    save(mlp(), "in.onnx")
    for words in (["prune", "in.onnx"], ["gate", "in.onnx"], ["apply", "in.onnx", "--mask", "m.json"]):
        assert main([*words, "-o", name]) == 2
    assert os.listdir() == ["in.onnx"]


@pytest.mark.parametrize("name", ["m.onnx", "m.ONNX", "m", ".onnx"])
def test_a_name_may_have_no_ending(name: str, tmp_path: Path) -> None:
    save(mlp(), tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"folder .* does not exist"):
        check_destination(tmp_path / "none" / "m.onnx")


def test_an_invalid_model_leaves_nothing(tmp_path: Path) -> None:
    broken = mlp()
    broken.graph.node[0].input[0] = "nowhere"
    with pytest.raises(VerificationError, match="not valid"):
        save(broken, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def two_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PROTOBUF_LIMIT", 500)


def scaled(factor: float) -> onnx.ModelProto:
    """The small network with all weights times `factor`."""
    model = mlp()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def test_large_models_keep_their_weights_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_files(monkeypatch)
    save(mlp(), tmp_path / "m.onnx")
    graph, data = sorted(os.listdir(tmp_path))
    assert graph == "m.onnx"
    assert re.fullmatch(r"m\.onnx\.[0-9a-f]{16}\.data", data)
    assert read(tmp_path / "m.onnx") == mlp()


@pytest.mark.parametrize("large", [True, False])
def test_data_that_was_replaced_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    two_files(monkeypatch)
    path = tmp_path / "m.onnx"
    save(mlp(), path)
    (tmp_path / "other.data").write_bytes(b"not ours")
    if not large:
        monkeypatch.setattr(saving, "PROTOBUF_LIMIT", 2**31 - 1)
    save(scaled(2), path, overwrite=True)
    assert read(path) == scaled(2)
    assert len(os.listdir(tmp_path)) == (3 if large else 2)
    assert (tmp_path / "other.data").read_bytes() == b"not ours"


def test_data_that_an_input_needs_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_files(monkeypatch)
    save(mlp(), tmp_path / "m.onnx")
    shutil.copy(tmp_path / "m.onnx", tmp_path / "in.onnx")
    save(scaled(2), tmp_path / "m.onnx", overwrite=True, protect=[tmp_path / "in.onnx"])
    assert read(tmp_path / "in.onnx") == mlp()
    assert read(tmp_path / "m.onnx") == scaled(2)


@pytest.mark.parametrize("same", [True, False])
def test_a_failed_replacement_leaves_the_old_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    two_files(monkeypatch)
    path = tmp_path / "m.onnx"
    save(mlp(), path)
    before = sorted(os.listdir(tmp_path))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving, "_place", fail)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        save(mlp() if same else scaled(2), path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == before
    assert read(path) == mlp()


KILLED = """
import os, signal, sys
import onnx
import tgonnx.io.save as saving
from tests.test_saving import scaled
saving.PROTOBUF_LIMIT = 500
wanted, count = int(sys.argv[2]), 0
def counting(call):
    def run(*arguments, **options):
        global count
        count += 1
        if count == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return run
for name in ("replace", "link", "fsync", "unlink", "open"):
    setattr(os, name, counting(getattr(os, name)))
saving.save(scaled(2), sys.argv[1], overwrite=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_a_killed_replacement_leaves_the_old_pair_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_files(monkeypatch)
    root = str(Path(saving.__file__).parents[2])
    path = tmp_path / "m.onnx"
    seen = []
    for moment in range(1, 40):
        for file in tmp_path.iterdir():
            file.unlink()
        save(mlp(), path)
        child = subprocess.run([sys.executable, "-c", KILLED, str(path), str(moment)], cwd=root, check=False)
        seen.append(read(path) == scaled(2))
        assert seen[-1] or read(path) == mlp()
        if child.returncode == 0:
            break
    assert child.returncode == 0
    assert seen[0] is False  # killed before anything happened
    assert seen[-2] is True  # killed when all was done but the old data
    assert seen == sorted(seen)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "real.onnx", tmp_path / "link.onnx"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with pytest.raises(UsageError, match="exists already"):
        save(mlp(), link)
    save(mlp(), link, overwrite=True)
    assert link.is_symlink()
    assert read(real) == mlp()
    dangling = tmp_path / "dangling.onnx"
    dangling.symlink_to(tmp_path / "new.onnx")
    save(mlp(), dangling, overwrite=True)
    assert read(tmp_path / "new.onnx") == mlp()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device"])
def test_devices_and_pipes_are_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "special"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path(os.devnull)
    else:
        path.symlink_to(os.devnull)
    before = path.stat().st_mode
    with pytest.raises(UsageError, match="a device or a pipe"):
        save(mlp(), path, overwrite=True)
    assert path.stat().st_mode == before


def test_the_longest_name_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ("é" * 125 + ".onnx")
    save(mlp(), path)
    assert read(path) == mlp()
    two_files(monkeypatch)
    save(mlp(), path, overwrite=True)
    assert read(path) == mlp()
    with pytest.raises(UsageError, match="name too long"):
        save(mlp(), tmp_path / ("m" * 256))


def test_a_name_that_is_taken_at_the_last_moment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    check = onnx.checker.check_model

    def slow(*arguments: object) -> None:
        path.write_bytes(b"precious")
        check(*arguments)

    monkeypatch.setattr(onnx.checker, "check_model", slow)
    with pytest.raises(UsageError, match="exists already"):
        save(mlp(), path)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["m.onnx"]


def fallback(folder: Path, monkeypatch: pytest.MonkeyPatch, wanted: Path) -> tuple[Path, str]:
    here, elsewhere = folder / "here", folder / "elsewhere"
    for place in (here, elsewhere):
        place.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(elsewhere))
    where, why = save_anyway(lambda path: save(mlp(), path), wanted)
    assert read(where) == mlp()
    assert where.name in why
    return where, why


def test_a_result_finds_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tmp_path / "m.onnx"
    wanted.write_bytes(b"precious")
    where, why = fallback(tmp_path, monkeypatch, wanted)
    assert where == tmp_path / "m-1.onnx"
    assert "exists already" in why
    assert wanted.read_bytes() == b"precious"


def test_a_result_finds_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, why = fallback(tmp_path, monkeypatch, tmp_path / "gone" / "m.onnx")
    assert where == tmp_path / "here" / "m-1.onnx"
    assert "does not exist" in why


def test_a_result_with_nowhere_to_go_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise UsageError(f"{path}: cannot be written: No space left on device")

    with pytest.raises(UsageError, match=r"wanted\.onnx: cannot be written"):
        save_anyway(fail, tmp_path / "wanted.onnx")
