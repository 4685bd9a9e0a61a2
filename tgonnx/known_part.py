"""The part of a model that a runtime here can run.

Detectors exported for an accelerator end in an operator that only its runtime has (TensorRT's EfficientNMS_TRT). Up to
that operator's inputs such a model can be verified, and trained, like any other.
"""

from __future__ import annotations

import re
from collections.abc import Set

import onnx

from tgonnx.definitions import STANDARD_DOMAINS, opset_of
from tgonnx.errors import UnsupportedError
from tgonnx.noise import read_by
from tgonnx.runtime import refusal
from tgonnx.wellformed import RUNTIME_OPS, without_initializers

_RUNTIME_DOMAINS = ("ai.onnx.ml", "ai.onnx.training", "com.microsoft")
# How onnxruntime says that a release does not have an operator of its own domains
_MISSING = re.compile(r"(?P<domain>[\w.\-]*):(?P<op>[\w.\-]+)\(-?\d+\) is not a registered function/op")


def unknown_operators(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """(domain, operator) of each that neither the standard nor the runtime here has, nor the model defines."""
    defined = {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for node in model.graph.node} - defined
    unknown = {pair for pair in used if _is_foreign(*pair, opset_of(model))}
    if not unknown and any(domain.startswith("com.microsoft") for domain, _ in used):
        match = _MISSING.search(refusal(model))
        if match is not None:
            unknown = used & {(match["domain"], match["op"])}
    return unknown


def _is_foreign(domain: str, op_type: str, opset: int) -> bool:
    if domain in STANDARD_DOMAINS:
        return op_type not in RUNTIME_OPS and not onnx.defs.has(op_type, opset, "")
    return not domain.startswith(_RUNTIME_DOMAINS)


def known_part(model: onnx.ModelProto, unknown: Set[tuple[str, str]]) -> onnx.ModelProto:
    """The model itself, or a copy without the operators that are `unknown` and all that needs them.

    What such an operator reads becomes an output, behind the outputs that are left.
    Raises `UnsupportedError` if nothing is left.
    """
    if not unknown:
        return model
    result = without_initializers(model)
    graph = result.graph
    lost: set[str] = set()
    kept, read = [], []
    for node in graph.node:
        if (node.domain, node.op_type) in unknown:
            lost.update(node.output)
            read += [name for name in node.input if name]
        elif lost & read_by(node):
            lost.update(node.output)
        else:
            kept.append(node)
    made = {name for node in kept for name in node.output if name}
    outputs = [value for value in graph.output if value.name not in lost]
    known = {value.name: value for value in (*graph.value_info, *outputs)}
    names = dict.fromkeys([value.name for value in outputs] + [name for name in read if name in made])
    if not names:
        listed = ", ".join(sorted(f"{op_type} ({domain or 'ai.onnx'})" for domain, op_type in unknown))
        raise UnsupportedError(f"no runtime here knows {listed}, and nothing stands before it")
    outputs = [known.get(name, onnx.ValueInfoProto(name=name)) for name in names]
    for part, new in ((graph.node, kept), (graph.output, outputs)):
        copies = [type(item).FromString(item.SerializeToString()) for item in new]
        del part[:]
        part.extend(copies)
    graph.initializer.extend(model.graph.initializer)
    return result
