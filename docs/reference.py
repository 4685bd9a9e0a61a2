"""The reference of all commands, options and functions, made from the code.

    python docs/reference.py FOLDER

writes commands.md and python.md there. For the site (`mkdocs build --strict`) the hook below makes them.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import tgonnx as tg
from tgonnx.cli import app
from tgonnx.options import specs

PAGES = {"reference/commands.md": "commands_page", "reference/python.md": "python_page"}


def commands_page() -> str:
    """Every command with its arguments, options, defaults and examples."""
    group: Any = typer.main.get_command(app.app)
    lines = ["# Command reference", "", "What `tgonnx COMMAND --help` says, in one page.", ""]
    for name in group.commands:
        lines += command(name, group.commands[name])
    return "\n".join(lines) + "\n"


def command(name: str, found: Any) -> Iterator[str]:
    """The section of one command."""
    context = found.make_context(name, [], resilient_parsing=True)
    yield from (f"## tgonnx {name}", "", plain(found.help or ""), "")
    yield from ("| option | does |", "|---|---|")
    for parameter in found.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            option, text = re.sub(r"[\s`]+", " ", record[0]).replace("|", "\\|"), cell(record[1])
            yield f"| `{option}` | {text} |"
    yield ""
    examples = re.findall(r"^  (tgonnx .*)$", found.epilog or "", re.MULTILINE)
    if examples:
        yield from (*(f"    {example}" for example in examples), "")


def python_page() -> str:
    """Every public name with its signature, fields and docstring."""
    lines = ["# Python reference", "", "What `import tgonnx as tg` gives.", ""]
    for name in sorted(tg.__all__):
        found = getattr(tg, name)
        if inspect.ismodule(found):
            lines += [f"## tg.{name}", "", *module(name, found)]
        else:
            lines += [f"## tg.{name}", "", *thing(found)]
    return "\n".join(lines) + "\n"


def module(name: str, found: Any) -> Iterator[str]:
    yield from (plain(found.__doc__ or ""), "")
    for inner in sorted(getattr(found, "__all__", ())):
        value = getattr(found, inner)
        if callable(value):
            yield from (f"### tg.{name}.{inner}", "", *thing(value))


def thing(found: Any) -> Iterator[str]:
    """A function, or a class with its fields and public methods."""
    if not inspect.isclass(found):
        yield from (
            *code(f"{found.__name__}{signature_of(found)}"),
            plain(inspect.getdoc(found) or ""),
            "",
        )
        return
    if not (inspect.getdoc(found) or "").startswith(f"{found.__name__}("):  # what dataclasses make up
        yield from (plain(inspect.getdoc(found) or ""), "")
    if dataclasses.is_dataclass(found):
        yield from fields(found)
    for name, member in vars(found).items():
        if name.startswith("_") or not (
            inspect.isfunction(member) or isinstance(member, property | classmethod)
        ):
            continue
        text = inspect.getdoc(member) or ""
        whole = isinstance(member, property)
        signature = "" if whole else signature_of(getattr(found, name))
        yield f"* `{name}{signature}`" + (f": {cell(text)}" if text else "")
    yield ""


def signature_of(function: Any) -> str:
    """Parameters and what comes back, types without the quotes that postponed annotations have."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))


def fields(found: Any) -> Iterator[str]:
    """A table of options, or the names and types of fields."""
    try:
        options = specs(found)
    except KeyError:  # a dataclass that is no class of options
        listed = ", ".join(f"`{field.name}`" for field in dataclasses.fields(found) if field.name[0] != "_")
        yield from (f"Fields: {listed}", "")
        return
    yield from ("| field | default | does |", "|---|---|---|")
    yield from (
        f"| `{n}` | `{cell(repr(spec.default))}` | {cell(spec.help)} |" for n, spec in options.items()
    )
    yield ""


def code(text: str) -> Iterator[str]:
    yield from ("```python", text, "```", "")


def plain(text: str) -> str:
    """Text without what typer marks paragraphs with, safe in Markdown."""
    return re.sub(r"(?<!`)<(?=\w)", r"\\<", text.replace("\b", "").strip())


def cell(text: str) -> str:
    """Text on one line, for a table."""
    return re.sub(r"\s+", " ", plain(text)).replace("|", "\\|")


def main(folder: str) -> None:
    for place, make in PAGES.items():
        path = Path(folder) / Path(place).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(globals()[make]())
        print(f"wrote {path}")


def on_files(files: Any, config: Any) -> Any:
    """A hook of mkdocs: the pages are part of the site, and not of the sources."""
    from mkdocs.structure.files import File

    for place, make in PAGES.items():
        files.append(File.generated(config, place, content=globals()[make]()))
    return files


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/reference.py FOLDER")
    main(sys.argv[1])
