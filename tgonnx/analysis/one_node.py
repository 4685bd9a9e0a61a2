"""What the standard says of one node: its outputs' types, and their values.

Networks repeat themselves, and every model is swept several times: nodes of the same operator and attributes, on inputs
of the same types and small values, are asked once. What is remembered knows no names, so that it serves other models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError, infer_node_outputs

from tgonnx.graph.expand import fill_defaults, has_definition

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator

Dims = Sequence[int | str | None] | None
Typed = tuple[int, Dims]  # element type, and sizes or their names; None: no rank is known

MOST = 1 << 13  # answers that are remembered; then all are forgotten
MAX_BYTES = 1 << 12  # of values and attributes that are compared and remembered

_Answer = TypeVar("_Answer")


class Refused(Exception):
    """The standard's inference refuses the node; the message is one line."""


class _Memory(dict[Hashable, Any]):
    def ask(
        self, key: Hashable, make: Callable[[], _Answer], worth: Callable[[_Answer], bool] = bool
    ) -> _Answer:
        """What is remembered, or else what `make` says; that is remembered if it is `worth` it."""
        found: _Answer | None = self.get(key)
        if found is None:
            found = make()
            if len(self) >= MOST:
                self.clear()
            if worth(found):
                self[key] = found
        return found


_types, _values, _evaluators = _Memory(), _Memory(), _Memory()


@functools.cache
def schema_of(op_type: str, domain: str, version: int | None) -> defs.OpSchema | None:
    """The operator's schema; None if it has none, or a deprecated one, which inference refuses."""
    if version is None or not defs.has(op_type, max_inclusive_version=version, domain=domain):
        return None
    schema = defs.get_schema(op_type, version, domain)
    return None if schema.deprecated else schema


def inferred(
    node: onnx.NodeProto,
    schema: defs.OpSchema,
    inputs: Mapping[str, Typed],
    known: Mapping[str, np.ndarray],
    opsets: Mapping[str, int],
    ir_version: int,
) -> dict[str, onnx.TypeProto]:
    """The types of the outputs by the standard's inference, given types of inputs and values of some.

    The types are shared with other callers, and not to be changed. Raises Refused.
    """

    def ask() -> list[onnx.TypeProto | None] | str:
        types = {n: helper.make_tensor_type_proto(kind, dims) for n, (kind, dims) in inputs.items()}
        data = {name: numpy_helper.from_array(value, name) for name, value in known.items()}
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        asked = node
        if has_definition(schema):
            asked = onnx.NodeProto.FromString(node.SerializeToString())
            fill_defaults(asked, schema)
        try:
            found = infer_node_outputs(
                schema, asked, types, data, opset_imports=imports, ir_version=ir_version
            )
        except (InferenceError, ValidationError, RuntimeError, ValueError, KeyError) as error:
            return str(error).strip().splitlines()[0]
        return [found.get(name) for name in node.output]

    places = _places(node)
    form, values = _form(node, places), _contents(known)
    if values is None or form is None:
        answer = ask()
    else:
        types = tuple(
            (places[n], kind, None if dims is None else tuple(dims)) for n, (kind, dims) in inputs.items()
        )
        held = tuple((places[name], value) for name, value in zip(known, values, strict=True))
        key = (form, types, held, tuple(opsets.items()), ir_version)
        answer = _types.ask(key, ask)
    if isinstance(answer, str):
        raise Refused(answer)
    return {n: proto for n, proto in zip(node.output, answer, strict=True) if n and proto is not None}


def evaluated(
    node: onnx.NodeProto, feeds: Mapping[str, np.ndarray], opset: int, ir_version: int
) -> list[np.ndarray] | None:
    """The outputs of a node of the standard for these inputs; None if it cannot be evaluated."""
    places = _places(node)
    form, values = _form(node, places), _contents(feeds)

    def make() -> ReferenceEvaluator:
        return _evaluator(node, feeds, places, opset, ir_version)

    def run() -> list[np.ndarray] | None:
        types = tuple((places[name], value.dtype.str) for name, value in feeds.items())
        with np.errstate(all="ignore"):
            try:
                evaluator = (
                    make() if form is None else _evaluators.ask((form, types, opset, ir_version), make)
                )
                results = evaluator.run(None, {f"i{places[name]}": value for name, value in feeds.items()})
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError):
                return None  # not known is always a safe answer: inference says what it can
        if len(results) != len([n for n in node.output if n]) or len(results) != len(node.output):
            return None
        return [np.asarray(value) for value in results]

    if form is None or values is None:
        return run()
    held = tuple((places[name], value) for name, value in zip(feeds, values, strict=True))
    return _values.ask((form, held, opset, ir_version), run, _is_small)


def _is_small(values: list[np.ndarray] | None) -> bool:
    return values is not None and sum(value.nbytes for value in values) <= MAX_BYTES


def _evaluator(
    node: onnx.NodeProto,
    feeds: Mapping[str, np.ndarray],
    places: Mapping[str, int],
    opset: int,
    ir_version: int,
) -> ReferenceEvaluator:
    """An evaluator whose inputs and outputs are numbered. That of a bare node would assume the newest opset."""
    from onnx.reference import ReferenceEvaluator  # every operator of it, which most models never ask for

    numbered = onnx.NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
    numbered.input.extend(f"i{places[name]}" if name else "" for name in node.input)
    numbered.output.extend(f"o{i}" if name else "" for i, name in enumerate(node.output))
    inputs = [
        helper.make_tensor_value_info(f"i{places[n]}", helper.np_dtype_to_tensor_dtype(v.dtype), None)
        for n, v in feeds.items()
    ]
    outputs = [helper.make_value_info(n, onnx.TypeProto()) for n in numbered.output if n]
    graph = helper.make_graph([numbered], "one", inputs, outputs)
    imports = [helper.make_opsetid("", opset)]
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=imports, ir_version=ir_version))


def _places(node: onnx.NodeProto) -> dict[str, int]:
    """A number for each name that a node reads; -1 for an input that is left out."""
    places = {"": -1}
    for name in node.input:
        if name not in places:
            places[name] = len(places)
    return places


def _form(node: onnx.NodeProto, places: Mapping[str, int]) -> Hashable | None:
    """All that a node says, but for names; None if that is long, or of subgraphs, which read names of their own."""
    attributes = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            return None
        attributes.append(attribute.SerializeToString())
    if sum(map(len, attributes)) > MAX_BYTES:
        return None
    inputs = [places[name] for name in node.input]
    return (node.op_type, node.domain, *inputs, None, *map(bool, node.output), None, *attributes)


def _contents(values: Mapping[str, np.ndarray]) -> list[Hashable] | None:
    """What arrays hold; None if that is too much, or no numbers."""
    found: list[Hashable] = []
    left = MAX_BYTES
    for value in values.values():
        left -= value.nbytes
        if left < 0 or value.dtype.kind not in "biuf":
            return None
        found.append((value.dtype.str, value.shape, value.tobytes()))
    return found
