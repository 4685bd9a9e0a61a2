"""The command that trains a model on and cuts nothing: tune."""

from __future__ import annotations

from typing import Annotated

from tgonnx.cli.announcing import Announcing
from tgonnx.cli.common import CUT, command, loaded
from tgonnx.cli.delivering import Places, deliver
from tgonnx.cli.fields import Only
from tgonnx.cli.options import Subject, TrainingData, TuningResults, inputs_of
from tgonnx.cli.recipe_file import RecipeFile
from tgonnx.cli.terminal import Terminal
from tgonnx.errors import UsageError
from tgonnx.options import specs
from tgonnx.training.recipe import OF_A_CHOICE, Recipe, Run

TUNED = Only(*(name for name in specs(Recipe) if name not in OF_A_CHOICE))


@command(CUT, "tgonnx tune model.pruned.onnx --data data.npz --epochs 5")
def tune(
    terminal: Terminal,
    *,
    subject: Annotated[Subject, Only("model", "shape")],
    data: TrainingData,
    results: Annotated[TuningResults, Only("out", "report_path", "no_run_dir", "overwrite")],
    recipe_file: RecipeFile = None,
    recipe: Annotated[Recipe, TUNED],
    run: Run,
) -> None:
    """Train a model on without cutting anything, verify, and write it; the best epoch wins."""
    from tgonnx.pipeline import tune as tune_model

    model, source = subject.model, data.source()
    if source is None:
        raise UsageError("tune learns from --data, which is not given")
    out = results.out or model.with_name(f"{model.stem}.tuned.onnx")
    places = Places(out, results.report_path, results.overwrite, inputs_of(model, data.data, run, recipe))
    places.check()
    original = loaded(subject)
    with terminal.progress("flops") as listener:
        announcing = Announcing(terminal, listener)
        result = tune_model(original, source, recipe=recipe, run=results.kept(run, data), progress=announcing)
    deliver(terminal, result, original, places, run.threads)
