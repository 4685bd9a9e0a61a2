"""A wheel installs and runs away from the sources, on every Python from 3.10 on that is present. Long: it downloads."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from small_task import network

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
SOURCES = ("tgonnx", "passes", "pyproject.toml", "README.md", "LICENSE")
PROGRAM = """
import tgonnx as tg
result = tg.prune("m.onnx", target="params=0.5")
result.save("python.onnx")
result.save("python.ort")
print(tg.__file__)
"""
pytestmark = pytest.mark.long


def clean() -> dict[str, str]:
    """The environment without what points at the sources."""
    gone = ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")
    return {name: value for name, value in os.environ.items() if name not in gone} | {"PYTHONNOUSERSITE": "1"}


def run(*words: str | Path, folder: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=clean(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def find_python(version: str) -> str:
    """The path of a Python, as .ci/run finds it; skips the test where there is none."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    tell = f"import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for name in (
        f"python{version}",
        *sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python")),
        "python3",
    ):
        if shutil.which(name) and not subprocess.run([name, "-c", tell], capture_output=True).returncode:
            return name
    pytest.skip(f"python {version} is not installed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the sources stay as they are."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        folder / "dist",
        folder / "source",
        folder=folder,
    )
    (made,) = (folder / "dist").glob("*.whl")
    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_a_wheel_installs_and_runs(version: str, wheel: Path, tmp_path: Path) -> None:
    python = find_python(version)
    run(python, "-m", "venv", "env", folder=tmp_path)
    bin_folder = tmp_path / "env" / "bin"
    run(bin_folder / "python", "-m", "pip", "install", "-q", wheel, folder=tmp_path)
    onnx.save(network(), tmp_path / "m.onnx")
    tgonnx = bin_folder / "tgonnx"
    assert run(tgonnx, "--version", folder=tmp_path).strip() == wheel.name.split("-")[1]
    run(tgonnx, "doctor", folder=tmp_path)
    told = json.loads(
        run(tgonnx, "prune", "m.onnx", "--target", "params=0.5", "-o", "s.onnx", "--json", folder=tmp_path)
    )
    assert told["target_met"]
    assert str(ROOT) not in run(bin_folder / "python", "-c", PROGRAM, folder=tmp_path)
    assert (tmp_path / "python.ort").read_bytes()[4:8] == b"ORTM"


def test_pipx_runs_the_wheel(wheel: Path, tmp_path: Path) -> None:
    if not shutil.which("pipx"):
        pytest.skip("pipx is not installed")
    said = run("pipx", "run", "--spec", wheel, "tgonnx", "--version", folder=tmp_path)
    assert said.strip() == wheel.name.split("-")[1]
