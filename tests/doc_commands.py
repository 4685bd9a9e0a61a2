"""Running what documents tell users to type: the lines of ```sh blocks, in order, in a folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tgonnx.cli import main

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```sh(?P<kind>[ \w]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(document: str, title: str = "") -> str:
    """A document, or what stands in it below the heading `title`."""
    text = (ROOT / "docs" / document).read_text()
    if not title:
        return text
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return found[title]


def blocks(text: str, kind: str = "") -> Iterator[list[str]]:
    """The commands of each block of a kind, with lines that end in a backslash joined."""
    for found in BLOCK.finditer(text):
        if found["kind"].strip() == kind:
            yield [line for line in found["text"].replace("\\\n", " ").splitlines() if line.strip()]


def run(line: str, folder: Path, expected: int = 0) -> str:
    """Run one command there; what it printed. `tgonnx` runs in this process, others in a shell."""
    words = shlex.split(line)
    if words[0] == "tgonnx":
        before = Path.cwd()
        os.chdir(folder)
        try:
            assert main([*words[1:], "-q"]) == expected, line
        finally:
            os.chdir(before)
        return ""
    if words[0] == "python":
        line = shlex.join([sys.executable, *words[1:]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expected, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_all(text: str, folder: Path, change: Callable[[str], str] = lambda line: line) -> list[str]:
    """Run the commands of all plain blocks of a text. Returns those that ran."""
    lines = [change(line) for block in blocks(text) for line in block]
    for line in lines:
        run(line, folder)
    return lines


def beside(folder: Path) -> None:
    """Put the examples where the documents have them."""
    (folder / "examples").symlink_to(ROOT / "examples")


def needs(*programs: str) -> None:
    """Skip the test where a program is missing."""
    from shutil import which

    missing = [name for name in programs if not which(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
