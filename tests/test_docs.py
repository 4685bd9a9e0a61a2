"""Files and modules that documents and docstrings name are there."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_house import FLOORS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md")]
SOURCES = [
    path
    for folder in ("tgonnx", "passes", "benchmarks", "tests", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "tgonnx/passes" not in str(path)
]
PLACES = ("", "tgonnx", "tests", "benchmarks")  # where a file may be that is named in short
# files of other projects, and names in models
ELSEWHERE = {
    "run.py",  # in the folder that goes to a device
    "IR.md",
    "docs/ContribOperators.md",
    "zoo_pack.py",
    "script.py",
    "tgonnx.toml",
    "tgonnx.unverified",
    "tgonnx.gate_values",
    "tgonnx.version",
    "tgonnx.target",
    "tgonnx.mask",
    "tgonnx.original",
    "page/samples.py",
}
A_FILE = re.compile(r"(?<![\w/.*])((?:[\w.-]+/)*[\w-]+\.(?:py|md|svg))(?!\w)")
A_FOLDER = re.compile(r"`((?:tgonnx|passes|tests|docs|benchmarks|models)/[\w/]*)`")
A_MODULE = re.compile(r"(?<![\w./])(tgonnx(?:\.[A-Za-z_]\w*)+)")


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


def texts() -> list[tuple[str, str]]:
    named = [(str(path.relative_to(ROOT)), path.read_text()) for path in DOCUMENTS]
    return named + [(str(path.relative_to(ROOT)), "\n".join(docstrings(path))) for path in SOURCES]


def is_there(name: str, near: Path) -> bool:
    return any((folder / name).exists() for folder in (near, *(ROOT / place for place in PLACES)))


@pytest.mark.parametrize(("where", "text"), texts(), ids=[where for where, _ in texts()])
def test_what_is_named_is_there(where: str, text: str) -> None:
    near = (ROOT / where).parent
    stale = [name for name in A_FILE.findall(text) if not is_there(name, near)]
    stale += [name for name in A_FOLDER.findall(text) if not (ROOT / name).exists()]
    stale += [name for name in A_MODULE.findall(text) if not resolves(name)]
    assert set(stale) <= ELSEWHERE


def test_the_layout_lists_every_floor_in_order() -> None:
    rows = re.findall(r"^\| `(\w+)[/.]", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    assert [row for row in rows if row in FLOORS] == list(FLOORS)


def resolves(name: str) -> bool:
    """Is this a module, or something that one has?"""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False
