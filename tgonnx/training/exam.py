"""How models are measured side by side: what a user may set. Light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tgonnx.options import like, option, settle
from tgonnx.training.recipe import Recipe, Run

Part = Literal["auto", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class Exam:
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
    batch: int = option(1, "Samples in a run that is timed, if the model lets choose.", low=1)
    repeats: int = option(50, "Runs of each model that are timed.", low=1)
    threads: int = like(Run, "threads")

    def __post_init__(self) -> None:
        settle(self)
