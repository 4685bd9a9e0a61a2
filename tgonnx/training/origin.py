"""What cut a model, written into it."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.target import Target
from tgonnx.errors import OptionError
from tgonnx.io.stamp import hash_of_kept, stamp
from tgonnx.selection.mask import Mask


def say_origin(pruned: onnx.ModelProto, coupling: Coupling, mask: Mask, target: Target | None = None) -> None:
    """Write version, target, mask and original into the metadata of `pruned`, in place, if anything was cut."""
    if mask.keeps_everything:
        return
    more: dict[str, object] = {"removed branches": sorted(mask.branches)} if mask.branches else {}
    if mask.weights:
        more["weights"] = {
            name: hashlib.sha256(np.packbits(part).tobytes()).hexdigest()
            for name, part in mask.weights.items()
        }
    text = as_text(target) if target else ""
    stamp(pruned, coupling.model.digest, hash_of_kept(mask.kept(coupling), more), text)


def as_text(target: Target) -> str:
    """The target as it was asked for, in one form whatever it was written as: flops=0.5, params=1000000."""
    try:
        asked = Target.parse(target.stated)
    except OptionError:  # a share of the size, which text needs a unit for
        asked = target
    return ",".join(f"{each.kind}={each.value:.12g}" for each in (asked, *asked.also))
