"""Masks, and choosing units without training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tgonnx.analysis.cost import CostModel, Target
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import Kind
from tgonnx.errors import BoundsError, OptionError, TargetError
from tgonnx.options import means
from tgonnx.selection.blocks import Shop
from tgonnx.selection.bounds import CHANNEL, HEAD, HEAD_DIM, UNITS, Bounds
from tgonnx.selection.mask import Mask
from tgonnx.selection.mask_file import Open

BLOCK = 8  # onnxruntime's fast convolutions work on blocks of this many channels
DEFAULT = Bounds()
HALVINGS = 10  # of the share that is asked for, until other targets are met, too
CLOSE = 0.99  # a target is met closely above this share of it


def matching_groups(
    coupling: Coupling, patterns: Iterable[str], option: str, others: bool = False
) -> set[int]:
    """Numbers of the groups that have a member whose value or node matches one of the globs.

    Raises OptionError for a glob that matches none, unless there are `others` that it may be meant for.
    """
    groups_of: dict[str, set[int]] = defaultdict(set)  # by value
    for number, group in enumerate(coupling.groups):
        for name in {group.name, *(member.value for member in group.members)}:
            groups_of[name].add(number)
    named = [*groups_of.items()]
    named += [
        (n.label, groups_of[v]) for n in coupling.model.nodes for v in n.inputs + n.outputs if v in groups_of
    ]
    found: set[int] = set()
    for pattern in patterns:
        hits: set[int] = set()
        for name, numbers in named:
            if means(pattern, name):
                hits |= numbers
        if not hits and not others:
            raise OptionError(option, f"{pattern!r} matches no prunable group")
        found |= hits
    return found


def floors(coupling: Coupling, bounds: Bounds = DEFAULT) -> npt.NDArray[np.int64]:
    """The fewest units that each group may keep."""
    sizes = np.array([group.size for group in coupling.groups], np.int64)
    least, whole = bounds.fewest, set[int]()
    fewest: npt.NDArray[np.int64] = np.full(len(sizes), bounds.min_channels, np.int64)
    for number in range(len(sizes)):
        of_attention = number in coupling.of_attention
        names = (HEAD, HEAD_DIM) if of_attention else (CHANNEL,)
        fewest[number] = max(fewest[number], *(least.get(name, 1) for name in names))
        if not (bounds.cuts_heads if of_attention else bounds.cuts_channels):
            whole.add(number)
    fewest = np.minimum(fewest, sizes)
    for glob, share in bounds.shares.items():
        for number in matching_groups(coupling, [glob], "max_cut", bounds.cuts_branches):
            most = int(sizes[number] * share + 1e-9)  # that may go
            fewest[number] = max(fewest[number], sizes[number] - most)
    whole |= matching_groups(coupling, bounds.freeze, "freeze", bounds.cuts_branches)
    if bounds.only:
        loose = matching_groups(coupling, bounds.only, "only", bounds.cuts_branches)
        whole |= {*range(len(sizes))} - loose
    for number in whole | coupling.gone_groups:  # where all weights are gone, nothing more is saved
        fewest[number] = sizes[number]
    return fewest


def fit(
    coupling: Coupling,
    scores: npt.NDArray[np.float64],
    target: Target,
    bounds: Bounds = DEFAULT,
) -> Mask:
    """The mask that keeps the units of highest score and meets `target`: at most it, and as close as units allow.

    Units are closed from the lowest score upwards until the target is met; then units that were closed in passing
    are opened again, the highest score first, where the target still allows it. Without `round_to`, groups keep
    multiples of a power of two up to `BLOCK`, the largest that meets the target closely; where cost comes in blocks,
    `tgonnx.selection.blocks` decides.
    Raises TargetError if the target cannot be met, BoundsError naming the option if one forbids every cut.
    """
    sizes = np.array([group.size for group in coupling.groups], np.int64)
    target = target.as_share(coupling.cost_model)
    if target.value < 1:
        _refuse_bounds(coupling, bounds)
    if coupling.cost_model.block(target.kind):
        return _fit_blocks(coupling, scores, target, bounds)
    if bounds.round_to is not None:
        return _fit(coupling, scores, target, np.full_like(sizes, bounds.round_to), bounds)
    model = coupling.cost_model
    coarse = 2 ** np.floor(np.log2(np.maximum(sizes // 4, 1))).astype(np.int64)  # four sizes to choose from
    for block in (BLOCK, BLOCK // 2, BLOCK // 4):
        try:
            mask = _fit(coupling, scores, target, np.minimum(coarse, block), bounds)
        except TargetError:
            continue
        if model.ratio(mask.open, target.kind) >= CLOSE * target.value:
            return mask
    return _fit(coupling, scores, target, np.ones_like(sizes), bounds)


def _fit(
    coupling: Coupling,
    scores: npt.NDArray[np.float64],
    target: Target,
    steps: npt.NDArray[np.int64],
    bounds: Bounds,
) -> Mask:
    """`fit` where each group keeps a multiple of its own step."""
    model = coupling.cost_model
    fewest = _fewest(coupling, steps, bounds)
    closable = _closable(coupling, np.argsort(scores, kind="stable"), fewest, steps)
    low, high = 0, len(closable)
    least = model.ratio(_mask_of(coupling, closable, high), target.kind)
    if least > target.value + 1e-9:
        raise TargetError(f"{target}: at least {least:.3f} of the {target.kind} must stay")
    while low < high:
        middle = (low + high) // 2
        if model.ratio(_mask_of(coupling, closable, middle), target.kind) <= target.value + 1e-9:
            high = middle
        else:
            low = middle + 1
    mask = _mask_of(coupling, closable, high)
    _refill(model, mask, closable[:high], target)
    return Mask.of(coupling, mask)


def _fit_blocks(coupling: Coupling, scores: npt.NDArray[np.float64], target: Target, bounds: Bounds) -> Mask:
    """`fit` where channels are paid for in whole blocks: no unit is cut that saves nothing."""
    mask, least = shop_of(coupling, scores, target.kind, bounds).mask(target.value + 1e-9)
    if least > target.value + 1e-9:
        raise TargetError(f"{target}: at least {least:.3f} of the {target.kind} must stay")
    return Mask.of(coupling, mask)


def shop_of(
    coupling: Coupling, scores: npt.NDArray[np.float64], kind: Kind, bounds: Bounds = DEFAULT
) -> Shop:
    """Where blocks are bought and sold for one kind of cost, within bounds."""
    fewest = np.maximum(floors(coupling, bounds), 1)
    return Shop(coupling, coupling.cost_model.measure(kind), scores, fewest, bounds.round_to)


def all_met(coupling: Coupling, mask: Mask, target: Target, commit: Callable[[Target], Mask]) -> Mask:
    """The mask, or if it leaves more than other targets allow one that leaves less; `commit` makes it for a share.

    Raises TargetError if they cannot be met together.
    """

    def missed(mask: Mask) -> list[Target]:
        costs = mask.counted(coupling).cost_model
        return [each for each in target.also if costs.ratio(mask.open, each.kind) > each.value + 1e-9]

    if not missed(mask):
        return mask
    low, high, found = 0.0, target.value, None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        try:
            tried = commit(target.of_share(middle))
        except TargetError:
            low = middle
            continue
        if missed(tried):
            high = middle
        else:
            found, low = tried, middle
    if found is None:
        raise TargetError(
            f"{target}: cannot be met together, for want of {', '.join(map(str, missed(mask)))}"
        )
    return found


def _fewest(coupling: Coupling, steps: npt.NDArray[np.int64], bounds: Bounds) -> npt.NDArray[np.int64]:
    """The fewest units that each group keeps where it keeps multiples of its step."""
    sizes = np.array([group.size for group in coupling.groups], np.int64)
    return np.maximum(floors(coupling, bounds), np.minimum(steps, sizes))


def _refuse_bounds(coupling: Coupling, bounds: Bounds) -> None:
    """Raise BoundsError if nothing may be cut, naming the option without which something might."""
    loose: dict[str, Any] = {
        "freeze": (), "only": (), "max_cut": (), "min_channels": 1, "min_units": (), "round_to": 1,
        "granularity": ",".join(UNITS),
    }  # fmt: skip
    given = {
        name: getattr(bounds, name) for name in loose if getattr(bounds, name) not in (None, loose[name])
    }
    if not given or _allow_a_cut(coupling, bounds):
        return
    alone = [n for n in given if _allow_a_cut(coupling, replace(bounds, **{n: loose[n]}))]
    name = (alone or list(given))[0]
    shown = ", ".join(map(repr, given[name])) if isinstance(given[name], tuple) else str(given[name])
    raise BoundsError(name, f"{shown} leaves nothing to cut: all units must stay")


def _allow_a_cut(coupling: Coupling, bounds: Bounds) -> bool:
    steps = np.full(len(coupling.groups), bounds.round_to or 1, np.int64)
    fewest = _fewest(coupling, steps, bounds)
    return bool(_closable(coupling, np.arange(coupling.units), fewest, steps))


def _closable(
    coupling: Coupling,
    order: npt.NDArray[np.int64],
    fewest: npt.NDArray[np.int64],
    steps: npt.NDArray[np.int64],
) -> list[npt.NDArray[np.int64]]:
    """Batches of units to close, in order; a group is cut so that multiples of its step are left."""
    left = np.array([g.size for g in coupling.groups], np.int64)
    waiting: list[list[int]] = [[] for _ in left]
    guards = _Guards(coupling)
    batches = []
    for unit in order.tolist():
        group = coupling.group_of[unit]
        step = left[group] % steps[group] or steps[group]
        if left[group] - step < fewest[group] or not guards.close(unit):
            continue
        waiting[group].append(unit)
        if len(waiting[group]) == step:
            batches.append(np.array(waiting[group]))
            waiting[group] = []
            left[group] -= step
    return batches


class _Guards:
    """Keeps count of what is open in the axes that could be left empty."""

    def __init__(self, coupling: Coupling) -> None:
        self.kind_of = coupling.kind_of
        sizes = np.bincount(coupling.kind_of)
        self.open = [int(sizes[list(kinds)].sum()) for kinds in coupling.guards]
        self.of_kind: dict[int, list[int]] = {}
        for number, kinds in enumerate(coupling.guards):
            for kind in kinds:
                self.of_kind.setdefault(kind, []).append(number)

    def close(self, unit: int) -> bool:
        """Count a unit as closed; False, and nothing counted, if that would empty an axis."""
        numbers = self.of_kind.get(int(self.kind_of[unit]), [])
        if any(self.open[n] <= 1 for n in numbers):
            return False
        for n in numbers:
            self.open[n] -= 1
        return True


def random_mask(coupling: Coupling, keep: float, seed: int = 0) -> Mask:
    """Keep a fraction of every group, at least one unit, drawn at random."""
    rng = np.random.default_rng(seed)
    fewest = np.array([max(1, int(np.ceil(g.size * keep))) for g in coupling.groups], np.int64)
    closed = _closable(coupling, rng.permutation(coupling.units), fewest, np.ones_like(fewest))
    return Mask.of(coupling, _mask_of(coupling, closed, len(closed)))


def _mask_of(coupling: Coupling, batches: Sequence[npt.NDArray[np.int64]], count: int) -> Open:
    mask = np.ones(coupling.units, bool)
    if count:
        mask[np.concatenate(batches[:count])] = False
    return mask


def _refill(model: CostModel, mask: Open, closed: Sequence[npt.NDArray[np.int64]], target: Target) -> None:
    for batch in reversed(closed[-200:]):
        mask[batch] = True
        if model.ratio(mask, target.kind) > target.value + 1e-9:
            mask[batch] = False
