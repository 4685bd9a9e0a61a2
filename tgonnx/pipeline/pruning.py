"""The whole pipeline: analyse, learn or choose, cut, train on, verify."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.target import Given
from tgonnx.data.sources import Data
from tgonnx.errors import OptionError
from tgonnx.graph.structure import structure_hash
from tgonnx.options import ATTENTIONS, Attention
from tgonnx.pipeline.learning import with_data
from tgonnx.pipeline.lossless import without_loss
from tgonnx.pipeline.no_data import without_data
from tgonnx.pipeline.preparing import Choose, Options, prepared
from tgonnx.pipeline.result import PruneResult
from tgonnx.pipeline.sweeping import smallest_within
from tgonnx.pipeline.telling import told
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.mask import Mask
from tgonnx.training.progress import Listener
from tgonnx.training.recipe import Recipe, Run


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
    determines a run. With a `mask`, or the path of one, nothing is chosen: what it keeps is cut out and trained on.
    The result is verified at many sizes (`tgonnx.proof`). `progress` is called with each `Progress`;
    before that its method `begins`, if it has one, with what will happen, as pairs of texts.

    Raises UnsupportedError if nothing can be pruned, DataError (the original is no better than a constant answer, too),
    UsageError, ModelError, DivergedError, and VerificationError if the normal form does not compute what the original
    does, or the pruned model not what the gated one does.
    """
    options = Options.of("prune", (recipe, bounds, run), fields, attention, progress)
    if (mask := options.recipe.mask) is not None:
        if target is not None:
            raise OptionError("mask", "says what stays: a target does not go with it")
        given = mask if isinstance(mask, Mask) else Mask.load(mask)
        options = replace(options, attention=given.attention, mask=given_mask(given))
    job = prepared(model, data, () if mask is not None else (target,), options)
    if options.recipe.lossless:
        return job.completed(without_loss(job.plan, job.prover))
    if options.recipe.max_drop is not None:
        result = smallest_within(job, options, options.recipe.max_drop)
    elif job.lesson is None:
        return job.completed(without_data(job.plan, options.recipe, options.run, job.prover))
    else:
        result = job.completed(with_data(job.lesson, job.prover, job.keeper))
    result = told(result, job.keeper)
    job.keeper.finish(result.mask)
    return result


def tune(
    model: Model | Source,
    data: Data,
    *,
    recipe: Recipe | None = None,
    run: Run | None = None,
    progress: Listener | None = None,
    **fields: Any,
) -> PruneResult:
    """Train a model on, and cut nothing: the weights of the best epoch, or those that it had if none is better.

    Takes what `prune` does, but for what is about choosing. Raises as that does.
    """
    options = Options.of("tune", (recipe, None, run), fields, ATTENTIONS[0], progress)
    plain = replace(options.recipe, compensate=False)  # there is nothing to make up for
    options = replace(options, recipe=plain, mask=lambda coupling, whole: Mask.all_open(coupling))
    job = prepared(model, data, (), options)
    assert job.lesson is not None  # as there are data
    result = told(job.completed(with_data(job.lesson, job.prover, job.keeper)), job.keeper)
    job.keeper.finish(result.mask)
    return result


def given_mask(mask: Mask) -> Choose:
    """A choice that is made: the mask, which must be of the model. It raises UsageError."""

    def choose(coupling: Coupling, whole: onnx.ModelProto) -> Mask:
        of_whole = mask.structure == structure_hash(whole)
        fitting = replace(mask, structure=coupling.model.structure) if of_whole else mask
        fitting.check(coupling)
        return fitting

    return choose
