"""Compiler passes over ONNX models.

A pass is a frozen dataclass whose fields are its options; calling it returns a `PassResult`. The work is done by
free functions in the pass's own file, whose docstring lists the cases it handles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx


@dataclass(frozen=True)
class PassResult:
    """What a pass made: the model, whether it differs from the input, and what is worth telling."""

    model: onnx.ModelProto
    changed: bool
    notes: tuple[str, ...] = ()


class Pass(Protocol):
    """Anything that maps a model to a `PassResult`; it may change its argument in place."""

    def __call__(self, model: onnx.ModelProto) -> PassResult: ...


@dataclass(frozen=True)
class Pipeline:
    """Runs passes in order; `check`, if given, is called after each one and should raise if the model broke."""

    passes: Sequence[Pass]
    check: Callable[[onnx.ModelProto], None] | None = None

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        changed, notes = False, list[str]()
        for step in self.passes:
            result = step(model)
            model, changed = result.model, changed or result.changed
            notes += result.notes
            if self.check is not None:
                try:
                    self.check(model)
                except Exception as error:
                    raise RuntimeError(f"{type(step).__name__} broke the model: {error}") from error
        return PassResult(model, changed, tuple(notes))
