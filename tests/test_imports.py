"""What an import costs: `import tgonnx` loads nothing heavy, and its names are there all the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tgonnx
from tgonnx.analysis.coupling import Attention

ROOT = Path(tgonnx.__file__).parents[1]
HEAVY = {"onnxruntime", "networkx", "onnx_graphsurgeon"}


def loaded_by(program: str) -> set[str]:
    """The modules that a fresh process has loaded after `program`."""
    child = [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules, file=sys.stderr)"]
    return set(subprocess.run(child, capture_output=True, text=True, check=True).stderr.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    found = loaded_by("import tgonnx")
    assert "tgonnx" in found
    assert not found & (HEAVY | {"onnx", "rich", "typer"})


def test_help_loads_nothing_heavy() -> None:
    found = loaded_by("import tgonnx.cli\ntgonnx.cli.main(['prune', '--help'])")
    assert "tgonnx.cli" in found
    assert not found & (HEAVY | {"onnx"})


def test_analysis_loads_no_runtime_that_it_does_not_ask() -> None:
    found = loaded_by("import tgonnx\ntgonnx.load, tgonnx.analyze, tgonnx.select, tgonnx.Mask")
    assert "tgonnx.analysis.solver" in found
    assert not found & HEAVY


def test_no_public_name_loads_the_runtime() -> None:
    found = loaded_by("from tgonnx import *")
    assert "tgonnx.pipeline" in found
    assert "onnxruntime" not in found


def test_public_names_are_listed_and_there() -> None:
    assert set(tgonnx.__all__) <= set(dir(tgonnx))
    assert [name for name in tgonnx.__all__ if getattr(tgonnx, name) is None] == []
    from tgonnx.analysis.cost import Target

    assert tgonnx.Target is Target
    assert tgonnx.data.npz


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="'tgonnx' has no attribute 'prunes'"):
        _ = tgonnx.prunes


def test_a_model_is_analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from small_task import network

    from tgonnx.analysis import solver

    asked: list[str] = []
    solve = solver.solve

    def counted(model: tgonnx.Model, attention: Attention = "heads") -> tgonnx.Coupling:
        asked.append(attention)
        return solve(model, attention)

    monkeypatch.setattr(solver, "solve", counted)
    model = tgonnx.load(network())
    mask = tgonnx.select(tgonnx.analyze(model), tgonnx.Target(flops=0.5), "l2")
    tgonnx.gate(model, mask)
    tgonnx.apply(model, mask)
    assert asked == ["heads"]
    assert tgonnx.analyze(model, "head-dim").attention == "head-dim"
    assert asked == ["heads", "head-dim"]


def test_onnxruntime_has_one_door() -> None:
    door = ROOT / "tgonnx" / "runtime" / "sessions.py"
    for path in (*(ROOT / "tgonnx").rglob("*.py"), *(ROOT / "passes").glob("*.py")):
        if path.parent.name == "on_device":  # a program for where there is no tgonnx
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "onnxruntime" for name in names), path
            if isinstance(node, ast.Attribute) and node.attr in ("InferenceSession", "SessionOptions"):
                assert path == door
