"""Metrics that a user brings: any function of (output, answer) that returns a number.

It is called once with all held-out samples (once for each shape, where they are of several; then the mean over samples
counts): arrays as the model and the data have them, the original's output in the place of answers that there are not.
A function whose attribute `higher_is_better` is False is better when it is lower.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tgonnx.errors import UsageError
from tgonnx.graph.types import Array
from tgonnx.io.checker import describe
from tgonnx.losses import figures
from tgonnx.losses.figures import MetricKind, Seen

Function = Callable[[Array, Array], float]
Kept = tuple[Array, Array, int, int]  # output, answers, axis of samples, their number


def metric_of(wanted: Any) -> MetricKind | None:
    """The metric of a name, of a function or of script.py:function; None for "auto". Raises UsageError."""
    if wanted == "auto":
        return None
    if isinstance(wanted, str) and ".py:" in wanted:
        return of_function(_loaded(wanted), wanted)
    return of_function(wanted) if callable(wanted) else figures.named(wanted)


def of_function(function: Function, name: str = "") -> MetricKind:
    """A function of (output, answer) as a metric of the first output that learns."""
    name = name or getattr(function, "__name__", type(function).__name__)

    def value(kept: Sequence[Kept]) -> float:
        shapes = dict.fromkeys(_shapes(each) for each in kept)
        groups = [[each for each in kept if _shapes(each) == shapes_of] for shapes_of in shapes]
        counts = [sum(each[3] for each in group) for group in groups]
        return float(np.average([_called(function, name, group) for group in groups], weights=counts))

    better = bool(getattr(function, "higher_is_better", True))
    shown = name.rpartition(":")[2]
    kind = MetricKind(
        name=name,
        each=_kept,
        value=value,
        against="original",
        higher_is_better=better,
        shown=shown,
        only_first=True,
    )
    for against in ("target", "label"):
        kind = replace(kind, against=against, instead=kind)
    return kind


def _kept(seen: Seen) -> Kept:
    answer = seen.taught[seen.fit.output] if seen.fit.figure.against == "original" else seen.wanted
    return seen.outputs[seen.fit.output], answer, seen.sample_axis, seen.count


def _shapes(kept: Kept) -> tuple[tuple[int, ...], ...]:
    """The shapes of output and answers without the samples."""
    axis = kept[2]
    return tuple(each.shape[:axis] + each.shape[axis + 1 :] for each in kept[:2])


def _called(function: Function, name: str, group: Sequence[Kept]) -> float:
    axis = group[0][2]
    output, answer = (np.concatenate([each[place] for each in group], axis) for place in (0, 1))
    try:
        found = float(function(output, answer))
    except Exception as error:  # it is the user's, and may raise anything
        raise UsageError(f"metric {name}: {type(error).__name__}: {describe(error, 200)}") from error
    if not math.isfinite(found):
        raise UsageError(f"metric {name} is {found} for outputs of shape {output.shape}")
    return found


def _loaded(place: str) -> Function:
    """The function of script.py:function; its folder is on the path meanwhile. Raises UsageError."""
    path, _, name = place.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"metric {place}: {path}: no such file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"metric {place}: {type(error).__name__}: {describe(error, 200)}") from error
    finally:
        sys.path.pop(0)
    found = getattr(module, name, None)
    if not callable(found):
        there = ", ".join(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise UsageError(f"metric {place}: {path} has no function {name!r}; there are {there or 'none'}")
    return found  # type: ignore[no-any-return]
