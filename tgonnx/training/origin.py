"""What cut a model, written into it."""

from __future__ import annotations

import onnx

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.target import Target
from tgonnx.errors import OptionError
from tgonnx.io.stamp import stamp
from tgonnx.selection.mask import Mask


def say_origin(pruned: onnx.ModelProto, coupling: Coupling, mask: Mask, target: Target | None = None) -> None:
    """Write version, target, mask and original into the metadata of `pruned`, in place, if anything was cut."""
    if not mask.keeps_everything:
        stamp(pruned, coupling.model.original, mask.kept(coupling), as_text(target) if target else "")


def as_text(target: Target) -> str:
    """The target as it was asked for, in one form whatever it was written as: flops=0.5, params=1000000."""
    try:
        asked = Target.parse(target.stated)
    except OptionError:  # a share of the size, which text needs a unit for
        asked = target
    return f"{asked.kind}={asked.value:.12g}"
