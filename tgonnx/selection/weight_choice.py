"""Which single weights become zero: those of lowest score in the whole model, as many as the target says, or all but
n of every m neighbours along the input axis of each weight.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.target import Given, Target
from tgonnx.analysis.weights import along_inputs, names_of
from tgonnx.errors import BoundsError, OptionError, TargetError
from tgonnx.options import means
from tgonnx.selection.bounds import WEIGHT, Bounds
from tgonnx.selection.mask import Mask

Scores = npt.NDArray[np.float64]
KIND = "nonzeros"  # the kind of cost that they are counted in
CRITERIA = ("l1", "l2", "random")  # that rank single weights; the first two are their magnitude


def weight_scores(coupling: Coupling, criterion: str, seed: int = 0) -> Scores:
    """A number for each element of the single weights, one weight after the other, [elements]. Raises OptionError."""
    stored, names = coupling.model.initializers, coupling.model.single_weights
    if criterion not in CRITERIA:
        raise OptionError(
            "criterion", f"{criterion!r} does not rank single weights; there are {', '.join(CRITERIA)}"
        )
    if criterion == "random":
        return np.random.default_rng(seed).random(sum(names.values()))
    parts = [np.abs(numpy_helper.to_array(stored[name]).astype(np.float64)).ravel() for name in names]
    return np.concatenate([*parts, np.zeros(0)])


def fit_weights(coupling: Coupling, scores: Scores, target: Target, bounds: Bounds) -> Mask:
    """The mask that keeps as many of the highest scores, [elements], as a target of `nonzeros` allows.

    Each weight keeps its highest at least, or as many as the bounds say. With a pattern in the bounds, that says what
    stays. Raises TargetError if more must stay, OptionError for another kind of target.
    """
    if bounds.pattern:
        return _patterned(coupling, scores, bounds.pattern, bounds)
    check_kind(target)
    target = target.as_share(coupling.cost_model)
    ranks = np.array(scores, np.float64)
    for place, name in _places(coupling):
        part = ranks[place]
        part[np.argsort(-part, kind="stable")[: bounds.fewest.get(WEIGHT, 1)]] = np.inf
        part[_bound(coupling, name, bounds, part)] = np.inf
    keep, must = int(target.value * len(ranks) + 1e-6), int(np.isinf(ranks).sum())
    if must > keep:
        raise TargetError(f"{target}: at least {must / len(ranks):.3f} of the {KIND} must stay")
    opened = np.zeros(len(ranks), bool)
    opened[np.argsort(-ranks, kind="stable")[:keep]] = True
    return _mask(coupling, opened)


def asked(coupling: Coupling, given: Given, bounds: Bounds) -> Target:
    """The target that is given; with a pattern in the bounds what that leaves, which needs none.

    Raises OptionError if something else is given beside a pattern, BoundsError if it closes nothing.
    """
    if bounds.pattern is None:
        return Target.of(given)
    mask = _patterned(coupling, np.zeros(sum(coupling.model.single_weights.values())), bounds.pattern, bounds)
    if not mask.weights:
        raise BoundsError("nm", f"{bounds.nm} leaves nothing to cut: no weight that may be cut is so wide")
    left = mask.counted(coupling).cost_model.ratio(mask.open, KIND)
    if given is not None:
        wanted = Target.of(given).as_share(coupling.cost_model)
        if wanted.kind != KIND or wanted.also or abs(wanted.value - left) > 1e-9:
            raise OptionError("nm", f"{bounds.nm} says how many weights stay: leave out target {wanted}")
    return Target(**{KIND: left})


def check_kind(target: Target) -> None:
    """Raise OptionError unless a target is one of what is not zero."""
    if target.kind != KIND:
        raise OptionError("granularity", f"'weight' needs a target of {KIND}, as in {KIND}=0.1, not {target}")


def _patterned(coupling: Coupling, scores: Scores, pattern: tuple[int, int], bounds: Bounds) -> Mask:
    """The mask that keeps the n highest scores of every m; of a last group of fewer than m, n at most."""
    kept, of = pattern
    places, opened = {name: place for place, name in _places(coupling)}, np.ones(len(scores), bool)
    for name, rows in along_inputs(coupling.model):
        part = scores[places[name]]
        if len(_bound(coupling, name, bounds, part)):  # all of it stays
            continue
        groups = -(-rows.shape[1] // of)
        padded = np.full((len(rows), groups * of), -np.inf)
        padded[:, : rows.shape[1]] = part[rows]
        best = np.argsort(-padded.reshape(-1, groups, of), axis=-1, kind="stable")[..., :kept]
        stay = np.zeros((len(rows), groups, of), bool)
        np.put_along_axis(stay, best, True, axis=-1)
        opened[places[name]][rows] = stay.reshape(len(rows), -1)[:, : rows.shape[1]]
    return _mask(coupling, opened)


def _mask(coupling: Coupling, opened: npt.NDArray[np.bool_]) -> Mask:
    """The mask of what stays, [elements]."""
    kept = {
        name: opened[place].reshape(tuple(coupling.model.initializers[name].dims))
        for place, name in _places(coupling)
    }
    return Mask.all_open(coupling).thinned({name: part for name, part in kept.items() if not part.all()})


def _places(coupling: Coupling) -> Iterator[tuple[slice, str]]:
    """Where the elements of each weight stand."""
    start = 0
    for name, size in coupling.model.single_weights.items():
        yield slice(start, start + size), name
        start += size


def _bound(coupling: Coupling, name: str, bounds: Bounds, ranks: Scores) -> npt.NDArray[np.int64]:
    """The elements of a weight that bounds keep: those of highest rank."""
    called = names_of(coupling)
    for option, globs in (
        ("freeze", bounds.freeze),
        ("only", bounds.only),
        ("max_cut", tuple(bounds.shares)),
    ):
        for glob in globs:
            if not any(means(glob, *names) for names in called.values()):
                raise OptionError(option, f"{glob!r} matches no kernel or matrix")
    mine = called[name]
    shares = [share for glob, share in bounds.shares.items() if means(glob, *mine)]
    frozen = any(means(glob, *mine) for glob in bounds.freeze)
    beside = bool(bounds.only) and not any(means(glob, *mine) for glob in bounds.only)
    most = 0 if frozen or beside else int(min([1.0, *shares]) * len(ranks) + 1e-9)  # that may go
    return np.argsort(-ranks, kind="stable")[: len(ranks) - most]
