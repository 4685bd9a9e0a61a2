"""What cut a model, written into it."""

from __future__ import annotations

import onnx

from tgonnx.analysis.coupling import Coupling
from tgonnx.io.stamp import stamp
from tgonnx.selection.mask import Mask


def say_origin(pruned: onnx.ModelProto, coupling: Coupling, mask: Mask, target: str = "") -> None:
    """Write version, target, mask and original into the metadata of `pruned`, in place, if anything was cut."""
    if not mask.keeps_everything:
        stamp(pruned, coupling.model.original, mask.kept(coupling), target)
