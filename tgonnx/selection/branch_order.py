"""Which residual branches go: those that matter least for what they cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.branches import Part
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.target import Target
from tgonnx.errors import OptionError, TargetError
from tgonnx.graph.types import Array
from tgonnx.options import means
from tgonnx.runtime.walk import Walk
from tgonnx.selection.bounds import BLOCK, Bounds
from tgonnx.selection.budget import fit, matching_groups
from tgonnx.selection.mask import Mask

BATCHES = 8  # of inputs that are looked at
HALF = 0.5  # of the time: a branch whose gate was open less than that is closed
Errors = npt.NDArray[np.float64]


def relative_norms(coupling: Coupling, inputs: Sequence[Mapping[str, Array]], threads: int = 0) -> Errors:
    """The square of what each branch adds as a share of the square of the sum, [branches]; of a layer, of its change.

    Raises ModelError if the model does not run on the inputs.
    """
    branches, batches = coupling.branches, inputs[:BATCHES]
    names = {name for b in branches for name in (b.value, b.sum, *([b.shortcut] if b.layer else []))}
    added, sums = np.zeros(len(branches)), np.zeros(len(branches))
    for values in Walk(coupling.model.proto, batches, names, 0, threads)(sorted(names)):
        for place, branch in enumerate(branches):
            value = values[branch.value].astype(np.float64)
            less = values[branch.shortcut].astype(np.float64) if branch.layer else 0.0
            added[place] += float(np.square(value - less).sum())
            sums[place] += float(np.square(values[branch.sum].astype(np.float64)).sum())
    return np.asarray(added / np.maximum(sums, 1e-30))


def closable(coupling: Coupling, bounds: Bounds) -> tuple[str, ...]:
    """The branches that may go: none that holds what is frozen or may go in part only, and none beside `only`.

    Layers of a plain chain only where channels stay: what they take and put out need not lose the same ones.

    Raises OptionError for a glob that matches nothing.
    """
    if coupling.meetings:  # all but as many as stay
        return tuple(branch.name for branch in coupling.branches)
    loose_ones = (b for b in coupling.branches if not (b.layer and bounds.cuts_units))
    known = {branch.name: set(_names(coupling, branch)) for branch in loose_ones}

    def matching(option: str, patterns: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            hits = {name for name, inside in known.items() if means(pattern, *inside)}
            if not hits and not matching_groups(coupling, [pattern], option, others=True):
                raise OptionError(option, f"{pattern!r} matches no prunable group and no branch")
            found |= hits
        return found

    stay = matching("freeze", bounds.freeze)
    stay |= matching("max_cut", [glob for glob, share in bounds.shares.items() if share < 1])
    loose = matching("only", bounds.only) if bounds.only else {*known}
    return tuple(name for name in known if name in loose - stay)


def _names(coupling: Coupling, branch: Part) -> Iterator[str]:
    """What is called by a name in a branch: nodes, their values and weights, and its sum."""
    yield from (branch.name, branch.label, branch.sum)
    for index in branch.nodes:
        node = coupling.model.nodes[index]
        yield from (node.label, *node.outputs)
        yield from (name for name in node.inputs if name in coupling.model.static)


def saved_by(coupling: Coupling, closed: Collection[str], kind: str) -> float:
    """The share of a kind of cost that goes with these branches."""
    return 1 - coupling.closing(closed).cost_model.ratio(np.ones(coupling.units, bool), kind)


def in_order(coupling: Coupling, errors: Errors, kind: str, names: Collection[str]) -> list[str]:
    """These branches, the least error for what is saved first; one that saves nothing is left out."""
    found = []
    for branch, error in zip(coupling.branches, np.nan_to_num(errors, nan=np.inf).tolist(), strict=True):
        if branch.name in names and (saved := saved_by(coupling, [branch.name], kind)) > 1e-9:
            found.append((error / saved, branch.name))
    return [name for _, name in sorted(found, key=lambda pair: pair[0])]


def leaving(coupling: Coupling, order: Sequence[str], bounds: Bounds) -> list[str]:
    """The first of an order, without those that would leave fewer branches than the bounds want."""
    fewest, closed = bounds.fewest.get(BLOCK, 0), list[str]()
    for name in order:
        after = {*closed, name}
        left = sum(
            branch.name not in after and after.isdisjoint(branch.within) for branch in coupling.branches
        )
        if left >= fewest:
            closed.append(name)
    return closed


def within_bounds(
    coupling: Coupling, order: Sequence[str], target: Target, bounds: Bounds
) -> tuple[list[str], tuple[str, ...] | None]:
    """What may go of an order, and `enough` of it; where bounds on their number leave too little, what saves most."""
    loose = leaving(coupling, order, bounds)
    found = enough(coupling, loose, target)
    if found is None and len(loose) < len(order):
        loose = leaving(coupling, _dearest(coupling, order, target.kind), bounds)
        found = enough(coupling, loose, target)
    return loose, found


def _dearest(coupling: Coupling, names: Sequence[str], kind: str) -> list[str]:
    """Branches, those that save most first."""
    return sorted(names, key=lambda name: -saved_by(coupling, [name], kind))


def most_saved(coupling: Coupling, bounds: Bounds, kind: str) -> tuple[str, ...]:
    """The branches that may go together and save most."""
    names = closable(coupling, bounds)
    return (
        tuple(leaving(coupling, _dearest(coupling, names, kind), bounds)) if BLOCK in bounds.fewest else names
    )


def enough(coupling: Coupling, order: Sequence[str], target: Target) -> tuple[str, ...] | None:
    """The first of an order that meet a target, a share, without those that it is met without; None if all do not."""
    low, high = 0, len(order)
    if not _met(coupling, order, target):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _met(coupling, order[:middle], target) else (middle + 1, high)
    closed = list(order[:high])
    for name in reversed(order[:high]):
        without = [other for other in closed if other != name]
        if _met(coupling, without, target):
            closed = without
    return tuple(closed)


def _met(coupling: Coupling, closed: Collection[str], target: Target) -> bool:
    return 1 - saved_by(coupling, closed, target.kind) <= target.value + 1e-9


def fit_branches(coupling: Coupling, scores: Errors, target: Target, bounds: Bounds) -> Mask:
    """The mask that meets a target with the branches of lowest score closed, [branches]. Raises TargetError."""
    target = target.as_share(coupling.cost_model)
    order, alone = within_bounds(coupling, _lowest(coupling, scores, bounds), target, bounds)
    if alone is None:
        least = 1 - saved_by(coupling, order, target.kind)
        raise TargetError(f"{target}: at least {least:.3f} of the {target.kind} is in no branch that may go")
    return Mask.all_open(coupling.closing(alone))


def fit_both(coupling: Coupling, scores: Errors, target: Target, bounds: Bounds) -> Mask:
    """The mask that meets a target, from scores that say how much of the time gates were open, [units + branches].

    Branches that were open less than half of the time go, unless less than that does; units go for the rest of the
    target. If they cannot, more branches go. Raises TargetError.
    """
    target = target.as_share(coupling.cost_model)
    units, branches = scores[: coupling.units], scores[coupling.units :]
    order = leaving(coupling, _lowest(coupling, branches, bounds), bounds)
    score_of = {
        branch.name: score for branch, score in zip(coupling.branches, branches.tolist(), strict=True)
    }
    count = sum(score_of[name] < HALF for name in order)
    if (alone := enough(coupling, order[:count], target)) is not None:
        return Mask.all_open(coupling.closing(alone))
    while True:
        try:
            return fit(coupling.closing(order[:count]), units, target, bounds)
        except TargetError:
            if count == len(order):
                raise
            count += 1


def _lowest(coupling: Coupling, scores: Errors, bounds: Bounds) -> list[str]:
    """The branches that may go, the lowest score first."""
    names = closable(coupling, bounds)
    numbered = zip(coupling.branches, scores.tolist(), strict=True)
    return [b.name for b, _ in sorted(numbered, key=lambda pair: pair[1]) if b.name in names]
