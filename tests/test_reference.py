"""The reference is made from the code and has all of it; every link of the documents leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

import tgonnx as tg
from tgonnx.cli import app
from tgonnx.options import specs

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
LONGEST_README = 120


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


def test_every_command_and_option_is_in_the_reference(reference: ModuleType) -> None:
    text = reference.commands_page()
    group = typer.main.get_command(app.app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        part = text.partition(f"## tgonnx {name}\n")[2].partition("\n## ")[0]
        options = [
            option for parameter in command.params for option in parameter.opts if option.startswith("--")
        ]
        assert [option for option in options if option not in part] == [], name
        assert f"    tgonnx {name}" in part or name in ("doctor",)


def test_every_public_name_is_in_the_reference(reference: ModuleType) -> None:
    text = reference.python_page()
    for name in tg.__all__:
        part = text.partition(f"## tg.{name}\n")[2].partition("\n## ")[0]
        assert len(part.split()) > 4, name
    for name in specs(tg.Recipe):
        assert f"| `{name}` |" in text


def test_the_pages_are_written(reference: ModuleType, tmp_path: Path) -> None:
    reference.main(str(tmp_path / "made"))
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["commands.md", "python.md"]


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in LINK.findall(path.read_text()):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_site() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert listed == pages | {"reference/commands.md", "reference/python.md"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README
