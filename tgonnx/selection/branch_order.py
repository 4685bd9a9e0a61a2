"""Which residual branches go: those that matter least for what they cost."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.branches import Part
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.target import Target
from tgonnx.errors import OptionError, TargetError
from tgonnx.graph.types import Array
from tgonnx.runtime.walk import Walk
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.budget import fit, matching_groups
from tgonnx.selection.mask import Mask

BATCHES = 8  # of inputs that are looked at
HALF = 0.5  # of the time: a branch whose gate was open less than that is closed
Errors = npt.NDArray[np.float64]


def relative_norms(coupling: Coupling, inputs: Sequence[Mapping[str, Array]], threads: int = 0) -> Errors:
    """The square of what each branch adds as a share of the square of the sum, [branches].

    Raises ModelError if the model does not run on the inputs.
    """
    branches, batches = coupling.branches, inputs[:BATCHES]
    names = {name for branch in branches for name in (branch.value, branch.sum)}
    squares = dict.fromkeys(names, 0.0)
    for values in Walk(coupling.model.proto, batches, names, 0, threads)(sorted(names)):
        for name, value in values.items():
            squares[name] += float(np.square(value.astype(np.float64)).sum())
    return np.array([squares[b.value] / max(squares[b.sum], 1e-30) for b in branches])


def closable(coupling: Coupling, bounds: Bounds) -> tuple[str, ...]:
    """The branches that may go: none that holds what is frozen or may go in part only, and none beside `only`.

    Raises OptionError for a glob that matches nothing.
    """
    if coupling.meetings:  # all but as many as stay
        return tuple(branch.name for branch in coupling.branches)
    known = {branch.name: set(_names(coupling, branch)) for branch in coupling.branches}

    def matching(option: str, patterns: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            hits = {
                name
                for name, inside in known.items()
                if any(n == pattern or fnmatch.fnmatchcase(n, pattern) for n in inside)
            }
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
    yield from (branch.name, branch.label)
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
    order = _lowest(coupling, scores, bounds)
    alone = enough(coupling, order, target)
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
    order = _lowest(coupling, branches, bounds)
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
