"""What arrays are called: inputs, labels and targets, and their test parts. What nothing reads is refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from tgonnx.data.axes import dims_of
from tgonnx.data.samples import Kind, Taught
from tgonnx.errors import DataError
from tgonnx.graph.declared import model_inputs
from tgonnx.ops.aspects.row import FLOATS

TEST = "test_"
SCALE = "scale"
_ALIASES: Mapping[str, str] = {
    "labels": "label", "y": "label", "ys": "label", "class": "label", "classes": "label", "category": "label",
    "target_labels": "label", "targets": "target", "y_true": "label", "gt": "target", "mask": "label", "masks": "label",
}  # fmt: skip


def answered(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The output that `label` and `target` are for: the first of numbers that can be learned.

    Classifiers of classical machine learning put out the class that they chose before the scores.
    """
    outputs: list[onnx.ValueInfoProto] = list(model.graph.output)
    return next((value for value in outputs if value.type.tensor_type.elem_type in FLOATS), outputs[0])


def taught_by(values: Mapping[str, Any], model: onnx.ModelProto, name: str) -> tuple[Taught, ...]:
    """The arrays of labels and targets, those of the output that is `answered` first.

    `label` and `target` are that output's; `label_OUT`, `target_OUT` and OUT itself those of any. Raises
    `DataError` for two of the same output.
    """
    inputs = {value.name for value in model_inputs(model)}
    found: dict[str, Taught] = {}
    first = answered(model)
    for output in (first, *(each for each in model.graph.output if each.name != first.name)):
        for array, kind in _arrays_of(output, output is first, values):
            if array not in values or array in inputs or array in {each.array for each in found.values()}:
                continue
            if output.name in found:
                both = f"{found[output.name].array!r} and {array!r}"
                raise DataError(f"{name}: has both {both} for output {output.name!r}; one of them must go")
            found[output.name] = Taught(output.name, kind, array)
    return tuple(found.values())


def _arrays_of(
    output: onnx.ValueInfoProto, is_first: bool, values: Mapping[str, Any]
) -> list[tuple[str, Kind]]:
    plain: list[tuple[str, Kind]] = [("label", "label"), ("target", "target")] if is_first else []
    named: list[tuple[str, Kind]] = [
        (f"label_{output.name}", "label"),
        (f"target_{output.name}", "target"),
        (output.name, _kind(np.asarray(values.get(output.name, 0.0)), output)),
    ]
    seen = {array for array, _ in plain}
    return plain + [(array, kind) for array, kind in named if array not in seen]


def _kind(array: np.ndarray[Any, Any], output: onnx.ValueInfoProto) -> Kind:
    """Whole numbers that lack one of the output's axes are classes."""
    dims = dims_of(output)
    return "label" if array.dtype.kind in "iu" and dims is not None and array.ndim < len(dims) else "target"


def check_read(
    values: Iterable[str],
    model: onnx.ModelProto,
    taught: Iterable[Taught],
    name: str,
    also: Iterable[str] = (),
) -> None:
    """Raise `DataError` for the first array that nothing reads, with the name that was probably meant."""
    inputs = [value.name for value in model_inputs(model)]
    answers = [each.array for each in taught]
    read = {*inputs, *answers, *also}
    read |= {TEST + each for each in (*inputs, *answers)}
    unread = [array for array in values if array not in read]
    if not unread:
        return
    outputs = [value.name for value in model.graph.output]
    known = [
        "label",
        "target",
        *inputs,
        *outputs,
        *(f"{kind}_{o}" for kind in ("label", "target") for o in outputs),
    ]
    first = unread[0]
    raise DataError(
        f"{name}: array {first!r} is read by nothing; {_meant(first, known, set(values), inputs)}"
    )


def _meant(array: str, known: list[str], there: set[str], inputs: list[str]) -> str:
    prefix = TEST if array.startswith(TEST) else ""
    bare = array.removeprefix(TEST).lower()
    free = [each for each in known if prefix + each not in there]
    alias = _ALIASES.get(bare)
    close = [alias] if alias in free else difflib.get_close_matches(bare, free, 1)
    if close:
        without = (
            f" (the array {close[0]!r} of the training part is missing)"
            if prefix and close[0] not in there
            else ""
        )
        return f"did you mean {prefix + close[0]!r}?{without}"
    listed = ", ".join(map(repr, inputs))
    return f"leave it out; the model's inputs are {listed}, answers are called 'label' or 'target'"


def nearest_input(wanted: str, there: Iterable[str], answers: Iterable[str]) -> str:
    """Which array may have been meant for an input that has none: ` (rename 'img'?)`, or nothing."""
    free = [name for name in there if name not in answers and not name.startswith(TEST) and name != SCALE]
    close = difflib.get_close_matches(wanted, free, 1) or (free if len(free) == 1 else [])
    return f"; rename {close[0]!r} to {wanted!r}" if close else ""
