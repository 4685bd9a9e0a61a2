"""The pruned model beside the gated one of full size, and whether they agree."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.lengths import rescaled
from tgonnx.graph.proto import with_values
from tgonnx.graph.types import Array
from tgonnx.io.notes import Note
from tgonnx.passes.file_form import give_form_back
from tgonnx.pipeline.plan import Plan
from tgonnx.proof import Prover
from tgonnx.runtime.equivalence import Check
from tgonnx.selection.mask import Mask
from tgonnx.training.origin import say_origin


def verified(
    plan: Plan, mask: Mask, full: onnx.ModelProto, pruned: onnx.ModelProto, prover: Prover
) -> tuple[onnx.ModelProto, Check, str]:
    """The pruned model in the form of the original, its check, and a doubt. Raises VerificationError."""
    gated = plan.family.insert(embed(full, pruned, plan.coupling, mask), plan.coupling, mask)
    pruned = give_form_back(pruned, plan.model.outline, plan.sparse)
    check = prover.both(mask, gated, pruned)
    doubt = prover.settle(check, pruned)
    say_origin(pruned, plan.coupling, mask, None if plan.given else plan.target)
    return pruned, check, doubt


def embed(full: onnx.ModelProto, pruned: onnx.ModelProto, coupling: Coupling, mask: Mask) -> onnx.ModelProto:
    """`full` with the pruned model's weights where units are open: gated, it computes the same."""
    kept = np.append(mask.open, True)
    small = {tensor.name: tensor for tensor in pruned.graph.initializer}
    lengths = rescaled(
        coupling.model, coupling.lengths, lambda labels: int(kept[coupling.unit_of[labels]].sum())
    )
    factors = {number.name: number.factor for number in lengths if number.alone}
    values: dict[str, Array] = {}
    for tensor in full.graph.initializer:
        axes = coupling.labelling.axes.get(tensor.name)
        if axes is None or tensor.name not in small or tensor.data_type not in (1, 10, 11, 16):
            continue
        array = np.array(numpy_helper.to_array(tensor))
        open_indices = [np.flatnonzero(kept[coupling.unit_of[labels]]) for labels in axes]
        ours = numpy_helper.to_array(small[tensor.name])
        array[np.ix_(*open_indices)] = ours / factors[tensor.name] if tensor.name in factors else ours
        values[tensor.name] = array
    return with_values(full, values)


def doubts(doubt: str) -> tuple[Note, ...]:
    """The note on what could not be verified, if there is something."""
    return (Note("unverified", doubt),) if doubt else ()
