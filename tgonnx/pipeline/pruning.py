"""The whole pipeline: analyse, learn or choose, cut, train on, verify."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx

from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.solver import analyze
from tgonnx.analysis.target import Given, Target
from tgonnx.data.sources import Data, open_dataset
from tgonnx.errors import OptionError, UnsupportedError
from tgonnx.graph.structure import structure_hash
from tgonnx.loading import load
from tgonnx.losses.fit import try_graph, validate
from tgonnx.options import Attention, attention_of, of_class, with_fields
from tgonnx.pipeline.learning import with_data
from tgonnx.pipeline.no_data import without_data
from tgonnx.pipeline.plan import Plan, at_sizes_of, batch_size, reachable
from tgonnx.pipeline.result import PruneResult
from tgonnx.proof import Prover, data_feeds
from tgonnx.runtime.known_part import known_part, unknown_operators, with_rest
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.bounds import Bounds
from tgonnx.training.identity import identity
from tgonnx.training.keeper import open_keeper
from tgonnx.training.progress import Journal, Listener
from tgonnx.training.recipe import Recipe, Run, Settings


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
        model = at_sizes_of(dataset, model)
    coupling = analyze(model, attention)
    if not coupling.units:
        why = coupling.pinned[0] if coupling.pinned else None
        reason = f": node {why.node} ({why.op_type}): {why.reason}" if why else ": it has no prunable weights"
        raise UnsupportedError(f"{model.source}: nothing can be pruned{reason}")
    wanted = wanted.as_share(coupling.cost_model)
    if bounds.round_to is None and not recipe.train_weights:
        bounds = replace(bounds, round_to=1)  # nothing afterwards makes up for what rounding took
    plan = Plan(model, coupling, wanted, reachable(coupling, wanted, bounds), bounds, whole=not unknown)
    prover = Prover(coupling, (), run.verify_seconds, run.unverified)
    if dataset is None or fitting is None:
        return without_data(plan, recipe, run, prover)
    settings = Settings(**(vars(recipe) | vars(run) | {"batch": batch_size(model, dataset, recipe.batch)}))
    if fitting.graph:
        try_graph(fitting, dataset, open_session(model.original), settings.batch)
    prover = replace(prover, feeds=data_feeds(dataset, model.original))
    journal = Journal(progress)
    who = identity(model.original, dataset, run.threads)
    who |= {"loss": fitting.graph.digest} if fitting.graph else {}
    keeper = open_keeper(
        run, str(model.source), who, _resolved(plan, replace(settings, loss=fitting.loss)), journal
    )
    result = with_data(plan, dataset, fitting, settings, prover, keeper)
    result = _completed(result, whole, unknown) if unknown else result
    keeper.finish(result.mask)
    return result


def _resolved(plan: Plan, settings: Settings) -> dict[str, Any]:
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
