"""The losses by name. A new one is a file in this folder and a word here; from outside, `register` it."""

from __future__ import annotations

from collections.abc import Mapping

from tgonnx.losses.binary import BCE
from tgonnx.losses.cross_entropy import CE
from tgonnx.losses.distillation import DISTILL
from tgonnx.losses.loss import Loss
from tgonnx.losses.regression import L1, MSE
from tgonnx.strategies import find

LOSSES: dict[str, Loss] = {loss.name: loss for loss in (CE, MSE, L1, BCE, DISTILL)}
AUTO: Mapping[str | None, Loss] = {"label": CE, "target": MSE, None: DISTILL}  # by the answers that there are


def register(loss: Loss) -> None:
    """Let `loss=NAME` mean this loss; one of the same name is replaced."""
    LOSSES[loss.name] = loss


def named(name: str) -> Loss:
    """The loss of that name. Raises UsageError that lists the known ones."""
    return find(LOSSES, name, "loss")


def chosen(name: str, answers: str | None) -> Loss:
    """The loss of an output with these answers ("label", "target" or none): of that name if it is for such, else
    what fits them.

    Raises UsageError for an unknown name that is not "auto".
    """
    loss = find({"auto": AUTO[answers], **LOSSES}, name, "loss")
    return loss if loss.answers in (answers, None) else AUTO[answers]
