"""Concrete shapes and small known values of a graph, one node after the other.

`Sweep` walks the nodes in order. Each output gets its concrete shape from the operator's own inference function
and, where every input is a known small tensor, its value. Weights are never read: only integers, booleans and
what is computed from them and from shapes is known. A size that depends on data (the boxes that are left, the places
that are not zero) is bound to a trial size, or to what the file states of it; `free` names such axes, since what was
assumed of them must not be stored. Branches are walked in a sweep of their own; loops are left to the standard's
inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from tgonnx.analysis.one_node import Refused, Typed, evaluated, inferred, schema_of
from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Emitter
from tgonnx.graph.expand import has_definition, write_out
from tgonnx.graph.proto import attribute_of, captured_names, constant_tensor
from tgonnx.ops.aspects.row import Row, Types, static_shape
from tgonnx.ops.aspects.tables import definition, sizes
from tgonnx.ops.aspects.traits import traits_of

Shape = tuple[int, ...]
Hint = tuple[int | None, ...]

DEFINED_IN = 20  # the opset that definitions of operators without a schema are written in
MAX_KNOWN = 1 << 20  # elements of the largest value that is kept
MAX_FLOAT_LEAF = 16  # a float initializer up to this size may be a scale or a bound; larger ones are weights
EXACT_TYPES = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8)


@dataclass
class Sweep:
    """Shapes (name -> sizes), element types and known values of the values seen so far."""

    opsets: Mapping[str, int]
    ir_version: int
    shapes: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    hints: dict[str, tuple[int, Hint]] = field(default_factory=dict)  # what the file states
    free: dict[str, frozenset[int]] = field(default_factory=dict)  # axes whose size was assumed, not inferred
    assumed: int | None = (
        None  # the size of axes that depend on data; None leaves their values without a shape
    )
    problems: dict[str, str] = field(
        default_factory=dict
    )  # first output of a node -> why its shapes are unknown

    def declare(self, name: str, elem_type: int, shape: Shape) -> None:
        """Set a graph input or initializer."""
        self.types[name] = elem_type
        self.shapes[name] = shape

    def declare_initializer(self, tensor: TensorProto) -> None:
        """Set an initializer; its value is read only if it is small and no weight."""
        shape = tuple(tensor.dims)
        self.declare(tensor.name, tensor.data_type, shape)
        limit = MAX_KNOWN if tensor.data_type in EXACT_TYPES else MAX_FLOAT_LEAF if len(shape) < 2 else 0
        if math.prod(shape) <= limit and tensor.data_type != TensorProto.STRING:
            self.known[tensor.name] = numpy_helper.to_array(tensor)

    def visit(self, node: onnx.NodeProto) -> None:
        """Infer the outputs of one node; what cannot be inferred stays unknown and is noted."""
        constant = constant_tensor(node) if node.op_type == "Constant" else None
        if constant is not None:
            self.declare_initializer(constant)
            return
        outputs = self._evaluate(node) if self._foldable(node) else None
        if outputs is not None:
            self.problems.pop(node.output[0], None)  # of inference
            for name, value in zip(node.output, outputs, strict=False):
                if name:
                    self.declare(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                    if value.size <= MAX_KNOWN:
                        self.known[name] = value
            return
        found = self._control_flow(node) if _graphs(node) else self._infer(node)
        if any(name and not _has_sizes(found.get(name)) for name in node.output):
            for name, proto in self._define(node).items():
                inferred = found.get(name)
                if inferred is not None and inferred.tensor_type.elem_type:
                    proto.tensor_type.elem_type = inferred.tensor_type.elem_type
                found[name] = proto
        for name in filter(None, node.output):
            self._settle(name, found.get(name))
        if missing := [name for name in node.output if name and name not in self.shapes]:
            self.problems.setdefault(node.output[0], f"the shape of {missing[0]!r} is unknown")
        elif why := self._impossible(node):
            self.problems.setdefault(node.output[0], why)

    def _impossible(self, node: onnx.NodeProto) -> str:
        """What the standard's inference lets pass, though no run does or none would show anything at these sizes."""
        given = [self.shapes[name] for name in node.input if name in self.shapes]
        made = self.shapes.get(node.output[0])
        if made is None or any(name in self.free for name in (*node.input, *node.output)):
            return ""
        if min(made, default=1) < 0:
            return f"it would be of {made}"
        if given and traits_of(node).rearranges and math.prod(given[0]) != math.prod(made):
            return f"{given[0]} does not fill {made}"
        if not math.prod(made) and all(math.prod(shape) for shape in given):
            return "it is empty"
        return ""

    def _settle(self, name: str, proto: onnx.TypeProto | None) -> None:
        """Set an output to what was inferred; what is missing is what the file states, or else a trial size."""
        kind, hint = self.hints.get(name, (TensorProto.UNDEFINED, None))
        sizes: Hint | None = None
        if proto is not None and proto.HasField("tensor_type"):
            kind = proto.tensor_type.elem_type or kind
            sizes = _sizes(proto.tensor_type)
        elif proto is not None and proto.WhichOneof("value"):
            return
        if kind:
            self.types[name] = kind
        if sizes is None:
            sizes, assumed = hint, range(len(hint or ()))
        else:
            assumed = [axis for axis, size in enumerate(sizes) if size is None]  # type: ignore[assignment]
            if hint is not None and len(hint) == len(sizes):
                sizes = tuple(b if a is None else a for a, b in zip(sizes, hint, strict=True))
        if sizes is None or not kind or (self.assumed is None and None in sizes):
            return
        self.shapes[name] = tuple(self.assumed or 0 if size is None else size for size in sizes)
        if assumed:
            self.free[name] = frozenset(assumed)

    def _foldable(self, node: onnx.NodeProto) -> bool:
        if node.domain not in ("", "ai.onnx") or any(a.HasField("g") for a in node.attribute):
            return False
        are = traits_of(node)
        if are.reads_sizes:
            return node.input[0] in self.shapes
        if are.random or (are.quantizes and are.weights):  # the evaluator rounds such products in its own way
            return False
        if not node.input or any(name and name not in self.known for name in node.input):
            return False
        return self._is_small(node)

    def _is_small(self, node: onnx.NodeProto) -> bool:
        """Whether the outputs of a node of known inputs can be computed in little memory."""
        found = [_static_shape(proto.tensor_type) for proto in self._infer(node).values()]
        if any(shape is not None and math.prod(shape) > MAX_KNOWN for shape in found):
            return False
        grows = None in found or len(found) < len(node.output)  # as far as inference can tell
        if grows and traits_of(node).grows:
            return False
        return not grows or math.prod(self.known[name].size or 1 for name in node.input if name) <= MAX_KNOWN

    def _evaluate(self, node: onnx.NodeProto) -> list[np.ndarray] | None:
        reads = traits_of(node).reads_sizes
        if reads == "axes":
            start, end = attribute_of(node, "start", 0), attribute_of(node, "end")
            return [np.array(self.shapes[node.input[0]][start:end], np.int64)]
        if reads == "elements":
            return [np.array(np.prod(self.shapes[node.input[0]], dtype=np.int64), np.int64)]
        return self.compute(node, {name: self.known[name] for name in node.input if name})

    def compute(self, node: onnx.NodeProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
        """The outputs of one node for these inputs; None if it cannot be evaluated."""
        return evaluated(node, feeds, self.opsets.get("", 1), self.ir_version)

    def _define(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """The outputs by what a definition says: the standard's, or ours for operators that have no schema."""
        schema = self._schema(node)
        if any(name and not (name in self.shapes and name in self.types) for name in node.input):
            return {}
        try:
            if schema is None or sizes.get(node.op_type, node.domain) is not None:
                inside, names = self._ours(node)
            elif has_definition(schema) and not traits_of(node).defined_by_loop:
                inside, names = self._standard(node), list(node.output)
            else:
                return {}
        except (UnsupportedError, RuntimeError, ValueError, InferenceError, ValidationError) as error:
            self.problems[node.output[0]] = str(error).strip().splitlines()[0]
            return {}
        found = {
            name: helper.make_tensor_type_proto(inside.types[inner], inside.shapes[inner])
            for name, inner in zip(node.output, names, strict=False)
            if name and inner in inside.shapes
        }
        if found:
            self.problems.pop(node.output[0], None)
        return found

    def _ours(self, node: onnx.NodeProto) -> tuple[Sweep, list[str]]:
        """A sweep through our definition of an operator, and what its outputs are called there."""
        inside = Sweep({"": DEFINED_IN}, self.ir_version)
        define, measure = definition.get(node.op_type, node.domain), sizes.get(node.op_type, node.domain)
        emitter = Emitter(f"{node.output[0]}/")
        row = Row(node, emitter, Types(self.types, self.shapes, self.known), [], [], "be given a shape")
        if measure is not None:
            for name, shape in zip(node.output, measure(row), strict=False):
                if (known := static_shape(shape)) is not None:
                    inside.declare(name, self.types[node.input[0]], known)
            return inside, list(node.output)
        if define is None:
            return inside, []
        outputs = define(row, self.opsets.get("", 1)) or []
        for name in filter(None, node.input):
            if name in self.shapes:
                inside.declare(name, self.types[name], self.shapes[name])
        for inner in emitter.nodes:
            inside.visit(inner)
        return inside, ["" if value is None else value.name for value in outputs]

    def _standard(self, node: onnx.NodeProto) -> Sweep:
        """A sweep through the standard's definition of an operator."""
        inputs = {n: (self.types[n], self.shapes[n]) for n in node.input if n in self.shapes}
        declared = [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        stored = [numpy_helper.from_array(self.known[n], n) for n in inputs if n in self.known]
        graph = helper.make_graph([node], "one", declared, outputs, stored)
        imports = [helper.make_opsetid("", self.opsets.get("", 1))]
        model = helper.make_model(graph, opset_imports=imports, ir_version=self.ir_version)
        written = write_out(model, lambda op_type: True)
        return sweep(written, inputs)

    def _schema(self, node: onnx.NodeProto) -> onnx.defs.OpSchema | None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        return schema_of(node.op_type, domain, self.opsets.get(domain))

    def _infer(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        names = [name for name in node.input if name and name in self.types]
        data = {
            name: self.known[name] for name in names if name in self.known and self.known[name].size <= 4096
        }
        return self.infer(node, {name: (self.types[name], self.shapes.get(name)) for name in names}, data)

    def infer(
        self, node: onnx.NodeProto, types: Mapping[str, Typed], data: Mapping[str, np.ndarray]
    ) -> dict[str, onnx.TypeProto]:
        """The types of one node's outputs by the standard's inference, its inputs being of `types`.

        What it refuses is noted in `problems`, and nothing is known.
        """
        schema = self._schema(node)
        problem = ""
        if schema is None:
            problem = f"operator {node.domain or 'ai.onnx'}::{node.op_type} is not known"
        elif len(types) < len({name for name in node.input if name}):
            problem = "the type of an input is unknown"
        else:
            try:
                return inferred(node, schema, types, data, self.opsets, self.ir_version)
            except Refused as error:
                problem = str(error)
        self.problems[node.output[0]] = problem
        return {}

    # --- control flow ---------------------------------------------------------------------------------

    def _control_flow(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        if node.op_type == "If":
            return self._branches(node)
        return self._loop(node)

    def _branches(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """What the branch gives that is taken under this binding, or what both branches agree on."""
        taken = self.known.get(node.input[0])
        names = ["then_branch", "else_branch"]
        if taken is not None and taken.size == 1:
            names = [names[0] if taken.item() else names[1]]
        found = [self._branch(attribute_of(node, name)) for name in names]
        return {
            name: _common([branch[i] for branch in found])
            for i, name in enumerate(node.output)
            if name and all(i < len(branch) for branch in found)
        }

    def _branch(self, graph: onnx.GraphProto) -> list[onnx.TypeProto]:
        """The types of a branch's outputs, by a sweep that sees the values around it."""
        inside = Sweep(self.opsets, self.ir_version, assumed=self.assumed)
        inside.shapes, inside.types, inside.known = dict(self.shapes), dict(self.types), dict(self.known)
        inside.hints = {
            v.name: hint for v in (*graph.value_info, *graph.output) if (hint := _hint(v)) is not None
        }
        for tensor in graph.initializer:
            inside.declare_initializer(tensor)
        visit_all(inside, graph.node)
        return [inside.type_of(value.name) for value in graph.output]

    def type_of(self, name: str) -> onnx.TypeProto:
        """The type of a value; sizes that were assumed are left out."""
        proto = onnx.TypeProto()
        if name in self.types:
            proto.tensor_type.elem_type = self.types[name]
        if name in self.shapes:
            free = self.free.get(name, frozenset())
            sizes = [None if axis in free else size for axis, size in enumerate(self.shapes[name])]
            proto = helper.make_tensor_type_proto(self.types[name], sizes)
        return proto

    def _loop(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """A Loop, a Scan: inferred as a model of this one node, which reads what is around it as inputs."""
        captured = captured_names(helper.make_graph([node], "", [], []))
        around = [name for name in {*node.input, *captured} if name in self.types]
        graph = helper.make_graph(
            [node],
            "one",
            [onnx.ValueInfoProto(name=name, type=self.type_of(name)) for name in around],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
            [numpy_helper.from_array(self.known[n], n) for n in around if n in self.known],
        )
        imports = [helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=self.ir_version)
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except (InferenceError, RuntimeError, ValueError) as error:
            self.problems[node.output[0]] = str(error).strip().splitlines()[0]
            return {}
        return {value.name: value.type for value in inferred.graph.output}


def sweep(
    proto: onnx.ModelProto,
    inputs: Mapping[str, tuple[int, Shape]],
    hints: Mapping[str, tuple[int, Hint]] | None = None,
    assumed: int | None = None,
) -> Sweep:
    """Shapes and known values of a whole model, its graph inputs being bound to `inputs`."""
    state = empty_sweep(proto)
    state.hints, state.assumed = dict(hints or {}), assumed
    for tensor in proto.graph.initializer:
        state.declare_initializer(tensor)
    for name, (elem_type, shape) in inputs.items():
        state.declare(name, elem_type, shape)
    visit_all(state, proto.graph.node)
    return state


def empty_sweep(proto: onnx.ModelProto) -> Sweep:
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    return Sweep(opsets, proto.ir_version)


def visit_all(state: Sweep, nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        state.visit(node)


def _has_sizes(proto: onnx.TypeProto | None) -> bool:
    return proto is not None and _static_shape(proto.tensor_type) is not None


def _static_shape(tensor_type: onnx.TypeProto.Tensor) -> Shape | None:
    sizes = _sizes(tensor_type)
    return None if sizes is None or None in sizes else sizes  # type: ignore[return-value]


def _sizes(tensor_type: onnx.TypeProto.Tensor) -> Hint | None:
    """The sizes of a type, None for those that it leaves open; None if it states no shape."""
    if not tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor_type.shape.dim)


def _hint(value: onnx.ValueInfoProto) -> tuple[int, Hint] | None:
    sizes = _sizes(value.type.tensor_type) if value.type.HasField("tensor_type") else None
    return None if sizes is None else (value.type.tensor_type.elem_type, sizes)


def _graphs(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") for attribute in node.attribute)


def _common(types: list[onnx.TypeProto]) -> onnx.TypeProto:
    """What types of one value have in common: sizes that differ are left open, and so is a rank that differs."""
    first, *others = types
    result = onnx.TypeProto()
    result.CopyFrom(first)
    for other in others:
        sizes, more = _sizes(result.tensor_type), _sizes(other.tensor_type)
        if sizes is None or more is None or len(sizes) != len(more):
            result.tensor_type.ClearField("shape")
            continue
        for dim, a, b in zip(result.tensor_type.shape.dim, sizes, more, strict=True):
            if a != b:
                dim.Clear()
    return result
