"""From what a user gives to a job: everything read, checked and measured, and nothing trained yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from tgonnx.analysis import profile_file
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.solver import analyze
from tgonnx.analysis.stand_ins import stand_ins
from tgonnx.analysis.target import LATENCY, Given, Target
from tgonnx.data.augment import augmentation
from tgonnx.data.calibration import Calibration
from tgonnx.data.samples import Dataset, parted, with_test
from tgonnx.data.sources import Data, open_dataset
from tgonnx.errors import OptionError, UnsupportedError
from tgonnx.graph.structure import structure_hash
from tgonnx.io.notes import Note
from tgonnx.io.stamp import say_original
from tgonnx.loading import load
from tgonnx.losses.fit import Fit, try_graph, validate
from tgonnx.options import ALL, CRITERION, Attention, attention_of, changed, of_class, with_fields
from tgonnx.passes.add_alternatives import add_alternatives
from tgonnx.passes.gate_families import family_of
from tgonnx.pipeline.clock import Clock
from tgonnx.pipeline.learning import Lesson
from tgonnx.pipeline.measuring import yardstick
from tgonnx.pipeline.outlook import outlook
from tgonnx.pipeline.plan import Plan, at_sizes_of, batch_size, steps_for
from tgonnx.pipeline.profiling import profiled
from tgonnx.pipeline.result import PruneResult
from tgonnx.pipeline.ways import TRAINING, way_for
from tgonnx.proof import Prover, data_feeds
from tgonnx.runtime.known_part import known_part, unknown_operators, with_rest
from tgonnx.runtime.sessions import Feeds, open_session
from tgonnx.selection.bounds import OF_CHOICES, Bounds
from tgonnx.selection.mask import Mask
from tgonnx.selection.weight_choice import asked
from tgonnx.training.identity import hash_of_mask, identity
from tgonnx.training.keeper import Keeper, open_keeper
from tgonnx.training.notebook import notebook_listener
from tgonnx.training.progress import Journal, Listener
from tgonnx.training.rates import rate_for
from tgonnx.training.recipe import CHOSEN_BY, GATES, OF_A_CHOICE, Recipe, Run, Settings
from tgonnx.training.run_folder import PROFILE

OWN = (  # of this process alone: a run goes on with other values of these
    "threads", "verify_seconds", "unverified", "run_dir", "resume", "checkpoint_seconds", "force", "test", "mask",
    "tensorboard", "sparse",
)  # fmt: skip
YOUNGER = (
    "granularity",
    "only",
    "max_cut",
    "nm",
    "min_units",
    *OF_CHOICES,
)  # options that runs which may go on have not heard of
NOTHING = 1e-9  # of the cost is left where all that cost something was in branches that went
Choose = Callable[[Coupling, onnx.ModelProto], Mask]  # of what is trained, and the model as it was given


@dataclass(frozen=True)
class Options:
    """How a job is done: what `prune` takes beside model, data and target; `mask` makes the choice, if it is given."""

    recipe: Recipe
    bounds: Bounds
    run: Run
    attention: Attention
    progress: Listener | None
    mask: Choose | None = None

    @classmethod
    def of(
        cls,
        caller: str,
        given: tuple[Recipe | None, Bounds | None, Run | None],
        fields: Mapping[str, Any],
        attention: Attention,
        progress: Listener | None,
    ) -> Options:
        """The objects with the fields that were named. Raises UsageError."""
        recipe, bounds, run = with_fields(
            caller,
            fields,
            of_class("recipe", given[0], Recipe),
            of_class("bounds", given[1], Bounds),
            of_class("run", given[2], Run),
        )
        attention = bounds.attention_of(attention_of(attention))
        if progress is not None and not callable(progress):
            raise OptionError("progress", f"is a {type(progress).__name__}, not a function")
        return cls(recipe, bounds, run, attention, progress or notebook_listener())


@dataclass(frozen=True)
class Job:
    """What is to be done to a model. Without data there is no lesson, and nothing is kept.

    `whole` is the model as it was given; operators that nothing here runs are `unknown`, and what stands before them is
    in the plan.
    """

    plan: Plan
    prover: Prover
    lesson: Lesson | None
    keeper: Keeper
    whole: onnx.ModelProto
    unknown: set[tuple[str, str]]
    recipe: Mapping[str, Any] = field(default_factory=dict)  # as it was resolved, for people

    def completed(self, result: PruneResult) -> PruneResult:
        """The result for the whole model: with the operators that nothing here runs put back, and how it was made."""
        result = replace(result, details={**result.details, "recipe": dict(self.recipe)})
        if not self.unknown:
            return result
        up_to = tuple(f"{op_type} ({domain or 'ai.onnx'})" for domain, op_type in sorted(self.unknown))
        note = f"trained and verified up to the inputs of {', '.join(up_to)}, which nothing here runs"
        model = with_rest(result.model, self.whole, self.unknown)
        say_original(model, self.whole)
        return replace(
            result,
            model=model,
            mask=replace(result.mask, structure=structure_hash(self.whole)),
            check=replace(result.check, up_to=up_to),
            notes=(Note("up-to-unknown", note), *result.notes),
        )


def prepared(model: Model | Source, data: Data | None, targets: Sequence[Given], options: Options) -> Job:
    """The job of pruning a model to the least of some targets of one kind. Raises as `prune` does."""
    recipe, bounds, run = options.recipe, options.bounds, options.run
    given = [ALL if target is None and bounds.choose else target for target in targets]
    wanted = [Target.of(target) for target in given if target is not None or not bounds.nm]
    if bounds.nm and recipe.max_drop is not None:
        raise OptionError("nm", f"{bounds.nm} says how many weights stay: max_drop does not go with it")
    if bounds.cuts_weights and recipe.criterion == "auto" and not recipe.by_gates:
        recipe = replace(recipe, criterion=CRITERION)
    if bounds.chooses and recipe.criterion == "auto" and data is not None and not recipe.calibrate:
        recipe = replace(recipe, criterion=GATES)  # a sum of all is no network to be near to
    if not bounds.cuts_units and recipe.lossless:
        raise OptionError(
            "granularity", "lossless is for channels: nothing else is searched for what does nothing"
        )
    model = load(model)
    whole, unknown = model.original, unknown_operators(model.original) if data is not None else set()
    if unknown:  # nothing here runs them: what stands before them is trained
        model = replace(load(known_part(whole, unknown)), source=model.source)
    dataset = None if data is None else _opened(data, run.test, model.original, recipe)
    fitting = None if dataset is None else validate(dataset, model.original, recipe.asked())
    if dataset is not None and not model.sizes:
        model = at_sizes_of(dataset, model)
    if bounds.alternative:
        model = _with_alternatives(model, dataset, bounds, run)
    timed = options.mask is None and any(target.kind == LATENCY for target in wanted)
    if bounds.round_to is None and not recipe.train_weights and not timed:
        bounds = replace(bounds, round_to=1)  # nothing afterwards makes up for what rounding took
    if options.mask is not None:
        plan, recipe = _given(model, whole, options, options.mask)
    else:
        plan = _planned(model, wanted, bounds, options, not unknown)
    gated = bounds.cuts_branches or (plan.given is not None and bool(plan.given.branches))
    prover = Prover(plan.coupling, (), run.verify_seconds, run.unverified, gated)
    journal = Journal(options.progress)
    if dataset is None or fitting is None:
        chosen = {
            "target": str(plan.target),
            "attention": plan.coupling.attention,
            "criterion": recipe.criterion,
        }
        return Job(plan, prover, None, Keeper(journal=journal), whole, unknown, chosen | vars(bounds))
    prover = replace(prover, feeds=data_feeds(dataset, model.original))
    lesson = _lesson(plan, dataset, fitting, recipe, run)
    resolved = _resolved(lesson, wanted or [plan.target])
    keeper = _keeper(lesson, dataset, resolved, run, journal)
    return Job(plan, prover, lesson, keeper, whole, unknown, resolved)


def _with_alternatives(model: Model, dataset: Dataset | None, bounds: Bounds, run: Run) -> Model:
    """The model with alternatives in its normal form, fitted to samples or, without any, to stand-ins."""
    samples: Sequence[Feeds] = stand_ins(model)[0]
    if dataset is not None:
        samples = Calibration(dataset.train, seed=run.seed)
    proto, added = add_alternatives(model, bounds.layers, samples, run.threads)
    return replace(
        load(proto, model.sizes or None),
        given=model.given,
        source=model.source,
        added=added,
        file_bytes=model.file_bytes,
        read_digest=model.read_digest,
    )


def _planned(model: Model, wanted: Sequence[Target], bounds: Bounds, options: Options, whole: bool) -> Plan:
    """The plan for the least of the targets. Raises UnsupportedError if nothing can be pruned."""
    coupling, clock = analyze(model, options.attention).choosing(bounds.choices), None
    if not coupling.units and bounds.cuts_units and not bounds.cuts_branches:
        why = coupling.pinned[0] if coupling.pinned else None
        reason = f": node {why.node} ({why.op_type}): {why.reason}" if why else ": it has no prunable weights"
        raise UnsupportedError(f"{model.source}: nothing can be pruned{reason}")
    if bounds.nm:
        wanted = [asked(coupling, target, bounds) for target in wanted or (None,)]
    if any(target.kind == LATENCY for target in wanted):
        clock = _timed(coupling, options)
    elif options.recipe.latency_profile:
        raise OptionError("latency_profile", "is for a target of latency, as in latency=0.6")
    least = min((target.as_share(coupling.cost_model) for target in wanted), key=lambda target: target.value)
    plan = Plan(model, coupling, least, least, bounds, family_of(bounds), whole, clock=clock)
    return replace(plan, sparse=options.run.sparse).aimed(least)


def _timed(coupling: Coupling, options: Options) -> Clock | None:
    """The clock, after latency is known to the cost model: by the profile that is given or kept, or by measuring.

    There is none where the profile was measured on another device. Raises UsageError.
    """
    run, given = options.run, options.recipe.latency_profile
    kept = Path(run.resume) / PROFILE if run.resume else None
    profile = profile_file.read(given) if given else None
    if profile is None and kept is not None and kept.is_file():
        profile = profile_file.read(kept)
    if profile is None:
        clock = Clock.of(coupling.model, run.threads)
        coupling.cost_model.use(profiled(coupling, clock, run.seed))
        return clock
    coupling.cost_model.use(profile)
    if profile.device:
        return None
    return Clock.of(coupling.model, int(profile.about.get("threads", 0)), int(profile.about.get("batch", 1)))


def _given(model: Model, original: onnx.ModelProto, options: Options, choose: Choose) -> tuple[Plan, Recipe]:
    """The plan whose choice is made, and a recipe that searches for none. Raises UsageError if it does not fit."""
    recipe, coupling = options.recipe, analyze(model, options.attention)
    choosing = [name for name in OF_A_CHOICE if name not in ("mask", "compensate", "calibrate")]
    asked = [name for name in choosing if name in changed(recipe)] + changed(options.bounds)
    if asked:
        raise OptionError(asked[0], "is for choosing what stays, which is given")
    mask = choose(coupling, original)
    ratio = mask.counted(coupling).cost_model.ratio(mask.open, "flops")
    left = Target(flops=max(ratio, NOTHING))
    plan = Plan(model, coupling, left, left, options.bounds, whole=model.original is original, given=mask)
    plan = replace(plan, sparse=options.run.sparse)
    return plan, replace(recipe, criterion=CHOSEN_BY, mask=None)


def _opened(data: Data, test: Data | None, model: onnx.ModelProto, recipe: Recipe) -> Dataset:
    """The data set, with its test part from elsewhere if that is given."""
    dataset = open_dataset(data, model)
    if test is None:
        return dataset
    other = open_dataset(test, model)
    validate(other, model, recipe.asked())  # what is wrong there is said in its own name
    return with_test(dataset, other)


def _lesson(plan: Plan, dataset: Dataset, fitting: Fit, recipe: Recipe, run: Run) -> Lesson:
    """What is to be learned, after the original was measured. Raises DataError."""
    original = plan.model.original
    size = batch_size(plan.model, parted(dataset).train, recipe.batch)
    rate = recipe.lr if recipe.lr is not None else rate_for(plan.model.proto, plan.goal)
    settings = Settings(**(vars(recipe) | vars(run) | {"batch": size, "lr": rate}))
    if fitting.graph:
        try_graph(fitting, dataset, open_session(original), size)
    augment = augmentation(recipe.augment, dataset)
    measure = yardstick(dataset, fitting, original, settings)
    task = measure.task(original, settings, augment)
    per_epoch = task.steps_per_epoch(size, recipe.accumulate)
    way = way_for(recipe, fitting, len(measure.parts.train))
    steps = steps_for(per_epoch, recipe.epochs, recipe.train_weights, settings.by_gates)
    return Lesson(plan, measure, task, way.steps(steps), settings, way)


def _keeper(
    lesson: Lesson, dataset: Dataset, resolved: Mapping[str, Any], run: Run, journal: Journal
) -> Keeper:
    """The keeper of the run, after what will happen was said and noted."""
    plan, fit = lesson.plan, lesson.task.fit
    who = identity(plan.model.original, dataset, run.threads)
    who |= {"loss": fit.graph.digest} if fit.graph else {}
    who |= {"mask": hash_of_mask(plan.given)} if plan.given else {}
    keeper = open_keeper(run, str(plan.model.source), who, resolved, journal)
    keeper.better = lesson.measure.better
    if (profile := plan.coupling.cost_model.profile) is not None and plan.target.kind == LATENCY:
        keeper.keep_profile(profile)
    journal.begin(outlook(lesson, dataset))
    for note in dataset.notes:
        journal.note(note, "data")
    if lesson.way is not TRAINING:
        journal.note(f"recipe: {lesson.way.name}", "recipe")
    followers = [part.output for part in fit.others if part.originals]
    if followers and (fit.graph or fit.answers):
        names = ", ".join(map(repr, followers))
        journal.note(f"nothing is given for {names}: what the original says there is imitated", "imitated")
    return keeper


def _resolved(lesson: Lesson, wanted: Sequence[Target]) -> dict[str, Any]:
    """All that was chosen and changes the result, as plain values."""
    plan, settings = lesson.plan, vars(lesson.recipe) | {"loss": lesson.task.fit.loss}
    plain = {  # a metric may be a function
        name: getattr(value, "__qualname__", value) for name, value in settings.items()
    }
    chosen = {name: value for name, value in plain.items() if name not in OWN}
    goals = (target.as_share(plan.coupling.cost_model) for target in wanted)
    shares = (share for goal in goals for share in (goal, *goal.also))
    target = ", ".join(
        share.stated if share.kind == LATENCY else f"{share.kind}={share.value!r}" for share in shares
    )
    asked = changed(plan.bounds)
    bounds = {
        name: value for name, value in vars(plan.bounds).items() if name not in YOUNGER or name in asked
    }
    return {"target": target, "attention": plan.coupling.attention} | chosen | bounds
