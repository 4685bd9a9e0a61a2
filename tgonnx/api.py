"""The functions of the package: they take what a person has at hand, a path as well as what was made from one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.analysis import solver
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.difference import Difference, difference
from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.target import LATENCY, Given
from tgonnx.analysis.times import Profile
from tgonnx.errors import OptionError
from tgonnx.loading import load, read
from tgonnx.options import (
    ALL,
    ATTENTIONS,
    CRITERION,
    VERIFY_SECONDS,
    Attention,
    is_a,
    number,
    of_class,
    whole_number,
    with_fields,
)
from tgonnx.runtime import equivalence
from tgonnx.runtime.equivalence import Check
from tgonnx.runtime.options import RTOL, Comparing
from tgonnx.runtime.ort_format import save_model
from tgonnx.selection import criteria
from tgonnx.selection.bounds import Bounds, Ranking
from tgonnx.selection.mask import Mask
from tgonnx.selection.weight_choice import asked

if TYPE_CHECKING:  # only its name
    from tgonnx.data.sources import Data
    from tgonnx.pipeline.closing import Sensitivity

AnyModel = Coupling | Model | Source
AnyMask = Mask | str | os.PathLike[str] | Sequence[bool] | NDArray[np.bool_]


def analyze(model: Model | Source, attention: Attention = "heads") -> Coupling:
    """Find units, groups and sites of a model. Needs shapes only, no weights.

    `attention` says which factor of a heads x head-dim axis is cut. Raises UsageError, ModelError, and UnsupportedError
    for a file that a runtime has compiled for one device.
    """
    return solver.analyze(load(model), attention)


def select(
    model: AnyModel,
    target: Given = None,
    criterion: str = CRITERION,
    seed: int = 0,
    *,
    data: Data | None = None,
    allocation: str = "auto",
    bounds: Bounds | None = None,
    **fields: Any,
) -> Mask:
    """Choose the units that stay, without training (`tgonnx.selection.criteria.select`), of a coupling or a model.

    A target of latency is measured first, on this machine, unless the coupling's cost model uses a `profile` already.
    `data` are samples for a criterion that looks at activations (obs: labels are not needed) or at the loss (taylor,
    fisher: they are). With `granularity="block"` in the bounds, residual branches go, judged on these samples or,
    without any, by what they add on random inputs.
    Raises UsageError for a wrong option, TargetError if the target is below what the pinned channels cost.
    """
    (bounds,) = with_fields("select", fields, of_class("bounds", bounds, Bounds))
    attention = bounds.attention_of(ATTENTIONS[0])
    coupling, evidence = _coupling(model, attention), None
    if attention not in (ATTENTIONS[0], coupling.attention):
        raise OptionError(
            "granularity", f"{bounds.granularity}: analyze(model, {attention!r}) makes a coupling for it"
        )
    if bounds.alternative:
        raise OptionError("alternative", "makes layers, whose weights no mask holds: prune does that")
    wanted = asked(coupling, ALL if target is None and bounds.choose else target, bounds)
    coupling = coupling.choosing(bounds.choices)
    if wanted.kind == LATENCY and coupling.cost_model.profile is None:
        coupling.cost_model.use(profile(coupling))
    if not bounds.cuts_units_alone:
        from tgonnx.pipeline.branching import select_blocks

        how = Ranking(criterion=criterion, allocation=allocation)
        return select_blocks(coupling, wanted, bounds, how, whole_number("seed", seed), data)
    if data is not None:
        from tgonnx.training.evidence import evidence_from

        evidence = evidence_from(coupling, data, whole_number("seed", seed))
    return criteria.select(
        coupling,
        wanted,
        criterion=criterion,
        seed=seed,
        evidence=evidence,
        allocation=allocation,
        bounds=bounds,
    )


def profile(model: AnyModel, threads: int = 1, batch: int = 1, seed: int = 0) -> Profile:
    """What each operator takes here as a function of how many channels are kept (`tgonnx.pipeline.profiling`).

    At the sizes that costs are counted at, with `batch` samples; `threads` 0 leaves their number to the runtime.
    Raises UsageError, UnsupportedError if nothing can be cut or onnxruntime does not take the model, ModelError.
    """
    from tgonnx.pipeline.clock import Clock
    from tgonnx.pipeline.profiling import profiled

    coupling = _coupling(model)
    samples = max(1, whole_number("batch", batch))
    return profiled(coupling, Clock.of(coupling.model, whole_number("threads", threads), samples), seed)


def sensitivity(model: AnyModel, data: Data, share: float = 0.5) -> list[Sensitivity]:
    """How far the outputs move if each group alone loses `share` of its units, the most sensitive group first.

    `data` are samples; labels are not needed. Raises UsageError, DataError, ModelError.
    """
    from tgonnx.data.calibration import Calibration
    from tgonnx.data.sources import open_dataset
    from tgonnx.pipeline.closing import sensitivities

    coupling = _coupling(model)
    inputs = Calibration(open_dataset(data, coupling.model.original).train)
    return sensitivities(coupling, inputs, number("share", share))


def gate(model: AnyModel, mask: AnyMask) -> onnx.ModelProto:
    """The gated model: of the same size, computing what the pruned one does. Raises UsageError.

    `mask` is a `Mask`, the path of its file, or one bool for each unit.
    """
    from tgonnx.passes.insert_gates import gate as gated

    return gated(*_pair(model, mask))


def apply(model: AnyModel, mask: AnyMask, sparse: bool = False) -> onnx.ModelProto:
    """The model without the units that the mask closes. Raises UsageError, VerificationError.

    `mask` is a `Mask`, the path of its file, or one bool for each unit. With `sparse`, weights that are mostly zero
    are stored as sparse initializers, where they take fewer bytes so.
    """
    from tgonnx.passes.remove_channels import apply as cut
    from tgonnx.training.origin import say_origin

    coupling, chosen = _pair(model, mask)
    pruned = cut(coupling, chosen, sparse)
    say_origin(pruned, coupling, chosen)
    return pruned


def save(model: onnx.ModelProto, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a model, completely or not at all: as ONNX, or in onnxruntime's own format if `path` ends in .ort.

    Raises UsageError, VerificationError, UnsupportedError.
    """
    save_model(model, path, overwrite)


