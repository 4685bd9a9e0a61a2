"""Watching passes: is each what it declares, and is the model still one afterwards, and the same where it must be?"""

from __future__ import annotations

import hashlib

import onnx

from tgonnx.errors import ModelError, UnsupportedError, VerificationError
from tgonnx.io.checker import describe, without_initializers
from tgonnx.passes import Pass, PassResult
from tgonnx.runtime.comparison import How
from tgonnx.runtime.equivalence import judged

OURS = "tgonnx."  # inputs of a training graph: labels, prices, schedules, of which random ones tell nothing


def watched(step: Pass, model: onnx.ModelProto) -> PassResult:
    """The result of `step`. Raises VerificationError that names it if something is wrong."""
    before = onnx.ModelProto()
    before.CopyFrom(model)
    result = step(model)
    if fault := _fault(step, before, model, result):
        raise VerificationError(f"pass {step.name} {fault}")
    return result


def _fault(step: Pass, before: onnx.ModelProto, given: onnx.ModelProto, result: PassResult) -> str:
    """What is wrong, as it follows the name of the pass; empty if nothing is."""
    old = fingerprint(before)
    if not step.in_place and fingerprint(given) != old:
        return "is declared functional, but changed its input"
    if result.changed != (fingerprint(result.model) != old):
        return f"says that it changed {'something' if result.changed else 'nothing'}, which is not so"
    complaint = _complaint(result.model)
    if complaint and not _complaint(before):
        return f"broke the model: onnx's checker says: {complaint}"
    if step.keeps_values and result.changed and (difference := _difference(before, result.model)):
        return f"broke the model: {difference}"
    return ""


def fingerprint(model: onnx.ModelProto) -> str:
    """A hash of all that is in a model, of any size."""
    found = hashlib.sha256(without_initializers(model).SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        found.update(tensor.SerializeToString(deterministic=True))
    return found.hexdigest()


def _complaint(model: onnx.ModelProto) -> str:
    """What onnx's checker has to say; empty for a model that is right, or too large for it."""
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        return ""
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # onnx raises several unrelated classes
        return describe(error)
    return ""


def _difference(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """How the two differ in what they compute; empty if they do not, or if nothing here can tell."""
    if any(value.name.startswith(OURS) for value in before.graph.input):
        return ""
    how = How(("the model before it", "the model behind it"), seconds=0.0)
    try:
        check = judged(before, after, how)
    except (ModelError, UnsupportedError):  # the model did not run before, either
        return ""
    return next(iter(check.reasons), "")
