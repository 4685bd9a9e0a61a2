"""The part of a model that a runtime here can run.

Detectors exported for an accelerator end in an operator that only its runtime has (TensorRT's EfficientNMS_TRT). Up to
that operator's inputs such a model can be verified, and trained, like any other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Set
from typing import Any

import onnx
import onnx.shape_inference

from tgonnx.errors import UnsupportedError
from tgonnx.graph.proto import STANDARD_DOMAINS, opset_of
from tgonnx.io.checker import without_initializers
from tgonnx.io.hollow import Hollow, filled
from tgonnx.ops.aspects.traits import traits_named
from tgonnx.runtime.noise import read_by
from tgonnx.runtime.sessions import refusal

_RUNTIME_DOMAINS = ("ai.onnx.ml", "ai.onnx.training", "com.microsoft")
# How onnxruntime says that a release does not have an operator of its own domains
_MISSING = re.compile(r"(?P<domain>[\w.\-]*):(?P<op>[\w.\-]+)\(-?\d+\) is not a registered function/op")


def unknown_operators(given: onnx.ModelProto | Hollow) -> set[tuple[str, str]]:
    """(domain, operator) of each that neither the standard nor the runtime here has, nor the model defines."""
    model = given.proto if isinstance(given, Hollow) else given
    defined = {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for node in model.graph.node} - defined
    unknown = {pair for pair in used if _is_foreign(*pair, opset_of(model))}
    if not unknown and any(domain.startswith("com.microsoft") for domain, _ in used):
        match = _MISSING.search(refusal(filled(given)))
        if match is not None:
            unknown = used & {(match["domain"], match["op"])}
    return unknown


def _is_foreign(domain: str, op_type: str, opset: int) -> bool:
    if domain in STANDARD_DOMAINS:
        return not traits_named(op_type).in_runtime and not onnx.defs.has(op_type, opset, "")
    return not domain.startswith(_RUNTIME_DOMAINS)


def known_part(model: onnx.ModelProto, unknown: Set[tuple[str, str]]) -> onnx.ModelProto:
    """The model itself, or a copy without the operators that are `unknown` and all that needs them.

    What these nodes read of the rest becomes an output, behind the outputs that are left.
    Raises `UnsupportedError` if nothing is left.
    """
    if not unknown:
        return model
    kept, dropped = _split(model, unknown)
    lost = {name for node in dropped for name in node.output}
    made = {name for node in kept for name in node.output if name}
    read = [name for node in dropped for name in sorted(read_by(node)) if name in made]
    names = dict.fromkeys([value.name for value in model.graph.output if value.name not in lost] + read)
    if not names:
        listed = ", ".join(sorted(f"{op_type} ({domain or 'ai.onnx'})" for domain, op_type in unknown))
        raise UnsupportedError(f"no runtime here knows {listed}, and nothing stands before it")
    result = without_initializers(model)
    typed = onnx.shape_inference.infer_shapes(result).graph
    known = {value.name: value for value in (*typed.value_info, *model.graph.output)}
    outputs = [known.get(name, onnx.ValueInfoProto(name=name)) for name in names]
    _put(result.graph.node, kept)
    _put(result.graph.output, outputs)
    result.graph.initializer.extend(model.graph.initializer)
    return result


def with_rest(
    part: onnx.ModelProto, model: onnx.ModelProto, unknown: Set[tuple[str, str]]
) -> onnx.ModelProto:
    """What was made of the known part of a model, with the nodes that had been left out and the model's outputs."""
    result = onnx.ModelProto()
    result.CopyFrom(part)
    _, dropped = _split(model, unknown)
    there = {tensor.name: tensor for tensor in result.graph.initializer}
    read = {name for node in dropped for name in read_by(node)}
    renamed = {}
    for tensor in model.graph.initializer:
        if tensor.name not in read or (tensor.name in there and there[tensor.name] == tensor):
            continue
        stored = result.graph.initializer.add()
        stored.CopyFrom(tensor)
        if tensor.name in there:  # cut or trained where it stands in the known part
            stored.name = renamed[tensor.name] = f"{tensor.name}/kept"
    for node in dropped:
        copy = result.graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = [renamed.get(name, name) for name in node.input]
    _put(result.graph.output, model.graph.output)
    return result


def makers_of(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, bytes | None]:
    """What makes each of these values, its operands' names and stored operands included; None if no node does."""
    stored = {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, bytes | None] = {}
    for name in names:
        node = onnx.NodeProto()
        if name in makers:
            node.CopyFrom(makers[name])
            node.ClearField("name")
            operands = b"".join(stored.get(read, b"") for read in node.input)
        found[name] = node.SerializeToString() + operands if name in makers else None
    return found


def outputs_before(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy that gives the operands of the nodes that make `names`, in place of these outputs."""
    made = {name for node in model.graph.node for name in node.output if name}
    read = [name for node in model.graph.node if set(node.output) & set(names) for name in node.input]
    left = [value for value in model.graph.output if value.name not in names]
    there = {value.name for value in left}
    result = without_initializers(model)
    more = dict.fromkeys(name for name in read if name in made and name not in there)
    _put(result.graph.output, [*left, *(onnx.ValueInfoProto(name=name) for name in more)])
    result.graph.initializer.extend(model.graph.initializer)
    return result


def _split(
    model: onnx.ModelProto, unknown: Set[tuple[str, str]]
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes that need nothing unknown, and the others."""
    kept, dropped, lost = [], [], set[str]()
    for node in model.graph.node:
        if (node.domain, node.op_type) in unknown or lost & read_by(node):
            lost.update(node.output)
            dropped.append(node)
        else:
            kept.append(node)
    return kept, dropped


def _put(field: Any, items: Iterable[Any]) -> None:
    """Replace what a repeated field holds by copies of `items`, which may be in it."""
    copies = []
    for item in items:
        copies.append(type(item)())
        copies[-1].CopyFrom(item)
    del field[:]
    field.extend(copies)
