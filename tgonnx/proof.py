"""Is a pruned model right? The original against the gated model with all gates open, and gated against pruned.

Gated and pruned model are children of one normal form: alone, they would agree about its mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx

from tgonnx.analysis.coupling import Coupling
from tgonnx.data.samples import Dataset
from tgonnx.data.sources import Data, open_dataset
from tgonnx.errors import ModelError, UnsupportedError, VerificationError
from tgonnx.io.hollow import Hollow, filled
from tgonnx.options import VERIFY_SECONDS
from tgonnx.passes import perform
from tgonnx.passes.gate_branches import gate_branches
from tgonnx.passes.insert_gates import gate_sharing
from tgonnx.passes.select_closed import SelectClosed
from tgonnx.runtime.comparison import NOTHING_FINITE, How
from tgonnx.runtime.equivalence import CURE, Check, contract_differences, judged
from tgonnx.runtime.measure import NOT_FINITE
from tgonnx.runtime.noise import tempered
from tgonnx.runtime.options import RTOL
from tgonnx.runtime.sessions import Feeds
from tgonnx.runtime.trial_sizes import BATCHES, Size
from tgonnx.selection.mask import Mask

UNVERIFIED = "tgonnx.unverified"  # key of the metadata of a file that was written without being verified
_OPEN, _CLOSED = "the gated model with all gates open", "the gated model"
_GATED = frozenset((_OPEN, _CLOSED))
_LARGE_BATCH, _MOST_BYTES = 32, 1 << 26


@dataclass(frozen=True)
class Prover:
    """Verifies what is made of one model: on `feeds`, on random inputs, for about `seconds` each time.

    With `unverified`, what cannot be verified is let through and marked; what is found wrong never is. With `branches`,
    they have gates where all gates are open.
    """

    coupling: Coupling
    feeds: Sequence[Feeds] = ()
    seconds: float = VERIFY_SECONDS
    unverified: bool = False
    branches: bool = False

    @cached_property
    def normal_form(self) -> Check:
        """The original against the gated model with all gates open.

        Where numbers overflow so that nothing finite is left, both are compared with smaller weights: the normal
        form does not depend on them, and a mask may close what overflows.
        """
        names = ("the original", _OPEN)
        model = self.coupling.model
        opened = gate_sharing(self.coupling, Mask.all_open(self.coupling), self._open_branches)
        check = self.pair(model.given, opened, names)
        if any(NOTHING_FINITE in doubt for doubt in check.inconclusive) and not check.reasons:
            check = self.pair(tempered(model.original), tempered(opened.filled()), names)
        return check

    def _open_branches(self, opened: onnx.ModelProto) -> onnx.ModelProto:
        return gate_branches(opened, self.coupling, self.coupling.foreign) if self.branches else opened

    def cut(self, mask: Mask, gated: onnx.ModelProto | Hollow, pruned: onnx.ModelProto | Hollow) -> Check:
        """The gated model against the pruned one, and what that promises against the original.

        Where they differ in infinities or NaN, closed activations of the gated model are selected away: zero times
        infinity is NaN there, and in the pruned model it is not there at all.
        """
        names = (_CLOSED, "the pruned model")
        reasons = contract_differences(self.coupling.model.outline, Hollow.of(pruned).proto)
        check = self.pair(gated, pruned, names, reasons)
        if any(NOT_FINITE in reason for reason in check.reasons):
            selected = perform(SelectClosed(self.coupling, mask), filled(gated)).model
            check = self.pair(selected, pruned, names, reasons)
        return check

    def both(self, mask: Mask, gated: onnx.ModelProto | Hollow, pruned: onnx.ModelProto | Hollow) -> Check:
        """Normal form and cut as one check."""
        return together(self.normal_form, self.cut(mask, gated, pruned))

    def pair(
        self,
        a: onnx.ModelProto | Hollow,
        b: onnx.ModelProto | Hollow,
        names: tuple[str, str],
        reasons: Sequence[str] = (),
    ) -> Check:
        """The check of a pair; that nothing runs is a doubt."""
        how = How(names, tuple(self.feeds), seconds=self.seconds, known=self._sizes(), gated=_GATED)
        try:
            check = judged(a, b, how, reasons)
        except (ModelError, UnsupportedError) as error:
            doubt = f"{names[0]} cannot be run: {error} (name a shape that it takes with --shape NAME:SIZES)"
            return Check(float("inf"), float("inf"), RTOL, 0, "", tuple(reasons), (doubt,))
        return replace(check, reasons=tuple(f"{names[1]} against {names[0]}: {r}" for r in check.reasons))

    def _sizes(self) -> tuple[Size, ...]:
        """The sizes that the analysis counted with, which may be the user's."""
        model = self.coupling.model
        shapes = tuple(
            (name, tuple(model.first.shapes[name])) for name in model.inputs if name in model.first.shapes
        )
        return (Size(shapes=shapes),) if shapes and len(shapes) == len(model.inputs) else ()

    def settle(self, check: Check, result: onnx.ModelProto | None = None) -> str:
        """What to tell of a check: nothing if it is ok. Marks the `result` if it goes out unverified.

        Raises `VerificationError` for models that differ, and where nothing can be told unless `unverified`.
        """
        if check.ok:
            return ""
        source = self.coupling.model.source
        if check.reasons:
            raise VerificationError(f"{source}: verification failed: {check.reasons[0]}")
        doubt = check.inconclusive[0]
        if not self.unverified:
            raise VerificationError(
                f"{source}: verification is inconclusive: {doubt}; {CURE}, or pass --unverified to write all the same"
            )
        if result is not None:
            mark(result, doubt)
        return f"not verified: {doubt}"


def mark(model: onnx.ModelProto, doubt: str) -> None:
    """Say in a model's metadata that it was not verified, and why."""
    for entry in model.metadata_props:
        if entry.key == UNVERIFIED:
            entry.value = doubt
            return
    model.metadata_props.add(key=UNVERIFIED, value=doubt)


def together(first: Check, second: Check) -> Check:
    """Two checks as one."""
    return Check(
        max(first.max_abs, second.max_abs),
        max(first.max_rel, second.max_rel),
        second.tolerance,
        first.samples + second.samples,
        second.ran_by or first.ran_by,
        (*first.reasons, *second.reasons),
        (*first.inconclusive, *second.inconclusive),
        tuple(dict.fromkeys((*first.sizes, *second.sizes))),
        tuple(dict.fromkeys((*first.skipped, *second.skipped))),
        first.up_to,
    )


def real_feeds(data: Data | None, original: onnx.ModelProto) -> list[Feeds]:
    """Inputs to verify with from data of any kind; none from None. Raises as `open_dataset` does."""
    return [] if data is None else data_feeds(open_dataset(data, original), original)


def data_feeds(dataset: Dataset, original: onnx.ModelProto) -> list[Feeds]:
    """Real inputs to verify with: held-out samples in batches of several sizes, or of the size the model insists on."""
    split = dataset.held_out or dataset.train
    size = split.axes.fixed
    if size is not None and len(split) < size:
        split = dataset.train
    alike = split.one_shape()
    one = split.take(alike[:1]).feeds
    most = max(1, _MOST_BYTES // max(1, sum(value.nbytes for value in one.values())))
    counts = [size] if size else sorted({min(count, len(alike), most) for count in (*BATCHES, _LARGE_BATCH)})
    return [split.take(alike[:count]).feeds for count in counts]
