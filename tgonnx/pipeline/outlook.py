"""What will happen, before it does: one line for each thing that a user may have meant otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from tgonnx.analysis.input_shapes import shapes_text
from tgonnx.data.axes import dims_of
from tgonnx.data.samples import Dataset
from tgonnx.engines.table import candidates
from tgonnx.graph.declared import describe_type, model_inputs
from tgonnx.losses.fit import Fit
from tgonnx.pipeline.learning import Lesson
from tgonnx.pipeline.measuring import Yardstick, told
from tgonnx.pipeline.plan import Plan
from tgonnx.training.progress import Outlook
from tgonnx.training.task import Task

NAMED = 6  # classes whose names are listed


def outlook(lesson: Lesson, dataset: Dataset) -> Outlook:
    """What will happen, as a name and a text for each line."""
    plan, measure, recipe = lesson.plan, lesson.measure, lesson.recipe
    model, parts = plan.model.original, measure.parts
    counts = [f"{len(parts.train):,} to learn from"]
    counts += [f"{len(parts.validation):,} for validation"] if parts.validation is not None else []
    counts += [f"{len(parts.test):,} for the test"] if parts.test is not None else ["none held out"]
    rows = [("samples", ", ".join(counts))]
    rows += [("classes", text) for text in _classes(plan, dataset, measure)]
    rows += [(f"input {value.name}", describe_type(value)) for value in model_inputs(model)]
    rows += [("data", note) for note in dataset.notes]
    rows += _outputs(plan, lesson.task)
    rows.append(("recipe", lesson.way.name))
    rows.append(("training", _training(lesson)))
    names = [engine.name for engine in candidates(recipe.engine, recipe.device)]
    rows.append(("engine", f"{' or '.join(names)} on {recipe.device}"))
    where = f", counted at {shapes_text(plan.model.counted_at)}" if plan.model.counted_at else ""
    rows.append(("target", f"{plan.target}{where}"))
    rows += [("original", text) for text in [told(measure)] if text]
    return tuple(rows)


def _classes(plan: Plan, dataset: Dataset, measure: Yardstick) -> Iterator[str]:
    """How many classes there are, and what they are called."""
    if measure.fit.class_axis is None:
        return
    dims = dims_of(plan.model.original.graph.output[0]) or []
    axis = measure.fit.class_axis
    size = dims[axis] if axis < len(dims) else None
    count = size if isinstance(size, int) else len(dataset.classes)
    names = ", ".join(dataset.classes[:NAMED]) + (", ..." if len(dataset.classes) > NAMED else "")
    if count:
        yield f"{count}{f': {names}' if names else ''}"


def _outputs(plan: Plan, task: Task) -> Iterator[tuple[str, str]]:
    """What each output learns."""
    parts = {part.output: part for part in task.fit.parts}
    for value in plan.model.original.graph.output:
        part = parts.get(value.name)
        yield f"output {value.name}", "free" if part is None else _learned(part, task.teacher.imitation)


def _learned(part: Fit, imitation: float) -> str:
    """What an output learns, and how that is measured."""
    if part.graph is not None:
        text = f"loss {part.loss}"
    elif part.definition.answers is None:
        text = f"what the original says (loss {part.loss})"
    else:
        also = f", {imitation:.0%} of it what the original says" if part.may_follow and imitation else ""
        text = f"{part.definition.answers}s (loss {part.loss}{also})"
    weight = f", weight {part.weight:g}" if part.weight != 1 else ""
    return f"{text}{weight}, measured by {part.figure.title}"


def _training(lesson: Lesson) -> str:
    recipe, steps = lesson.recipe, lesson.steps
    phases = [f"{steps[0]:,} steps of search"] if recipe.by_gates else [f"criterion {recipe.criterion_used}"]
    if (given := lesson.plan.given) is not None:
        phases = [f"{int(given.open.sum()):,} of {len(given.open):,} units stay, as is given"]
    phases.append(f"{steps[1]:,} of fine-tuning" if steps[1] else "no fine-tuning")
    batches = f"batches of {recipe.batch}" + (f" x {recipe.accumulate}" if recipe.accumulate > 1 else "")
    changed = f" of images changed by {' and '.join(recipe.augment)}" if recipe.augment else ""
    return f"{', '.join(phases)}; {batches}{changed}, lr {recipe.lr:g}, {recipe.optimizer}"
