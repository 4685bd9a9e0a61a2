"""How models are compared and timed: what a user may set. Light to import: the command line is made from these."""

from __future__ import annotations

from dataclasses import dataclass

from tgonnx.options import option, settle

RTOL = 1e-4


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """How two models are compared. Raises OptionError."""

    samples: int = option(1, "Random inputs at each size.", low=1)
    rtol: float = option(RTOL, "Difference allowed, relative to an output's channel.", low=0)

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How models are timed. Raises OptionError."""

    repeats: int = option(50, "Runs of each model.", low=1)
    batch: int = option(1, "Samples in a run, if the model lets choose.", low=1)

    def __post_init__(self) -> None:
        settle(self)