def verify(
    a: Model | Source,
    b: Model | Source,
    feeds: Iterable[Mapping[str, NDArray[Any]]] | None = None,
    samples: int | None = None,
    seed: int = 0,
    rtol: float = RTOL,
    sizes: Mapping[str, int] | None = None,
    seconds: float = VERIFY_SECONDS,
) -> Check:
    """Compare two models as `tgonnx.runtime.equivalence.verify` does.

    Raises UsageError, ModelError, UnsupportedError.
    """
    is_a("feeds", () if feeds is None else feeds, Iterable, "a list of feed dicts")
    is_a("sizes", sizes or {}, Mapping, "a mapping of the names of axes to sizes")
    how = Comparing(samples=1 if samples is None else samples, rtol=rtol)
    return equivalence.verify(
        _proto(a),
        _proto(b),
        feeds,
        None if samples is None else how.samples,  # none beside `feeds`
        whole_number("seed", seed),
        how.rtol,
        sizes,
        number("seconds", seconds),
    )


def diff(a: Model | Source, b: Model | Source) -> Difference:
    """What each layer of `a` has lost in `b`, whoever cut it (`tgonnx.analysis.difference`).

    Raises UsageError, ModelError, UnsupportedError.
    """
    return difference(analyze(a), analyze(b))


def _proto(model: Model | Source) -> onnx.ModelProto:
    if isinstance(model, Model):
        return model.original
    return model if isinstance(model, onnx.ModelProto) else read(model)


def _coupling(model: AnyModel, attention: Attention = "heads") -> Coupling:
    return model if isinstance(model, Coupling) else solver.analyze(load(model), attention)


def _pair(model: AnyModel, mask: AnyMask) -> tuple[Coupling, Mask]:
    """A coupling and a mask of it. Raises UsageError if `mask` is none."""
    if isinstance(mask, str | os.PathLike):
        mask = Mask.load(mask)
    if isinstance(mask, Mask):
        return _coupling(model, mask.attention), mask
    try:
        opened = np.asarray(mask)
    except ValueError:  # lists of several lengths
        opened = np.zeros(0)
    if opened.ndim != 1 or opened.dtype != bool:
        raise OptionError(
            "mask", f"is a {type(mask).__name__}; give a Mask, its path, or one bool for each unit"
        )
    coupling = _coupling(model, ATTENTIONS[0])
    return coupling, Mask.of(coupling, opened)
