"""Where the command line writes: results to stdout, progress and errors to stderr."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.segment import Segment, Segments
from rich.text import Text

from tgonnx.cli.live import line_of, live
from tgonnx.cli.recipe_file import NOTHING, Given
from tgonnx.errors import OutputError
from tgonnx.io.plain import plain
from tgonnx.io.visible import escaped, visible

if TYPE_CHECKING:
    from tgonnx.training.progress import Progress

_PIPE_WIDTH = 120  # columns where no terminal says how many there are
_WORD = 200  # characters of a name in a line of its own
_PATH = 4096


@dataclass(frozen=True)
class Terminal:
    """The two streams under the options that every command has; `given` is all that this one was told, by key."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    color: bool = True
    given: Given = NOTHING

    @cached_property
    def out(self) -> Console:
        """For results."""
        return self._console(stderr=False)

    @cached_property
    def err(self) -> Console:
        """For progress."""
        return self._console(stderr=True)

    def _console(self, stderr: bool) -> Console:
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream.isatty() else _PIPE_WIDTH
        no_color = None if self.color else True  # None: as the environment's NO_COLOR says
        return Console(stderr=stderr, no_color=no_color, width=width, highlight=False, emoji=False)

    def result(self, data: dict[str, Any], *shown: RenderableType) -> None:
        """Print a result: `data` with --json, else what is `shown`; nothing with -q and no --json."""
        if self.json:
            sys.stdout.write(jsonlib.dumps(plain(data), indent=2) + "\n")
        elif not self.quiet:
            for number, part in enumerate(shown):
                if number:
                    self.out.print()
                self._show(part)

    def _show(self, part: RenderableType) -> None:
        if isinstance(part, str):
            self.out.print(visible(part, _PATH, _PATH), markup=False, soft_wrap=True)
            return
        segments = self.out.render(part)  # a last look at what names may have brought
        safe = [s if s.control else Segment(escaped(s.text), s.style) for s in segments]
        self.out.print(Segments(safe), end="")

    def note(self, text: str, level: int = 0) -> None:
        """One line of progress on stderr, if `-v` was given `level` times."""
        if not self.quiet and self.verbose >= level:
            self.err.print(visible(text, _WORD), style="dim", markup=False, soft_wrap=True)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """A spinner on stderr while something takes its time; nothing where stderr is no terminal."""
        if self.quiet or not self.err.is_terminal:
            yield
        else:
            with self.err.status(Text(visible(text)), spinner="dots"):
                yield

    @contextmanager
    def progress(self, cost: str) -> Iterator[Callable[[Progress], None]]:
        """A listener for training: on a terminal a bar below the epochs, else one line for each."""
        if self.quiet:
            yield lambda progress: None
        elif self.err.is_terminal:
            with live(self.err, cost) as drawing:
                yield drawing
        else:
            seen: set[tuple[str, int]] = set()

            def listen(progress: Progress) -> None:
                key = (progress.phase, progress.epoch)
                if progress.step == progress.steps or key not in seen:
                    seen.add(key)
                    self.note(line_of(progress, cost))

            yield listen

    def complain(self, message: str) -> str:
        """The one line of a failure on stderr; returns it, with names as they are."""
        line = " ".join(message.split())
        sys.stderr.write(f"error: {visible(line, _WORD)}\n")
        return line

    def error(self, message: str, kind: str, code: int) -> None:
        """A failure without a result: the line on stderr, with --json an object on stdout, too."""
        line = self.complain(message)
        if self.json:
            failure = {"error": {"message": line, "kind": kind, "exit_code": code}}
            with suppress(OutputError):  # the failure is told already
                sys.stdout.write(jsonlib.dumps(failure, indent=2) + "\n")
