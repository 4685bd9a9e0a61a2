"""Three ways to a smaller model, by what there is to learn from: training, calibration, no data at all.

* training: choose, cut, refit, train on; with answers, or with enough samples to imitate the original on;
* calibration: choose, cut, refit, all from a few samples without answers; then a short distillation, which is kept if
  it helps on held-out samples. `--calibrate` leaves that out;
* no data: `tgonnx.pipeline.no_data`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tgonnx.losses.fit import Fit
from tgonnx.training.recipe import Recipe

ENOUGH = 2000  # samples without answers that are worth training on
SHORT = 300  # steps of distillation at most


@dataclass(frozen=True)
class Way:
    """One of the ways that need data; `most` bounds the steps of fine-tuning."""

    name: str
    most: int | None = None

    def steps(self, planned: tuple[int, int]) -> tuple[int, int]:
        """Steps of search and fine-tuning, from those that samples and epochs ask for."""
        search, tune = planned
        return (search, tune if self.most is None else min(tune, self.most))


TRAINING = Way("training")
FEW_SAMPLES = Way(
    "calibration, then a short distillation, because there are few samples without answers", SHORT
)
CALIBRATION = Way("calibration", 0)


def way_for(recipe: Recipe, fit: Fit, samples: int) -> Way:
    """The way that suits what there is to learn from, unless the recipe says more."""
    if recipe.calibrate:
        return CALIBRATION
    told = fit.answers or fit.graph or recipe.epochs is not None or recipe.by_gates
    return TRAINING if told or samples >= ENOUGH else FEW_SAMPLES
