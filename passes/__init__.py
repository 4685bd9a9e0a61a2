"""Compiler passes over ONNX models.

A pass is a frozen dataclass whose fields are its options (`Pass`); calling it returns a `PassResult`. Its file's
docstring lists the cases it handles. `perform` runs one, `Pipeline` several; with TGONNX_DEBUG=1 both hold each pass to
what it declares and name the first that broke the model (`tgonnx.passes.debug`).

Two things here are no passes. `prepare_training` makes more than a model (what trains in it, which statistics it
carries), of passes and bindings; `give_form_back` needs the original beside the model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import onnx


@dataclass(frozen=True)
class PassResult:
    """What a pass made: the model, and whether it differs from what was given."""

    model: onnx.ModelProto
    changed: bool


class Pass(Protocol):
    """Maps a model to a `PassResult`."""

    @property
    def name(self) -> str:
        """What it is called where it is to blame."""

    @property
    def in_place(self) -> bool:
        """Whether it changes its argument; a functional pass leaves that as it is, or returns it."""

    @property
    def keeps_values(self) -> bool:
        """Whether the model computes afterwards what it computed before."""

    def __call__(self, model: onnx.ModelProto) -> PassResult: ...


def watching() -> bool:
    """Whether passes are watched."""
    return os.environ.get("TGONNX_DEBUG", "0") not in ("", "0")


def perform(step: Pass, model: onnx.ModelProto) -> PassResult:
    """Run a pass. With TGONNX_DEBUG=1, raises VerificationError if it breaks the model or does not what it declares."""
    if not watching():
        return step(model)
    result: PassResult = import_module("tgonnx.passes.debug").watched(step, model)  # which loads the runtime
    return result


@dataclass(frozen=True)
class Pipeline:
    """Runs passes in order."""

    passes: Sequence[Pass]

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        changed = False
        for step in self.passes:
            result = perform(step, model)
            model, changed = result.model, changed or result.changed
        return PassResult(model, changed)
