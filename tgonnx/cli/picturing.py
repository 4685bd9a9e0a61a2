"""Pictures that commands write beside what they show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tgonnx.cli.options import Overwrite
from tgonnx.errors import UsageError

if TYPE_CHECKING:  # heavy packages are imported by the command that needs them, so that --help is quick
    from tgonnx.analysis.coupling import Coupling
    from tgonnx.analysis.difference import Difference


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Where pictures go, if they are asked for."""

    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Also draw it: .svg, or .png.")
    ] = None
    dot: Annotated[
        Path | None, typer.Option("--dot", metavar="FILE", help="Also write what is coupled for Graphviz.")
    ] = None
    overwrite: Overwrite = False

    def check(self, *inputs: Path) -> None:
        """Raise UsageError, before anything is read, if they cannot be written; no input may be overwritten."""
        if self.svg is None and self.dot is None:
            return
        from tgonnx.drawing.svg import drawing_destination
        from tgonnx.io.save import check_destination

        if self.svg is not None:
            drawing_destination(self.svg, self.overwrite, inputs)
        if self.dot is not None:
            check_destination(self.dot, self.overwrite, inputs)
            if self.dot == self.svg:
                raise UsageError(f"{self.dot}: is asked for as --svg and as --dot")

    def refuse(self, option: str) -> None:
        """Raise UsageError if pictures are asked for: with this option there is nothing to draw."""
        if self.svg is not None or self.dot is not None:
            raise UsageError(f"--svg and --dot draw what is coupled: leave {option} out")

    def of_coupling(self, coupling: Coupling, everything: bool) -> list[str]:
        """Write what is coupled; says what was written. With `everything` repeated blocks are not folded."""
        if self.svg is None and self.dot is None:
            return []
        from tgonnx.io.save import save_text
        from tgonnx.report.coupling_picture import CouplingPicture

        picture = CouplingPicture(coupling, everything)
        if self.svg is not None:
            picture.drawing().save(self.svg, self.overwrite)
        if self.dot is not None:
            save_text(picture.dot(), self.dot, self.overwrite)
        return [f"wrote {path}" for path in (self.svg, self.dot) if path is not None]

    def of_difference(self, found: Difference, first: Coupling) -> list[str]:
        """Draw what layers have left; says what was written. `first` is the coupling of the first model."""
        if self.svg is None:
            return []
        from tgonnx.analysis.layers import layers_of
        from tgonnx.report.differences import difference_chart

        difference_chart(found, layers_of(first)).save(self.svg, self.overwrite)
        return [f"wrote {self.svg}"]
