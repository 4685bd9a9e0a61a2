"""A model in normal form, with the concrete shapes that analysis reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tgonnx import loading
from tgonnx.passes import Pipeline
from tgonnx.passes.fold_shapes import FoldShapes
from tgonnx.passes.normalize import (
    ConstantsToInitializers,
    InlineFunctions,
    ResolveInitializerAliases,
    UnshareConstants,
    captured_names,
)
from tgonnx.shapes import Shape, Sweep, sweep

Source = str | os.PathLike[str] | bytes | onnx.ModelProto

BATCH, OTHER_BATCH = 2, 3
IMAGE_SIDES = (64, 224, 32, 128, 256, 16, 512, 8)
LENGTHS = (8, 16, 64, 128, 4)


class Node:
    """One node of a model, its attributes decoded and its position known."""

    def __init__(self, proto: onnx.NodeProto, index: int) -> None:
        self.proto = proto
        self.index = index
        self.op_type: str = proto.op_type
        self.domain: str = "" if proto.domain == "ai.onnx" else proto.domain
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return {
            a.name: helper.get_attribute_value(a)
            for a in self.proto.attribute
            if a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        }

    @property
    def label(self) -> str:
        """The node's name, or what stands in for it."""
        return self.proto.name or f"{self.op_type}_{self.index}"

    @cached_property
    def captures(self) -> set[str]:
        """Values of the outer graph that the node's subgraphs may read."""
        return captured_names(helper.make_graph([self.proto], "", [], [])) - {""}


@dataclass(frozen=True)
class Model:
    """What `load` returns.

    `original` is the model as it was read; `proto` is its normal form, which surgery cuts. `first` and `second` hold
    the shapes under two bindings of the dynamic axes; `first` is the one that analysis counts with.
    """

    original: onnx.ModelProto
    proto: onnx.ModelProto
    first: Sweep
    second: Sweep
    source: str

    @cached_property
    def nodes(self) -> list[Node]:
        return [Node(proto, i) for i, proto in enumerate(self.proto.graph.node)]

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    @cached_property
    def inputs(self) -> dict[str, onnx.ValueInfoProto]:
        """The graph inputs a user must feed."""
        return {v.name: v for v in self.proto.graph.input if v.name not in self.initializers}

    @cached_property
    def outputs(self) -> list[str]:
        return [value.name for value in self.proto.graph.output]

    @property
    def shapes(self) -> dict[str, Shape]:
        return self.first.shapes

    @property
    def opset(self) -> int:
        return self.first.opsets.get("", 1)

    @property
    def batch(self) -> int:
        """Samples in the binding that is counted with: 1 if the first axis of the first input is fixed at 1."""
        for name, value in self.inputs.items():
            dims = value.type.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                return self.shapes[name][0]
        return 1

    @cached_property
    def static(self) -> set[str]:
        """Values computed from initializers alone."""
        static = set(self.initializers)
        for node in self.nodes:
            if all(name in static or not name for name in node.inputs) and node.inputs and not node.captures:
                static.update(node.outputs)
        return static


def load(source: Source, sizes: Mapping[str, Shape] | None = None) -> Model:
    """Read, check and normalise a model.

    `sizes` fixes the concrete shape of named inputs for analysis; dynamic axes of other inputs get sizes that fit.
    Raises ModelError naming the file and the reason, UsageError for a path that does not exist.
    """
    original = loading.read(source)
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "model"
    proto = onnx.ModelProto()
    proto.CopyFrom(original)
    steps = (InlineFunctions(), ConstantsToInitializers(), ResolveInitializerAliases())
    proto = Pipeline(steps)(proto).model
    proto, first, second = fold(proto, sizes or {})
    proto = UnshareConstants()(proto).model
    for state in (first, second):
        for tensor in proto.graph.initializer:
            if tensor.name not in state.shapes:
                state.declare_initializer(tensor)
    return Model(original, proto, first, second, name)


def fold(proto: onnx.ModelProto, sizes: Mapping[str, Shape]) -> tuple[onnx.ModelProto, Sweep, Sweep]:
    """Store what depends on no dynamic axis; `proto` is changed. Its shapes under two bindings come with it."""
    first, second = _sweeps(proto, sizes)
    for _ in range(3):  # a branch that was inlined may bring more to fold
        nodes = len(proto.graph.node)
        proto = FoldShapes(first, second)(proto).model
        has_branches = any(node.op_type == "If" for node in proto.graph.node)
        first, second = _sweeps(proto, sizes)
        if len(proto.graph.node) == nodes and not has_branches:
            break
    return proto, first, second


def _sweeps(proto: onnx.ModelProto, sizes: Mapping[str, Shape]) -> tuple[Sweep, Sweep]:
    """Two sweeps under different bindings of the dynamic axes, with the sizes that give the fewest problems."""
    best: tuple[int, Sweep, Sweep] | None = None
    for side, length in _candidates(proto):
        first = _swept(proto, sizes, BATCH, side, length)
        second = _swept(proto, sizes, OTHER_BATCH, 2 * side, 2 * length)
        problems = len(first.problems) + len(second.problems)
        if best is None or problems < best[0]:
            best = (problems, first, second)
        if not problems:
            break
    assert best is not None
    return best[1], best[2]


def _candidates(proto: onnx.ModelProto) -> list[tuple[int, int]]:
    dims = [d for v in proto.graph.input for d in v.type.tensor_type.shape.dim[1:]]
    if all(d.HasField("dim_value") for d in dims):
        return [(IMAGE_SIDES[0], LENGTHS[0])]
    return [(side, length) for length in LENGTHS[:2] for side in IMAGE_SIDES] + [(64, n) for n in LENGTHS[2:]]


def _swept(proto: onnx.ModelProto, sizes: Mapping[str, Shape], batch: int, side: int, length: int) -> Sweep:
    initializers = {tensor.name for tensor in proto.graph.initializer}
    bound: dict[str, int] = {}
    inputs: dict[str, tuple[int, Shape]] = {}
    for value in proto.graph.input:
        tensor = value.type.tensor_type
        if value.name in initializers or not tensor.HasField("shape"):
            continue
        shape = tuple(
            d.dim_value
            if d.HasField("dim_value")
            else bound.setdefault(
                d.dim_param or f"{value.name}.{axis}",
                batch if axis == 0 else side if len(tensor.shape.dim) > 3 else length,
            )
            for axis, d in enumerate(tensor.shape.dim)
        )
        if value.name in sizes:
            shape = tuple(int(n) for n in sizes[value.name])
        inputs[value.name] = (tensor.elem_type, shape)
    hints = {}
    for value in proto.graph.value_info:
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and all(d.HasField("dim_value") or d.dim_param in bound for d in dims):
            shape = tuple(d.dim_value if d.HasField("dim_value") else bound[d.dim_param] for d in dims)
            hints[value.name] = (tensor.elem_type, shape)
    return sweep(proto, inputs, hints)


def known_value(model: Model, name: str) -> np.ndarray | None:
    """The value of a small tensor if it is the same under both bindings."""
    value = model.first.known.get(name)
    other = model.second.known.get(name)
    same = value is not None and other is not None and np.array_equal(value, other)
    return value if same else None


def known_elements(model: Model, name: str) -> list[int | float | None] | None:
    """The elements of a small vector, None for one that depends on a dynamic axis; None if nothing is known."""
    value, other = model.first.known.get(name), model.second.known.get(name)
    if value is None or other is None or value.shape != other.shape or value.ndim > 1:
        return None
    pairs = zip(np.atleast_1d(value).tolist(), np.atleast_1d(other).tolist(), strict=True)
    return [a if a == b else None for a, b in pairs]
