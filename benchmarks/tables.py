"""What tables over a folder of graphs share: finding the graphs, and printing rows."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

Cells = tuple[str, ...]
R = TypeVar("R")  # a row


def graphs(folder: Path, names: Sequence[str] = ()) -> Iterator[tuple[str, Path]]:
    """Name and file of every graph of a folder; packed ones are unpacked one at a time."""
    files = sorted(folder.glob("*.onnx"))
    packed = [] if files else sorted(folder.glob("*.onnx.xz"))
    for file in files:
        if not names or file.stem in names:
            yield file.stem, file
    for file in packed:
        name = file.name.removesuffix(".onnx.xz")
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="tgonnx-") as place:
            command = [sys.executable, str(folder / "zoo_pack.py"), "unpack", str(folder), place, name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            yield name, Path(place) / f"{name}.onnx"


class Promises:
    """What is promised, printed beside whether it is held; `broken` lists what is not."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def hold(self, true: bool, text: str) -> None:
        print("ok    " if true else "MISSED", text)
        if not true:
            self.broken.append(text)


def as_markdown(headings: Cells, lines: Sequence[Cells]) -> str:
    """The table as Markdown."""
    parts = [headings, ("---",) * len(headings), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in parts)


def measured(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    measure: Callable[[Path, str], R],
    cells: Callable[[R], Cells],
) -> list[R]:
    """A row for each graph of the folder that is asked for, told as it ends; without any, the program ends."""
    progress, rows = Console(stderr=True), list[R]()
    for name, file in graphs(options.folder, options.names):
        rows.append(measure(file, name))
        progress.print(" ".join(cells(rows[-1])), highlight=False, soft_wrap=True)
    if not rows:
        parser.error(f"{options.folder}: no .onnx files")
    return rows


def show(headings: Cells, lines: Sequence[Cells], failed: Sequence[bool], markdown: bool) -> None:
    """Print the table, for a document or for a terminal."""
    if markdown:
        print(as_markdown(headings, lines))
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(as_table(headings, lines, failed))


def as_table(headings: Cells, lines: Sequence[Cells], failed: Sequence[bool]) -> Table:
    """The table for a terminal; lines that failed are red."""
    table = Table(box=None)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if 0 < number < len(headings) - 1 else "left")
    for line, bad in zip(lines, failed, strict=True):
        table.add_row(*line, style="red" if bad else None)
    return table
