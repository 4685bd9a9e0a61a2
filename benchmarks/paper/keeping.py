"""What the paper's scripts share: rows that are kept as they end, trained networks, tables and a chart.

A script makes what is missing and prints what there is, so it can be interrupted. `--quick` does the same end to end at
a size of seconds, with files of its own: its figures say nothing but that the script works.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx

from tgonnx.drawing.svg import Drawing, dot, line, text

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # for what other benchmarks share

Row = dict[str, Any]
Points = Sequence[tuple[float, float]]


class Desk:
    """Where rows, pictures and trained networks of one script lie."""

    def __init__(self, name: str, quick: bool, out: Path | None) -> None:
        self.name, self.quick = name, quick
        if quick and out is None:
            out = Path(tempfile.mkdtemp(prefix="tgonnx-paper-"))
        self.rows_file = (out or ROOT / "benchmarks" / "results") / f"paper_{name}.jsonl"
        self.pictures = out or ROOT / "docs" / "paper"
        self.networks = (out or ROOT / "runs") / f"paper_{name}"
        for folder in (self.rows_file.parent, self.pictures, self.networks):
            folder.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[Row]:
        """The rows that there are."""
        if not self.rows_file.exists():
            return []
        return [json.loads(row) for row in self.rows_file.read_text().splitlines()]

    def done(self, key: Mapping[str, Any]) -> Row | None:
        """The row that has all of `key`, if it was made."""
        return next((row for row in self.rows() if key.items() <= row.items()), None)

    def run(self, jobs: Iterable[Mapping[str, Any]], make: Callable[[Any], Row]) -> None:
        """Make the rows that are missing, each with the CPU seconds that it took."""
        for job in jobs:
            if self.done(job) is None:
                began = time.process_time()
                row = {**job, **make(job), "seconds": round(time.process_time() - began, 1)}
                with self.rows_file.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
                print(row, file=sys.stderr, flush=True)

    def network(self, name: str, make: Callable[[], onnx.ModelProto]) -> Path:
        """The file of a network, which is trained if it is not there."""
        path = self.networks / f"{name}.onnx"
        if not path.exists():
            onnx.save(make(), path)
        return path

    def picture(self, name: str) -> Path:
        """Where a picture goes; an older one is replaced."""
        return self.pictures / name


def arguments(description: str | None, *more: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """The options that all scripts have, and some."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="end to end in a minute; measures nothing")
    parser.add_argument("--out", type=Path, help="folder for rows, pictures and networks")
    parser.add_argument("--table", action="store_true", help="train nothing: print and draw what there is")
    parser.add_argument("--threads", type=int, default=1)
    for name, options in more:
        parser.add_argument(name, **options)
    return parser.parse_args()


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table for a document."""
    from tables import as_markdown

    print(as_markdown(tuple(headings), [tuple(each) for each in lines]))


def chart(
    curves: Mapping[str, Points], title: str, across: str, level: tuple[str, float] | None = None
) -> Drawing:
    """Curves over shares of something, in per cent both ways; `level` is a line to hold them against."""
    left, top, high = 9.0, 30.0, 260.0
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points] + ([level[1]] if level else [])
    low, most, first, last = min(ys), max(ys), min(xs), max(xs)
    low, most = low - 0.05 * (most - low or 0.1), most + 0.05 * (most - low or 0.1)

    def place(x: float, y: float) -> tuple[float, float]:
        wide = (x - first) / (last - first) if last > first else 0.5
        return left + (94 - left) * wide, top + high * (most - y) / (most - low)

    body = [text("0", 14, title, "ink strong")]
    for step in range(5):
        y = low + (most - low) * (step + 0.5) / 5
        body += [line(left, place(first, y)[1], 98, place(first, y)[1], "grid")]
        body += [text(f"{left - 1:g}%", place(first, y)[1] + 4, f"{y:.1%}", "dim small", "end")]
    for x in sorted(set(xs)):
        body.append(text(f"{place(x, low)[0]:.2f}%", top + high + 16, f"{x:.0%}", "dim small", "middle"))
    body.append(text("98%", top + high + 34, across, "dim small", "end"))
    if level:
        y = place(first, level[1])[1]
        body += [line(left, y, 98, y, "axis"), text("98%", y - 4, level[0], "dim small", "end")]
    for number, (name, points) in enumerate(curves.items()):
        ordered = sorted(points)
        places = [place(*point) for point in ordered]
        body += [line(*a, *b, f"s{number}") for a, b in pairwise(places)]
        for at, (x, y) in zip(places, ordered, strict=True):
            body.append(dot(*at, 3.5, f"c{number}", f"{name}: {y:.2%} at {x:.0%}"))
        body.append(text(f"{left + 22 * number:g}%", top + high + 34, name, f"c{number} strong small"))
    return Drawing(title, "".join(body), top + high + 40)
