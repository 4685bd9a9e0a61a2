"""The whole pipeline: analyse, learn or choose, cut, train on, verify."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tgonnx.analysis.cost import Cost
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.lengths import rescaled
from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.solver import analyze
from tgonnx.analysis.target import Given, Target
from tgonnx.data.samples import Dataset
from tgonnx.data.sources import Data, open_dataset
from tgonnx.errors import BoundsError, ModelError, OptionError, TargetError, UnsupportedError
from tgonnx.graph.proto import with_values
from tgonnx.graph.structure import structure_hash
from tgonnx.graph.types import Array
from tgonnx.io.save import save
from tgonnx.io.summary import Shown, Summary, amount, byte_count
from tgonnx.loading import load
from tgonnx.losses.fit import Fit, try_graph, validate
from tgonnx.losses.metric import Metric
from tgonnx.options import Attention, attention_of, of_class, with_fields
from tgonnx.passes.file_form import give_form_back
from tgonnx.passes.gate_families import CHANNELS, GateFamily
from tgonnx.passes.prepare_training import prepare_training
from tgonnx.passes.remove_channels import apply
from tgonnx.proof import Prover, data_feeds
from tgonnx.runtime.equivalence import Check
from tgonnx.runtime.known_part import known_part, unknown_operators, with_rest
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.budget import CLOSE
from tgonnx.selection.criteria import select
from tgonnx.selection.mask import Mask
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.identity import identity
from tgonnx.training.keeper import Keeper, open_keeper
from tgonnx.training.loop import WATCHED
from tgonnx.training.progress import Journal, Listener, Progress
from tgonnx.training.recipe import BATCH, Recipe, Run, Settings
from tgonnx.training.search import search
from tgonnx.training.statistics import refresh_statistics
from tgonnx.training.task import Task, Teacher

SEARCH_STEPS, TUNE_STEPS = (300, 1500), (600, 3000)  # at least and at most, if the epochs are not given
SEARCH_EPOCHS, TUNE_EPOCHS = 2, 4
HURRY = 3.0  # seconds of verification when somebody waits for the prompt


@dataclass(frozen=True)
class Figures:
    """One model in figures. `metric` was measured on all held-out samples; None if there are none. `others` are the
    figures of further outputs, by what they are called."""

    cost: Cost
    file_bytes: int
    metric: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class PruneResult(Shown):
    """What `prune` returns.

    `achieved` is what is left of the target's kind of cost, a ratio. `target_met`: it is at most the target.
    `counted_at` are the shapes of inputs of open size that FLOPs are counted at.
    `notes` say what a reader of the figures should know. `history` has one record per epoch.
    """

    model: onnx.ModelProto
    mask: Mask
    before: Figures
    after: Figures
    metric_name: str | None
    history: tuple[Progress, ...]
    check: Check
    target: Target
    achieved: float
    notes: tuple[str, ...] = ()
    counted_at: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def target_met(self) -> bool:
        return self.achieved <= self.target.value + 1e-9

    def summary(self) -> Summary:
        """Before and after, and whether the target was met."""
        costs = [
            ("FLOPs", self.before.cost.flops, self.after.cost.flops, amount),
            ("parameters", self.before.cost.params, self.after.cost.params, amount),
            ("channels", self.before.cost.channels, self.after.cost.channels, amount),
            ("file", self.before.file_bytes, self.after.file_bytes, byte_count),
        ]
        rows = [(name, say(a), say(b), f"{b / a:.1%}" if a else "") for name, a, b, say in costs]
        if self.before.metric is not None and self.after.metric is not None:
            a, b = self.before.metric, self.after.metric
            measured = [(self.metric_name or "metric", a, b)]
            measured += [(name, a, self.after.others[name]) for name, a in self.before.others.items()]
            rows += [(name, f"{a:.4g}", f"{b:.4g}", f"{b - a:+.4g}") for name, a, b in measured]
        met = "met" if self.target_met else f"not met: {self.achieved:.3f}"
        facts = [
            ("target", f"{self.target}, {met}"),
            ("verified", f"{self.check.verdict}, {self.check.max_rel:.1e} relative"),
        ]
        facts += [("note", note) for note in self.notes[:3]]
        return Summary("PruneResult", facts, ("", "before", "after", "left"), rows)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the pruned model, completely or not at all. Raises UsageError."""
        save(self.model, path, overwrite)


