"""Normal form: what analysis and surgery may take for granted.

Handled, in this order:
* model-local functions are inlined;
* `Constant` nodes become initializers (tensors, numbers and, made dense, sparse tensors; strings stay);
* `Identity` of an initializer becomes the initializer;
* initializers that exporters merged because their values happen to be equal (biases of zeros, scales of ones) get
  one copy per use, unless the nodes that use them also share a weight of their own (a siamese network).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import inliner, numpy_helper

from tgonnx.graph.proto import captured_names, constant_tensor, fresh_name, replace_nodes
from tgonnx.passes import PassResult

MAX_COPY = 1 << 16  # elements of the largest constant-valued initializer that is copied per use


@dataclass(frozen=True)
class InlineFunctions:
    """Replace calls of model-local functions by their bodies."""

    name: ClassVar = "inline-functions"
    in_place: ClassVar = False
    keeps_values: ClassVar = True

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        if not model.functions:
            return PassResult(model, False)
        return PassResult(inliner.inline_local_functions(model), True)


@dataclass(frozen=True)
class ConstantsToInitializers:
    """Turn `Constant` nodes of the main graph into initializers."""

    name: ClassVar = "constants-to-initializers"
    in_place: ClassVar = True
    keeps_values: ClassVar = True

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        return PassResult(model, _constants_to_initializers(model.graph))


@dataclass(frozen=True)
class ResolveInitializerAliases:
    """Make the users of `Identity(initializer)` use the initializer itself."""

    name: ClassVar = "resolve-initializer-aliases"
    in_place: ClassVar = True
    keeps_values: ClassVar = True

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        return PassResult(model, _resolve_aliases(model.graph))


@dataclass(frozen=True)
class UnshareConstants:
    """Undo the accidental sharing of initializers whose elements are all equal."""

    name: ClassVar = "unshare-constants"
    in_place: ClassVar = True
    keeps_values: ClassVar = True

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        return PassResult(model, _unshare(model.graph))


def _constants_to_initializers(graph: onnx.GraphProto) -> bool:
    outputs = {value.name for value in graph.output}
    kept, made = [], []
    for node in graph.node:
        tensor = None if node.op_type != "Constant" or node.output[0] in outputs else constant_tensor(node)
        if tensor is None:
            kept.append(node)
        else:
            made.append(tensor)
    if made:
        graph.initializer.extend(made)
        replace_nodes(graph, kept)
    return bool(made)


def sparse_constants(model: onnx.ModelProto) -> set[str]:
    """The outputs of the main graph's `Constant` nodes that hold a sparse tensor."""
    return {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Constant" and any(a.name == "sparse_value" for a in node.attribute)
    }


def _resolve_aliases(graph: onnx.GraphProto) -> bool:
    initializers = {tensor.name for tensor in graph.initializer}
    fixed = {value.name for value in graph.output} | captured_names(graph)
    alias: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in alias:
                node.input[i] = alias[name]
        if node.op_type == "Identity" and node.input[0] in initializers and node.output[0] not in fixed:
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if alias:
        replace_nodes(graph, kept)
    return bool(alias)


def _unshare(graph: onnx.GraphProto) -> bool:
    uses = Counter(name for node in graph.node for name in node.input)
    fixed = captured_names(graph) | {v.name for v in graph.output} | {v.name for v in graph.input}
    by_name = {tensor.name: tensor for tensor in graph.initializer}
    shared = {
        name
        for name, tensor in by_name.items()
        if uses[name] > 1 and name not in fixed and _all_equal(tensor)
    }
    if not shared:
        return False
    own_weights = {
        name
        for name, tensor in by_name.items()
        if name not in shared and len(tensor.dims) > 1 and uses[name] > 1
    }
    copies: dict[str, dict[object, str]] = defaultdict(dict)
    changed = False
    for index, node in enumerate(graph.node):
        siblings = tuple(name for name in node.input if name in own_weights)
        for i, name in enumerate(node.input):
            if name not in shared:
                continue
            key = (siblings, i) if siblings else (index, i)
            known = copies[name]
            if key not in known:
                known[key] = name if not known else fresh_name(f"{name}_{len(known)}", by_name)
                if known[key] != name:
                    changed = True
                    tensor = graph.initializer.add()
                    tensor.CopyFrom(by_name[name])
                    tensor.name = known[key]
                    by_name[tensor.name] = tensor
            node.input[i] = known[key]
    return changed


def _all_equal(tensor: onnx.TensorProto) -> bool:
    size = int(np.prod(tensor.dims, dtype=np.int64))
    if size > MAX_COPY or tensor.data_type == onnx.TensorProto.STRING or not size or not tensor.dims:
        return False
    values = numpy_helper.to_array(tensor).reshape(-1)
    return bool((values == values[0]).all())
