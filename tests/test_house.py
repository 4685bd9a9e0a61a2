"""The house is a one-way street: a folder imports only what stands before it, and every folder is in the wheel."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = (
    "errors options strategies graph ops io drawing runtime analysis selection data losses passes loading engines "
    "training proof pipeline api report cli"
).split()
LONGEST = 500  # lines of a file
MOST = 8  # parameters of a function
OF_THE_FILE = {"Constant", "If"}  # operators that are forms of the file, which are known by name
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def files() -> list[Path]:
    inside = [path for path in (ROOT / "tgonnx").rglob("*.py") if "passes" not in path.parts]
    return sorted([*inside, *(ROOT / "passes").glob("*.py")])


def floor_of(module: str) -> int | None:
    """The floor of a module below `tgonnx`; the package itself, which shows everything, has none."""
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS else None


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("tgonnx", *parts) if parts[0] == "passes" else parts)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tgonnx"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("tgonnx"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_nothing_that_stands_above_it(path: Path) -> None:
    own = floor_of(module_of(path))
    if own is None:
        assert module_of(path) in ("tgonnx.__init__", "tgonnx.__main__")
        return
    above = [name for name in imports(path) if (floor := floor_of(name)) is not None and floor > own]
    assert above == []


def test_every_folder_has_a_floor_and_is_in_the_wheel() -> None:
    folders = {path.parent for path in files() if path.parent.name != "passes"}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"tgonnx.passes"}
    assert {package.split(".")[1] for package in packages if "." in package} <= set(FLOORS)
    if tomllib is not None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        assert set(project["tool"]["setuptools"]["packages"]) == packages


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_has_too_many_parameters(path: Path) -> None:
    """The fields of options that `**fields` stands for are not counted: they are parameters of their classes."""
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, FUNCTIONS)]
    assert [f"line {n.lineno}: {count}" for n in functions if (count := parameters(n.args)) > MOST] == []


def parameters(of: ast.arguments) -> int:
    return len([*of.posonlyargs, *of.args, *of.kwonlyargs]) + (of.vararg is not None)


@pytest.mark.parametrize(
    "path",
    [p for p in files() if "passes" not in p.parts and "ops" not in p.parts],
    ids=lambda path: path.stem,
)
def test_operators_are_asked_for_their_traits(path: Path) -> None:
    """Passes rewrite one operator by name; elsewhere a name that is compared is knowledge in the wrong place."""
    compared = [
        constant.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and getattr(node.left, "attr", "") == "op_type"
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant)
    ]
    assert set(compared) <= OF_THE_FILE


def test_no_module_is_named_like_a_function_that_is_shown() -> None:
    import tgonnx

    shown = {name for name in tgonnx.__all__ if callable(getattr(tgonnx, name))}
    assert not shown & {path.stem for path in (ROOT / "tgonnx").iterdir()}