@dataclass(frozen=True)
class _Plan:
    """What is to be cut, and within which bounds. `goal` is the target, or the least that can be reached."""

    model: Model
    coupling: Coupling
    target: Target
    goal: Target
    bounds: Bounds
    family: GateFamily = CHANNELS
    whole: bool = True  # or what stands before operators that nothing here runs

    def commit(self, scores: npt.NDArray[np.float64]) -> Mask:
        """The mask that keeps the best units and meets the goal."""
        return self.family.commit(self.coupling, scores, self.goal, self.bounds)


def prune(
    model: Model | Source,
    data: Data | None = None,
    target: Given = None,
    *,
    recipe: Recipe | None = None,
    bounds: Bounds | None = None,
    run: Run | None = None,
    progress: Listener | None = None,
    attention: Attention = "heads",
    **fields: Any,
) -> PruneResult:
    """Make a model cheaper by deleting channels, learning which ones; without data, by the size of their
    weights.

    `target` is a `Target`, or what it is made from: "flops=0.5" (the default), "flops=50%", "params=1M", "size=2MB",
    0.5, {"params": 0.5}. How to train is the `recipe`, what must stay the `bounds`, how the run goes
    the `run`; every field of these three is a keyword, too: `prune(model, data, lr=1e-3, round_to=8, seed=1)`. The seed
    determines a run. The result is verified at many sizes (`tgonnx.proof`).

    Raises UnsupportedError if nothing can be pruned, DataError, UsageError, ModelError, DivergedError, and
    VerificationError if the normal form does not compute what the original does, or the pruned model not what the
    gated one does.
    """
    recipe, bounds, run = with_fields(
        "prune",
        fields,
        of_class("recipe", recipe, Recipe),
        of_class("bounds", bounds, Bounds),
        of_class("run", run, Run),
    )
    wanted = Target.of(target)
    attention_of(attention)
    if progress is not None and not callable(progress):
        raise OptionError("progress", f"is a {type(progress).__name__}, not a function")
    model = load(model)
    whole, unknown = model.original, unknown_operators(model.original) if data is not None else set()
    if unknown:  # nothing here runs them: what stands before them is trained
        model = replace(load(known_part(whole, unknown)), source=model.source)
    dataset = None if data is None else open_dataset(data, model.original)
    fitting = None if dataset is None else validate(dataset, model.original, recipe.asked())
    if dataset is not None and not model.sizes:
        model = _at_sizes_of(dataset, model)
    coupling = analyze(model, attention)
    if not coupling.units:
        why = coupling.pinned[0] if coupling.pinned else None
        reason = f": node {why.node} ({why.op_type}): {why.reason}" if why else ": it has no prunable weights"
        raise UnsupportedError(f"{model.source}: nothing can be pruned{reason}")
    wanted = wanted.as_share(coupling.cost_model)
    if bounds.round_to is None and not recipe.train_weights:
        bounds = replace(bounds, round_to=1)  # nothing afterwards makes up for what rounding took
    plan = _Plan(model, coupling, wanted, _reachable(coupling, wanted, bounds), bounds, whole=not unknown)
    prover = Prover(coupling, (), run.verify_seconds, run.unverified)
    if dataset is None or fitting is None:
        return _without_data(plan, prover)
    settings = Settings(**(vars(recipe) | vars(run) | {"batch": _batch_size(model, dataset, recipe.batch)}))
    if fitting.graph:
        try_graph(fitting, dataset, open_session(model.original), settings.batch)
    prover = replace(prover, feeds=data_feeds(dataset, model.original))
    journal = Journal(progress)
    who = identity(model.original, dataset, run.threads)
    who |= {"loss": fitting.graph.digest} if fitting.graph else {}
    keeper = open_keeper(
        run, str(model.source), who, _resolved(plan, replace(settings, loss=fitting.loss)), journal
    )
    result = _with_data(plan, dataset, fitting, settings, prover, keeper)
    result = _completed(result, whole, unknown) if unknown else result
    keeper.finish(result.mask)
    return result


