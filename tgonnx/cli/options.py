"""Options that several commands have, each declared once, and the groups in which they go together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tgonnx.cli.fields import Only
from tgonnx.cli.recipe_file import RecipeFile
from tgonnx.data.options import DataOptions
from tgonnx.errors import UsageError
from tgonnx.options import ATTENTIONS, TARGET, specs
from tgonnx.training.recipe import Recipe, Run

if TYPE_CHECKING:  # heavy, and not needed for --help
    from tgonnx.data.sources import Source

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file.", show_default=False)]
TargetText = Annotated[
    str,
    typer.Option(
        "--target",
        help="What may stay: flops=0.5, params=1M, size=2MB, latency=5ms; several must all be met.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")]
AttentionCut = Annotated[
    str,
    typer.Option(
        "--attention",
        metavar=f"[{'|'.join(ATTENTIONS)}]",
        help="What of attention is cut: whole heads, or the width of all heads (granularity head-dim).",
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME:SIZES",
        help="Count, analyse and try an input of open size in this shape first, as x:1,3,224,320.",
    ),
]
FixedShapes = Annotated[
    list[str] | None,
    typer.Option("--fix-shape", metavar="NAME:SIZES", help="Write a model that takes this shape only."),
]
_SHOWN = "What is shown"
COMMON = {
    "json": Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_SHOWN)],
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print errors only (and JSON if asked for).", rich_help_panel=_SHOWN
        ),
    ],
    "verbose": Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, help="Say more; -vv with tracebacks.", rich_help_panel=_SHOWN
        ),
    ],
    "no_color": Annotated[bool, typer.Option("--no-color", help="No colours.", rich_help_panel=_SHOWN)],
}


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """How a model is analysed."""

    attention: AttentionCut = ATTENTIONS[0]
    shape: Shapes = None
    fix_shape: FixedShapes = None


@dataclass(frozen=True, kw_only=True)
class Subject(Analysis):
    """The model that a command works on, too."""

    model: ModelPath


READING = Only(*(name for name in specs(DataOptions) if name != "cache"))  # `--cache` is that of the teacher


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Data at a path, and how they are read: here inputs to verify with."""

    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Real inputs to verify with, in the forms that `prune` takes."),
    ] = None
    reading: Annotated[DataOptions, READING]

    def source(self) -> Source | None:
        """The data, if there are some. Raises UsageError, OptionError."""
        return None if self.data is None else _read(self.data, self.reading)


def _read(path: Path, reading: DataOptions) -> Source:
    from tgonnx.data.sources import read

    return read(path, arrays=reading, images=reading)


@dataclass(frozen=True, kw_only=True)
class Previewed:
    """Data to look at."""

    data: Annotated[
        Path, typer.Option("--data", "-d", help="Data in the forms that `prune` takes.", show_default=False)
    ]
    reading: Annotated[DataOptions, READING]

    def source(self) -> Source:
        """The data. Raises UsageError, OptionError."""
        return _read(self.data, self.reading)


@dataclass(frozen=True, kw_only=True)
class Samples(Evidence):
    """Data to choose by."""

    data: Annotated[
        Path | None,
        typer.Option(
            "--data", "-d", help="Samples to look at, in the forms that `prune` takes; without labels, too."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainingData(Evidence):
    """Data to learn from."""

    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "-d",
            help="An .npz file with arrays named like the model's inputs, plus `label` or `target`; "
            "or a folder with one folder of images for each class. Without: units are ranked by their weights.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """Where a mask is written."""

    out: Annotated[Path, typer.Option("--out", "-o", metavar="MASK.json", help="Where to write the mask.")]
    overwrite: Overwrite = False


@dataclass(frozen=True, kw_only=True)
class Results:
    """What training writes, and where."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Where to write; .ort: in that format.", show_default="MODEL.pruned.onnx"
        ),
    ] = None
    report_path: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="PATH",
            help="Also write all figures there: .json, or a page with pictures: .html.",
        ),
    ] = None
    sweep: Annotated[
        str,
        typer.Option(
            "--sweep",
            metavar="KIND=SHARES",
            help="Several sizes from one search, as flops=0.7,0.5,0.3; writes MODEL.flops70.onnx and so on.",
            show_default=False,
        ),
    ] = ""
    no_run_dir: Annotated[bool, typer.Option("--no-run-dir", help="Keep nothing of the training.")] = False
    overwrite: Overwrite = False

    def kept(self, run: Run, data: TrainingData) -> Run:
        """The run, kept in a folder unless nothing is trained or wanted, with its test data. Raises UsageError."""
        if data.data and not (self.no_run_dir or run.run_dir or run.resume):
            run = replace(run, run_dir="auto")
        if not run.test:
            return run
        if not data.data:
            raise UsageError("--test measures what is learned from --data, which is not given")
        return replace(run, test=replace(data, data=Path(run.test)).source())


@dataclass(frozen=True, kw_only=True)
class TuningResults(Results):
    """What training writes that cuts nothing."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Where to write; .ort: in that format.", show_default="MODEL.tuned.onnx"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted, here or in a file."""

    target: TargetText = TARGET
    recipe_file: RecipeFile = None


def inputs_of(model: Path, data: Path | None, run: Run, recipe: Recipe) -> list[Path]:
    """The files that a command reads, none of which it may overwrite."""
    return [Path(path) for path in (model, data, run.test, recipe.mask) if path]
