"""Options that several commands have, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tgonnx.options import ATTENTIONS

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file.", show_default=False)]
TargetText = Annotated[
    str,
    typer.Option("--target", help="What may stay: flops=0.5, flops=50%, params=1M, size=2MB, channels=0.5."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")]
AttentionCut = Annotated[
    str,
    typer.Option(
        "--attention",
        metavar=f"[{'|'.join(ATTENTIONS)}]",
        help="What of attention is cut: whole heads, or the width of all heads.",
    ),
]

EvidenceData = Annotated[
    Path | None,
    typer.Option("--data", "-d", help="Real inputs to verify with, in the forms that `prune` takes."),
]
SampleData = Annotated[
    Path | None,
    typer.Option(
        "--data", "-d", help="Samples to look at, in the forms that `prune` takes; without labels, too."
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