def _resolved(plan: _Plan, settings: Settings) -> dict[str, Any]:
    """All that was chosen and changes the result, as plain values."""
    own = (
        "threads",
        "verify_seconds",
        "unverified",
        "run_dir",
        "resume",
        "checkpoint_seconds",
    )  # of this process alone
    plain = {
        n: getattr(v, "__qualname__", v) for n, v in vars(settings).items()
    }  # a metric may be a function
    chosen = {name: value for name, value in plain.items() if name not in own}
    goal = {"target": f"{plan.target.kind}={plan.target.value!r}", "attention": plan.coupling.attention}
    return goal | chosen | vars(plan.bounds)


def _at_sizes_of(dataset: Dataset, model: Model) -> Model:
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


def _completed(result: PruneResult, whole: onnx.ModelProto, unknown: set[tuple[str, str]]) -> PruneResult:
    """The result for the known part of a model, with the operators that nothing here runs put back."""
    up_to = tuple(f"{op_type} ({domain or 'ai.onnx'})" for domain, op_type in sorted(unknown))
    note = f"trained and verified up to the inputs of {', '.join(up_to)}, which nothing here runs"
    return replace(
        result,
        model=with_rest(result.model, whole, unknown),
        mask=replace(result.mask, structure=structure_hash(whole)),
        check=replace(result.check, up_to=up_to),
        notes=(note, *result.notes),
    )


def _without_data(plan: _Plan, prover: Prover) -> PruneResult:
    mask = select(plan.coupling, plan.goal, "l2", bounds=plan.bounds)
    pruned = apply(plan.coupling, mask)
    gated = plan.family.insert(plan.model.proto, plan.coupling, mask)
    check = prover.both(mask, gated, pruned)
    doubt = prover.settle(check, pruned)
    note = "no data was given: units were chosen by the size of their weights, and accuracy was not measured"
    return _result(plan, mask, pruned, check, Journal(), None, (*filter(None, [doubt]), note))


def _with_data(
    plan: _Plan,
    dataset: Dataset,
    fitting: Fit,
    recipe: Settings,
    prover: Prover,
    keeper: Keeper,
) -> PruneResult:
    coupling, original, family, journal = plan.coupling, plan.model.original, plan.family, keeper.journal
    for note in dataset.notes:
        journal.note(note)
    followers = [part.output for part in fitting.others if part.originals]
    if followers and (fitting.graph or fitting.answers):
        names = ", ".join(map(repr, followers))
        journal.note(f"nothing is given for {names}: what the original says there is imitated")
    prover.settle(prover.normal_form)  # before time is spent on it, as below
    held_out = dataset.held_out
    metric = None if held_out is None else Metric(fitting, held_out, original)
    task = Task(dataset.train, fitting, Teacher(original, fitting, recipe.threads), metric)
    steps = steps_for(
        task.steps_per_epoch(recipe.batch, recipe.accumulate), recipe.epochs, recipe.train_weights
    )
    task.teacher.remember(task.split, recipe, sum(steps), journal.note)
    journal.later = steps[1] * math.sqrt(plan.target.value)  # fine-tuning is about so much faster
    if metric is not None:
        keeper.better = operator.gt if metric.higher_is_better else operator.lt
    with keeper.salvaging():
        found = search(coupling, task, plan.goal, steps[0], recipe, journal, plan.bounds, keeper)
        mask = plan.commit(found.scores)
        keeper.keep_mask(mask)
        full = with_values(plan.model.proto, found.values) if recipe.train_weights else plan.model.proto
        cut = family.cut(full, coupling, mask)
        tunes_already = keeper.resumed("fine-tune") is not None
        if not tunes_already:
            prover.settle(prover.cut(mask, family.insert(full, coupling, mask), cut))
        cut = refresh_statistics(cut, task, recipe)
        left = coupling.cost_model.ratio(mask.open, plan.target.kind)
        if not tunes_already:
            watched = None if metric is None else metric(cut, WATCHED, recipe.threads or 0)
            journal.record(Progress("commit", 1, 1, 1, 1, journal.records[-1].loss, watched, left))
    journal.later = 0.0

    def so_far() -> Path | None:
        """Write the model with the weights as they are, verified in a hurry."""
        if keeper.folder is None or not plan.whole:
            return None
        values = keeper.latest.values() if keeper.latest is not None else {}
        tuned = refresh_statistics(with_values(cut, values), task, recipe)
        hurried = replace(prover, seconds=min(prover.seconds, HURRY))
        path = keeper.folder.path / "model.onnx"
        save(_verified(plan, mask, full, tuned, hurried)[0], path, overwrite=True)
        return path

    with keeper.salvaging(so_far):
        pruned = cut
        if recipe.train_weights:
            pruned = fine_tune(pruned, task, steps[1], recipe, journal, left, keeper)
            pruned = refresh_statistics(pruned, task, recipe)
        pruned, check, doubt = _verified(plan, mask, full, pruned, prover)
        notes = () if metric is not None else ("there are no held-out samples: accuracy was not measured",)
        return _result(
            plan, mask, pruned, check, journal, metric, (*filter(None, [doubt]), *notes, *journal.notes)
        )


