"""How models are measured side by side: what a user may set. Light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tgonnx.options import like, option
from tgonnx.runtime.options import Timing
from tgonnx.training.recipe import Recipe, Run

Part = Literal["auto", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class Exam(Timing):
    """How models are measured side by side. Raises OptionError, which is a UsageError.

    `part` says on which samples: "test", those named `test_...`, or else the tenth that `prune` holds out; "all" of
    them; "auto": those named `test_...`, or all where there are none.
    """

    loss: str = like(Recipe, "loss")
    metric: Any = like(Recipe, "metric")
    part: Part = option(
        "auto",
        "Samples to measure on: test (test_..., else the tenth that prune holds out), all, or auto: test_... where "
        "there are some, else all.",
        names=get_args(Part),
    )
    threads: int = like(Run, "threads")
