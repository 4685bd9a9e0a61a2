"""How a network is trained and how a run goes: what a user may set.

Rates are the highest of a schedule. Light to import: the command line is made from these fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from tgonnx.errors import OptionError
from tgonnx.options import VERIFY_SECONDS, Device, EngineName, Gradient, numbers_of, one_of, option, settle

if TYPE_CHECKING:
    from tgonnx.losses.asked import Asked

Weights = Literal["train", "frozen"]

GATES, CHOSEN_BY = (
    "gates",
    "obs",
)  # the criterion that is learned, and what "auto" means where there are samples
# options about choosing what stays
OF_A_CHOICE = (
    "mask", "criterion", "latency_profile", "compensate", "calibrate", "lossless", "gate_lr", "lambda_", "gradient",
    "weights", "max_drop",
)  # fmt: skip
LR = 5e-4  # where nobody chooses: a trained network that learns faster forgets what it knew
BATCH = 64  # at most, if nothing else is asked for


def _losses() -> Iterable[str]:
    from tgonnx.losses.table import LOSSES

    return ("auto", *LOSSES)


def _graph(value: Any) -> Any:
    """A function that writes a loss, or the path of one that is a graph."""
    if callable(value):
        return value
    is_path = isinstance(value, str | os.PathLike) and os.fspath(value).endswith(".onnx")
    return os.fspath(value) if is_path else None


def _metrics() -> Iterable[str]:
    from tgonnx.losses.figures import METRICS

    return ("auto", *METRICS)


def _function(value: Any) -> Any:
    """A function as a metric, or where it stands."""
    return value if callable(value) or (isinstance(value, str) and ".py:" in value) else None


def _augmentations(name: str, value: Any) -> tuple[str, ...]:
    """Names with commas between them, or a list of them."""
    words = value.split(",") if isinstance(value, str) else value
    if words == ["none"]:
        return ()
    from tgonnx.data.augment import AUGMENTATIONS

    known = tuple(AUGMENTATIONS)
    return tuple(one_of(name, word, known) for word in (words if isinstance(words, Iterable) else (words,)))


def _optimizers() -> Iterable[str]:
    from tgonnx.engines.optimizers import OPTIMIZERS

    return tuple(OPTIMIZERS)


def _schedules() -> Iterable[str]:
    from tgonnx.training.schedule import SCHEDULES

    return tuple(SCHEDULES)


def _engines() -> Iterable[str]:
    from tgonnx.engines.table import AUTO, ENGINES

    return (AUTO, *ENGINES)


def _criteria() -> Iterable[str]:
    from tgonnx.selection.scoring import CRITERIA

    return ("auto", GATES, *CRITERIA)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. Raises OptionError, which is a UsageError.

    `epochs` counts all passes over the data, of which a third goes to the search. `lambda_` is the fixed weight of
    the cost in the objective; None adapts it. `weights="frozen"` learns gates only and trains nothing afterwards.
    In each step the share `weight_decay` times rate is taken off every matrix and kernel, whatever the optimiser
    (Loshchilov and Hutter 2019); biases and the scales of normalisations, all that has one axis, do not decay.
    A step learns from `accumulate` batches. `clip` bounds the norm of the gradients of all weights together; the gates
    have theirs. Losses of several outputs are added, each times its `loss_weight`, which may be a mapping. `augment`
    changes the images that are learned from (`tgonnx.data.augment`).
    """

    loss: Any = option(
        "auto",
        "What to learn from: ce, mse, l1, bce, distill or the path of a graph (.onnx); auto: ce with labels, mse with "
        "targets, else distill (the original's outputs).",
        names=_losses,
        also=_graph,
    )
    loss_weight: tuple[str, ...] = option(
        (),
        "How much the loss of an output counts in the sum; 1 by default.",
        many=True,
        metavar="OUTPUT=NUMBER",
    )
    free_output: tuple[str, ...] = option(
        (), "An output that may become anything: it has no loss.", many=True, metavar="OUTPUT"
    )
    smoothing: float = option(0.0, "Share of a label that all classes get.", low=0, below=1)
    metric: Any = option(
        "auto",
        "What is measured on held-out data: accuracy, top5, miou, token-accuracy, r2, mse, mae, agreement, or "
        "script.py:function of (output, answer); auto: what suits the loss.",
        names=_metrics,
        also=_function,
    )
    criterion: str = option(
        "auto",
        "What chooses the units that stay: gates (learned), or one of the criteria of `tgonnx mask`; auto: obs.",
        names=_criteria,
    )
    mask: Any = option(
        None,
        "Choose nothing: cut what this mask closes, then train on.",
        kind=str,
        metavar="MASK.json",
    )
    latency_profile: str = option(
        "",
        "What `tgonnx profile` wrote, to choose by where the target is a latency; else that is measured here and now.",
        metavar="FILE",
    )
    compensate: bool = option(True, "Refit what reads of cut channels by least squares.")
    calibrate: bool = option(False, "Train nothing: choose and refit from a few samples, labels or not.")
    lossless: bool = option(False, "Remove what does nothing, whatever the input, and nothing else.")
    epochs: int | None = option(
        None, "Passes over the data, search and fine-tuning together.", kind=int, low=1
    )
    batch: int | None = option(None, "Samples in a training step.", kind=int, low=1)
    lr: float | None = option(
        None, "Learning rate of the weights; auto: the higher, the less is left.", kind=float, low=0
    )
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
    optimizer: str = option("adamw", "What updates the weights: adamw, adam or sgd.", names=_optimizers)
    weight_decay: float | None = option(
        None,
        "Decay of matrices and kernels, a share of the rate; auto: 0.01 for adamw, 0 for adam, 0.001 for sgd.",
        kind=float,
        low=0,
    )
    schedule: str = option(
        "cosine", "How the rate falls in fine-tuning: constant, cosine or step.", names=_schedules
    )
    warmup: float = option(0.05, "Share of the steps in which the rate rises.", low=0, below=1)
    clip: float = option(0.0, "Largest norm of the gradients of all weights; 0: any.", low=0)
    accumulate: int = option(1, "Batches whose gradients are averaged for one step.", low=1)
    augment: tuple[str, ...] = option(
        "none",
        "What happens to images that are learned from: mirror, crop, or both with a comma between them.",
        metavar="NAMES",
        form=_augmentations,
    )

    max_drop: float | None = option(
        None,
        "Find the smallest model, down to --target, that loses at most so many points of the metric.",
        kind=float,
        low=0,
    )
    from_scratch: bool = option(
        False,
        "The model is not trained yet: it need not be better than a constant answer, nor is it imitated.",
    )

    def __post_init__(self) -> None:
        settle(self)
        numbers_of("loss_weight", self.loss_weight)
        if self.calibrate and self.criterion == GATES:
            raise OptionError("calibrate", "trains nothing, and gates must learn: choose another criterion")
        if self.lossless and (self.calibrate or self.criterion != "auto" or self.max_drop is not None):
            raise OptionError(
                "lossless",
                "leaves nothing to choose: neither criterion nor calibrate nor max_drop go with it",
            )

    def asked(self) -> Asked:
        """What is to be learned and measured. Raises UsageError for names and functions that are not there."""
        from tgonnx.losses.asked import Asked
        from tgonnx.losses.own_metric import metric_of

        return Asked(
            loss=self.loss,
            weights=numbers_of("loss_weight", self.loss_weight),
            free=self.free_output,
            smoothing=self.smoothing,
            metric=metric_of(self.metric),
        )

    @property
    def train_weights(self) -> bool:
        return self.weights == "train"

    @property
    def criterion_used(self) -> str:
        """The name in the table of criteria, or `GATES`.

        "auto" means gates where an option is given that only they have, and where weights are frozen: then gates alone
        can learn.
        """
        if self.criterion != "auto":
            return self.criterion
        plain = Recipe.__dataclass_fields__
        of_gates = any(getattr(self, n) != plain[n].default for n in ("gate_lr", "lambda_", "gradient"))
        return GATES if of_gates or (not self.train_weights and not self.calibrate) else CHOSEN_BY

    @property
    def by_gates(self) -> bool:
        """Whether gates learn which units stay."""
        return self.criterion_used == GATES

    @property
    def decay(self) -> float:
        """The weight decay, or what suits the optimiser."""
        from tgonnx.engines.optimizers import named

        return named(self.optimizer).decay if self.weight_decay is None else self.weight_decay


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
    sparse: bool = option(
        False, "Store weights that are mostly zero as sparse initializers, where the file gets smaller."
    )
    unverified: bool = option(False, "Write what cannot be verified, too, and mark it in its metadata.")
    run_dir: str = option("", "Keep the training there: checkpoints, history, mask.", metavar="FOLDER")
    resume: str = option("", "Go on with the run of this folder, which was interrupted.", metavar="RUN")
    tensorboard: bool = option(
        False, "Write what TensorBoard draws into the folder of the run, too; needs tensorboardX."
    )
    cache: float = option(
        1.0, "Gigabytes on disk for what the original says, which is then asked once for each sample.", low=0
    )
    checkpoint_seconds: float = option(60.0, "Seconds between two checkpoints.", low=0)
    test: Any = option(
        None, "Test data of their own, in the forms that --data takes.", kind=str, metavar="PATH"
    )
    force: bool = option(False, "Go on where the original is no better than a constant answer.")

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class Settings(Recipe, Run):
    """A recipe and a run as one, for what trains: batch and rate are what they came to for a model and its data."""

    lr: float = option(LR, Recipe.__dataclass_fields__["lr"].metadata["option"].help, low=0)
    batch: int = option(BATCH, Recipe.__dataclass_fields__["batch"].metadata["option"].help, low=1)