def _verified(
    plan: _Plan, mask: Mask, full: onnx.ModelProto, pruned: onnx.ModelProto, prover: Prover
) -> tuple[onnx.ModelProto, Check, str]:
    """The pruned model in the form of the original, its check, and a doubt. Raises VerificationError."""
    gated = plan.family.insert(embed(full, pruned, plan.coupling, mask), plan.coupling, mask)
    pruned = give_form_back(pruned, plan.model.original)
    check = prover.both(mask, gated, pruned)
    return pruned, check, prover.settle(check, pruned)


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


def _reachable(coupling: Coupling, target: Target, bounds: Bounds) -> Target:
    """The target, or the least ratio above it that can be met. Raises BoundsError if nothing may be cut."""
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


def _batch_size(model: Model, dataset: Dataset, wanted: int | None) -> int:
    """The batch to train with: what the model insists on, if it really does."""
    count = len(dataset.train)
    size = min(count, wanted or min(BATCH, max(8, count // 4)))
    insists, outputs_axes = dataset.train.axes.fixed, dataset.train.axes.outputs
    if insists is None or insists == size:
        return size
    feeds = dataset.train.take(dataset.train.one_shape(size)).feeds
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


def steps_for(per_epoch: int, epochs: int | None, train_weights: bool) -> tuple[int, int]:
    """Steps of search and of fine-tuning, from the steps that one pass over the data takes."""
    if epochs is None:
        (least, most), (tune_least, tune_most) = SEARCH_STEPS, TUNE_STEPS
        tune = min(max(TUNE_EPOCHS * per_epoch, tune_least), tune_most)
        search_steps = min(max(SEARCH_EPOCHS * per_epoch, least), most)
    else:
        search_steps = max(1, epochs * per_epoch // 3)
        tune = max(1, epochs * per_epoch - search_steps)
    return (search_steps, tune) if train_weights else (search_steps + tune, 0)


def _result(
    plan: _Plan,
    mask: Mask,
    pruned: onnx.ModelProto,
    check: Check,
    journal: Journal,
    metric: Metric | None,
    notes: tuple[str, ...],
) -> PruneResult:
    cost = plan.coupling.cost_model
    if cost.uncounted:
        notes += (f"not counted in the FLOPs: {', '.join(cost.uncounted)}",)
    achieved = cost.ratio(mask.open, plan.target.kind)
    original = plan.model.original
    if achieved > plan.target.value + 1e-9:
        notes += (
            f"target {plan.target} not met: at least {achieved:.3f} of the {plan.target.kind} must stay",
        )
    elif achieved < CLOSE * plan.target.value:
        notes += (
            f"{achieved:.3f} of the {plan.target.kind} is left: no larger choice of whole units was found",
        )
    before, after = (
        Figures(cost.cost(chosen), each.ByteSize(), *((metric(each), metric.others(each)) if metric else ()))
        for each, chosen in ((original, None), (pruned, mask.open))
    )
    name = None if metric is None else metric.name
    return PruneResult(
        pruned, mask, before, after, name, tuple(journal.records), check, plan.target, achieved, notes,
        plan.model.counted_at,
    )  # fmt: skip
