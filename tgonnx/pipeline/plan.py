"""What is to be cut, and how long and in which batches it is trained: settled before anything is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.model import Model
from tgonnx.analysis.target import Target
from tgonnx.data.samples import Dataset, Split
from tgonnx.errors import BoundsError, ModelError, TargetError
from tgonnx.loading import load
from tgonnx.passes.gate_families import CHANNELS, GateFamily
from tgonnx.passes.prepare_training import prepare_training
from tgonnx.pipeline.branching import least_left
from tgonnx.pipeline.clock import Clock, by_the_clock
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.branch_order import most_saved
from tgonnx.selection.budget import all_met, shop_of
from tgonnx.selection.mask import Mask
from tgonnx.selection.weight_choice import check_kind
from tgonnx.training.recipe import BATCH

SEARCH_STEPS, TUNE_STEPS = (300, 1500), (600, 3000)  # at least and at most, if the epochs are not given
SEARCH_EPOCHS, TUNE_EPOCHS = 2, 4


@dataclass(frozen=True)
class Plan:
    """What is to be cut, and within which bounds. `goal` is the target, or the least that can be reached."""

    model: Model
    coupling: Coupling
    target: Target
    goal: Target
    bounds: Bounds
    family: GateFamily = CHANNELS
    whole: bool = True  # or what stands before operators that nothing here runs
    given: Mask | None = None  # the choice, if nothing is to be searched for
    clock: Clock | None = None  # where the target is a latency, on this machine
    sparse: bool = False  # whether weights that are mostly zero are stored sparsely

    @property
    def reference(self) -> onnx.ModelProto:
        """The normal form without what was added to it: what the cut model is to be near to."""
        coupling = self.coupling
        if not coupling.foreign:
            return self.model.proto
        return self.family.cut(self.model.proto, coupling, Mask.all_open(coupling.original))

    def aimed(self, target: Target) -> Plan:
        """The same with another target."""
        share = target.as_share(self.coupling.cost_model)
        return replace(self, target=share, goal=reachable(self.coupling, share, self.bounds))

    def left(self, mask: Mask) -> float:
        """What a mask leaves of the target's kind of cost, a ratio; of latency as it is predicted."""
        return mask.counted(self.coupling).cost_model.ratio(mask.open, self.target.kind)

    def measured(self, mask: Mask) -> float:
        """What a mask leaves of the time, by the clock; as it is predicted where there is none."""
        if self.clock is None:
            return self.left(mask)
        return self.clock.share(self.family.cut(self.model.proto, self.coupling, mask))

    def commit(self, scores: npt.NDArray[np.float64]) -> Mask:
        """The mask that keeps the best units and meets the goal."""
        return self.met(lambda goal: self.family.commit(self.coupling, scores, goal, self.bounds))

    def met(self, commit: Callable[[Target], Mask]) -> Mask:
        """The mask that `commit` makes for the goal; of latency for the prediction that meets it by the clock."""
        timed = self.clock is not None
        mask = by_the_clock(self.goal, commit, self.left, self.measured) if timed else commit(self.goal)
        return all_met(self.coupling, mask, self.target.of_share(self.goal.value), commit)


def reachable(coupling: Coupling, target: Target, bounds: Bounds) -> Target:
    """The target, or the least ratio above it that can be met. Raises BoundsError if nothing may be cut."""
    if bounds.cuts_weights:
        check_kind(target)
        return target
    if bounds.cuts_branches:
        least = least_left(coupling, bounds, target.kind)
        if least <= target.value + 1e-9:
            return target
        if not bounds.cuts_units or not coupling.units:
            return Target(**{target.kind: least})
        coupling = coupling.closing(most_saved(coupling, bounds, target.kind))
    if coupling.cost_model.block(target.kind):
        least = shop_of(coupling, np.zeros(coupling.units), target.kind, bounds).mask(target.value)[1]
        return target if least <= target.value else Target(**{target.kind: min(1.0, least + 1e-6)})
    scores = np.zeros(coupling.units)
    exact = replace(bounds, round_to=bounds.round_to or 1)

    def possible(ratio: float) -> bool:
        try:
            CHANNELS.commit(coupling, scores, Target(**{target.kind: ratio}), exact)
        except BoundsError:
            raise
        except TargetError:
            return False
        return True

    if possible(target.value):
        return target
    low, high = target.value, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return Target(**{target.kind: high})


def at_sizes_of(dataset: Dataset, model: Model) -> Model:
    """The model analysed and counted at the sizes of the data, the number of samples aside."""
    feeds = dataset.train.take(dataset.train.one_shape(1)).feeds
    axes = dataset.train.axes.inputs
    sizes = {
        name: tuple(
            own if place == axes.get(name, 0) else size
            for place, (own, size) in enumerate(zip(model.shapes[name], feeds[name].shape, strict=True))
        )
        for name in model.inputs
        if name in feeds and feeds[name].ndim and len(model.shapes.get(name, ())) == feeds[name].ndim
    }
    if all(model.shapes[name] == shape for name, shape in sizes.items()):
        return model
    return replace(load(model.original, sizes), source=model.source)


def batch_size(model: Model, train: Split, wanted: int | None) -> int:
    """The batch to train with: what the model insists on, if it really does."""
    count = len(train)
    size = min(count, wanted or min(BATCH, max(8, count // 4)))
    insists, outputs_axes = train.axes.fixed, train.axes.outputs
    if insists is None or insists == size:
        return size
    feeds = train.take(train.one_shape(size)).feeds
    copy = prepare_training(model.proto, {name: value.shape for name, value in feeds.items()})
    try:
        outputs = open_session(copy.model).run(feeds)
    except ModelError:
        return insists
    counts = [
        value.shape[axis]
        for name, value in outputs.items()
        if (axis := outputs_axes.get(name, 0)) is not None and value.ndim > axis
    ]
    return size if counts and set(counts) == {size} else insists


def steps_for(
    per_epoch: int, epochs: int | None, train_weights: bool, by_gates: bool = True
) -> tuple[int, int]:
    """Steps of search and of fine-tuning, from the steps that one pass over the data takes.

    Where nothing is searched for, all steps are for fine-tuning; where weights are frozen, for the search.
    """
    if epochs is None:
        (least, most), (tune_least, tune_most) = SEARCH_STEPS, TUNE_STEPS
        tune = min(max(TUNE_EPOCHS * per_epoch, tune_least), tune_most)
        search_steps = min(max(SEARCH_EPOCHS * per_epoch, least), most)
    else:
        search_steps = max(1, epochs * per_epoch // 3)
        tune = max(1, epochs * per_epoch - search_steps)
    both = search_steps + tune
    if not by_gates:
        return (0, both if train_weights else 0)
    return (search_steps, tune) if train_weights else (both, 0)
