"""How a network is trained and how a run goes: what a user may set.

Rates are the highest of a schedule. Light to import: the command line is made from these fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tgonnx.options import VERIFY_SECONDS, Device, EngineName, Gradient, Optimizer, option, settle

Weights = Literal["train", "frozen"]

BATCH = 64  # at most, if nothing else is asked for
DECAY: dict[Optimizer, float] = {"adamw": 1e-2, "sgd": 1e-4}  # AdamW's is not divided by the gradients' size


def _losses() -> Iterable[str]:
    from tgonnx.losses.table import LOSSES

    return ("auto", *LOSSES)


def _engines() -> Iterable[str]:
    from tgonnx.engines.table import AUTO, ENGINES

    return (AUTO, *ENGINES)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. Raises OptionError, which is a UsageError.

    `epochs` counts all passes over the data, of which a third goes to the search. `lambda_` is the fixed weight of
    the cost in the objective; None adapts it. `weights="frozen"` learns gates only and trains nothing afterwards.
    `weight_decay` is what the optimiser takes: times rate and weight off the weight (AdamW: Loshchilov and Hutter
    2019), times weight onto the gradient (SGD).
    """

    loss: str = option(
        "auto",
        "What to learn from: ce, mse, l1, bce or distill; auto: ce with labels, mse with targets, else distill "
        "(the original's outputs).",
        names=_losses,
    )
    epochs: int | None = option(
        None, "Passes over the data, search and fine-tuning together.", kind=int, low=1
    )
    batch: int | None = option(None, "Samples in a training step.", kind=int, low=1)
    # a trained network that learns faster forgets what it knew
    lr: float = option(5e-4, "Learning rate of the weights.", low=0)
    gate_lr: float = option(0.02, "Learning rate of the gates.", low=0)
    lambda_: float | None = option(
        None, "Weight of the cost in the objective: auto, or a number.", kind=float, low=0
    )
    gradient: Gradient = option("one", "Shape of a gate's derivative.", names=get_args(Gradient))
    weights: Weights = option(
        "train",
        "Train the weights, too, or learn which channels to keep and nothing else.",
        names=get_args(Weights),
    )
    optimizer: Optimizer = option("adamw", "What updates the weights.", names=get_args(Optimizer))
    weight_decay: float | None = option(
        None, "Decay of matrices and kernels; auto: 0.01 for adamw, 0.0001 for sgd.", kind=float, low=0
    )

    from_scratch: bool = option(
        False,
        "The model is not trained yet: it need not be better than a constant answer, nor is it imitated.",
    )

    def __post_init__(self) -> None:
        settle(self)

    @property
    def train_weights(self) -> bool:
        return self.weights == "train"

    @property
    def decay(self) -> float:
        """The weight decay, or what suits the optimiser."""
        return DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run goes. Raises OptionError, which is a UsageError.

    `verify_seconds` is for each verification. What cannot be verified, because nothing here runs it or the inputs
    cannot tell, is returned with `unverified` only, and marked. Training with data is kept in the folder `run_dir`
    ("auto": `runs/MODEL-N`), if one is named; `resume` names the folder of a run that goes on, which wants the same
    model, data and options. `test` are data of any kind to measure the original and the result with, and nothing else.
    """

    seed: int = option(0, "Seed of everything random.", low=0)
    threads: int = option(0, "Threads; 0: all.", low=0)
    engine: EngineName = option(
        "auto",
        "What trains: ort-training, portable, or auto; `tgonnx doctor` explains the choice.",
        names=_engines,
    )
    device: Device = option("cpu", "Where it trains; cuda needs onnxruntime-gpu.", names=get_args(Device))
    verify_seconds: float = option(
        VERIFY_SECONDS, "About how long sizes may be tried; two always are.", low=0
    )
    unverified: bool = option(False, "Write what cannot be verified, too, and mark it in its metadata.")
    run_dir: str = option("", "Keep the training there: checkpoints, history, mask.", metavar="FOLDER")
    resume: str = option("", "Go on with the run of this folder, which was interrupted.", metavar="RUN")
    checkpoint_seconds: float = option(60.0, "Seconds between two checkpoints.", low=0)
    test: Any = option(
        None, "Test data of their own, in the forms that --data takes.", kind=str, metavar="PATH"
    )
    force: bool = option(False, "Go on where the original is no better than a constant answer.")

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class Settings(Recipe, Run):
    """A recipe and a run as one, for what trains: the batch is what it came to for a model and its data."""

    batch: int = option(BATCH, Recipe.__dataclass_fields__["batch"].metadata["option"].help, low=1)
