"""A loss given as an ONNX graph: its inputs are outputs of the model, answers and what the original says, its output a
number.

An input is called like what it is given: OUT (an output of the model, which learns), IN (what the model is given),
`label`, `target`, `label_OUT` or `target_OUT` (of the data), `original_OUT` (what the original says of OUT). All else
in the graph stays as it is, with the networks in it: what a perceptual loss sees with.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx

from tgonnx.data.samples import Kind, Taught
from tgonnx.errors import DataError, ModelError, UnsupportedError, UsageError
from tgonnx.graph.declared import model_inputs
from tgonnx.graph.types import Array
from tgonnx.io.read import read
from tgonnx.losses.figures import MetricKind, Seen, mean_of
from tgonnx.ops.aspects.row import FLOATS
from tgonnx.options import nearest
from tgonnx.runtime.sessions import Session, open_session, runtime_accepts

ENDING, ORIGINAL = ".onnx", "original_"


@dataclass(frozen=True)
class Given:
    """What an input of the graph is given: of an output what the model says, the answer, or what the original says.

    Or what an input of the model is given: then `output` is the name of that.
    """

    what: Literal["output", "label", "target", "original", "input"]
    output: str


@dataclass(frozen=True)
class LossGraph:
    """The graph, and what each of its inputs is given."""

    path: str
    model: onnx.ModelProto
    given: Mapping[str, Given]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that learn from it."""
        return tuple(dict.fromkeys(each.output for each in self.given.values() if each.what == "output"))

    @property
    def answers(self) -> dict[str, Kind]:
        """The answers that it needs by output."""
        return {each.output: each.what for each in self.given.values() if each.what in ("label", "target")}

    @property
    def originals(self) -> set[str]:
        """The outputs of which it needs what the original says."""
        return {each.output for each in self.given.values() if each.what == "original"}

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.model.SerializeToString(deterministic=True)).hexdigest()

    @cached_property
    def session(self) -> Session:
        return open_session(self.model)

    @property
    def figure(self) -> MetricKind:
        """The loss itself, a mean over samples."""
        return mean_of(f"{os.path.basename(self.path)} loss", self.measured, False)

    def measured(self, seen: Seen) -> float:
        """The loss of a batch. Raises UnsupportedError where the graph does not run, or says no number."""
        feeds = {}
        for value in model_inputs(self.model):
            each = self.given[value.name]
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feeds[value.name] = np.ascontiguousarray(_of(seen, each)).astype(kind)
        try:
            (found,) = self.session.run(feeds).values()
        except ModelError as error:
            raise UnsupportedError(f"loss {self.path}: {error}") from None
        if found.size != 1 or not np.isfinite(found).all():
            what = f"of shape {found.shape}" if found.size != 1 else f"{found.reshape(())}"
            raise UnsupportedError(f"loss {self.path}: its output is {what}, not a finite number")
        return float(found.reshape(()))


def _of(seen: Seen, each: Given) -> Array:
    if each.what == "output":
        return seen.outputs[each.output]
    if each.what == "input":
        return seen.inputs[each.output]
    return seen.taught[each.output] if each.what == "original" else seen.answers[each.output]


def is_graph(loss: Any) -> bool:
    """Whether a loss is asked for by the path of a graph."""
    return isinstance(loss, str | os.PathLike) and os.fspath(loss).endswith(ENDING)


def read_loss(path: str, model: onnx.ModelProto, taught: Sequence[Taught], data: str) -> LossGraph:
    """The graph of a file for a model, with the answers that `data` has.

    Raises UsageError, ModelError, and DataError for an input that nothing is given for.
    """
    graph = read(path, runtime_accepts)
    outputs = [value.name for value in model.graph.output]
    known = {value.name: Given("input", value.name) for value in model_inputs(model)}
    known |= {ORIGINAL + name: Given("original", name) for name in outputs}
    for each in taught:
        names = (
            each.array,
            f"{each.kind}_{each.output}",
            *([each.kind] if each.output == outputs[0] else []),
        )
        known |= {name: Given(each.kind, each.output) for name in names}
    known |= {name: Given("output", name) for name in outputs}
    given = {}
    for value in model_inputs(graph):
        if value.name not in known:
            raise DataError(
                f"loss {path}: input {value.name!r} is neither an output nor an input of the model, nor an array of "
                f"answers of {data}; there are {', '.join(known)}{nearest(value.name, known)}"
            )
        given[value.name] = known[value.name]
    if not any(each.what == "output" for each in given.values()):
        raise UsageError(f"loss {path}: no input is called like an output of the model: {', '.join(outputs)}")
    kinds = [value.type.tensor_type.elem_type for value in graph.graph.output]
    if len(kinds) != 1 or kinds[0] not in FLOATS:
        raise UsageError(
            f"loss {path}: has {len(kinds)} outputs; a loss has one, a number of a floating-point type"
        )
    return LossGraph(path, graph, given)
