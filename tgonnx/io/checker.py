"""What a parsed model must satisfy before anything else looks at it.

`accept` checks the header, the names, the order of nodes and the stored tensors, then runs the onnx checker
with strict shape inference on a copy without weights: a model of any size is checked in little memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.errors import ModelError
from tgonnx.graph.declared import _unknown_sizes, open_sizes
from tgonnx.graph.expand import fill_defaults, has_definition
from tgonnx.graph.order import find_cycle, topological_order
from tgonnx.graph.proto import STANDARD_DOMAINS, opset_of
from tgonnx.ops.aspects.traits import traits_of

OLDEST_OPSET = 7
OLDEST_IR = 3
# Larger initializers are checked by their declared type only, so that the checker never copies them.
LARGE_BYTES = 4096


def with_open_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with `open_sizes` of its inputs and outputs: onnxruntime takes a declared 0 by its word."""
    if not any(_unknown_sizes(value) for value in (*model.graph.input, *model.graph.output)):
        return model
    copy = without_initializers(model)
    copy.graph.initializer.extend(model.graph.initializer)
    for value in (*copy.graph.input, *copy.graph.output):
        open_sizes(value)
    return copy


def accept(model: onnx.ModelProto, name: str, runs: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto:
    """The model with its nodes in topological order and without wrong shape hints; `model` is not changed.

    External data must have been loaded. `name` starts every message. `runs` is the second opinion on a model whose
    shapes the standard's inference refuses. Raises `ModelError`.
    """
    _check_text(model, name)
    _check_header(model, name)
    _check_operators(model, name)
    _check_tensors(model, name)
    _check_names(model, name)
    return _check_standard(_sorted(model, name), name, runs)


def describe(error: BaseException, limit: int = 300) -> str:
    """The message of a foreign error as one line of at most `limit` characters."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= limit else line[: limit - 3] + "..."


# --- header, names, order ---------------------------------------------------------------------------


def _check_text(message: Any, name: str) -> None:
    """Every string is text; protobuf hands over broken UTF-8 as bytes."""
    if isinstance(message, TensorProto):  # its other fields are large
        fields = [(TensorProto.DESCRIPTOR.fields_by_name["name"], message.name)]
    else:
        fields = message.ListFields()
    for field, value in fields:
        entries = [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
        if field.type == field.TYPE_STRING:
            if any(isinstance(entry, bytes) for entry in entries):
                raise ModelError(f"{name}: a {field.name} is not valid text: {entries[0]!r:.60}")
        elif field.type == field.TYPE_MESSAGE:
            for entry in entries:
                _check_text(entry, name)


def _check_header(model: onnx.ModelProto, name: str) -> None:
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{name}: the graph has no nodes")
    if not model.graph.output:
        raise ModelError(f"{name}: the graph has no outputs")
    if not OLDEST_IR <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"{name}: IR version {model.ir_version} is outside {OLDEST_IR}..{onnx.IR_VERSION}, "
            f"the range known to onnx {onnx.__version__}"
        )
    for value in model.graph.input:
        if not value.type.WhichOneof("value"):
            raise ModelError(f"{name}: input {value.name!r} has no type")
        if is_shapeless(value) and opset_of(model) < 9:  # no ConstantOfShape to check it with
            raise ModelError(f"{name}: input {value.name!r} has no shape")
    seen: set[str] = set()
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if domain in seen:
            raise ModelError(f"{name}: opset of domain {entry.domain or 'ai.onnx'!r} is declared twice")
        seen.add(domain)
        newest = onnx.defs.onnx_opset_version()
        if domain == "" and not OLDEST_OPSET <= entry.version <= newest:
            raise ModelError(
                f"{name}: opset {entry.version} is outside {OLDEST_OPSET}..{newest}, "
                f"the range known to onnx {onnx.__version__}"
            )


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    """Operators of the standard domain are known; those of other domains may be anything.

    TensorRT's plug-ins, which no opset has ever had, may stand in it, most of them at the end of the model; an
    unknown name elsewhere is a mistake.
    """
    read = {value for node in model.graph.node for value in _reads(node)}
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx"))
    local = {function.name for function in model.functions if function.domain in STANDARD_DOMAINS}
    for node in model.graph.node:
        if node.domain not in STANDARD_DOMAINS or node.op_type in local or traits_of(node).in_runtime:
            continue
        if is_custom(node) and (node.op_type.endswith("_TRT") or not read & set(node.output)):
            continue
        if opset is None:
            raise ModelError(f"{name}: the opset of the standard operators is not declared")
        try:
            onnx.defs.get_schema(node.op_type, opset, "")
        except onnx.defs.SchemaError:
            raise ModelError(f"{name}: {label(node)}: opset {opset} has no such operator") from None


def is_custom(node: onnx.NodeProto) -> bool:
    """Is this an operator that the standard has in no opset, or one of another domain?"""
    return node.domain not in STANDARD_DOMAINS or not onnx.defs.has(node.op_type, "")


def label(node: onnx.NodeProto) -> str:
    """How messages name a node: its name and operator, or its first output if it has no name."""
    named = node.name or next((output for output in node.output if output), "")
    return f"node {named!r} ({node.op_type})"


def _check_names(model: onnx.ModelProto, name: str) -> None:
    """Every value is made once; every value that is read is made somewhere in reach."""
    graph = model.graph
    made: dict[str, str] = {}
    initializers = [tensor.name for tensor in graph.initializer]
    initializers += [sparse.values.name for sparse in graph.sparse_initializer]
    for kind, names in (("input", [value.name for value in graph.input]), ("initializer", initializers)):
        for value in names:
            if not value:
                raise ModelError(f"{name}: an input or initializer has no name")
            if made.get(value) == kind:
                raise ModelError(f"{name}: two {kind}s are named {value!r}")
            made[value] = kind
    for node in graph.node:
        for value in node.output:
            if value and value in made:
                raise ModelError(
                    f"{name}: {label(node)} makes {value!r} again, already made by {made[value]}"
                )
            if value:
                made[value] = label(node)
    for node in graph.node:
        for value in _reads(node):
            if value not in made:
                raise ModelError(
                    f"{name}: {label(node)} reads {value!r}, which no node, input or initializer provides"
                )
    outputs: set[str] = set()
    for output in graph.output:
        if output.name not in made:
            raise ModelError(f"{name}: output {output.name!r} is not made by any node")
        if output.name in outputs:
            raise ModelError(f"{name}: two outputs are named {output.name!r}")
        outputs.add(output.name)


def _reads(node: onnx.NodeProto) -> set[str]:
    """The values of the enclosing graph that a node reads, in its subgraphs too."""
    read = {value for value in node.input if value}
    for graph in subgraphs(node):
        inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        inside |= {sparse.values.name for sparse in graph.sparse_initializer}
        inside |= {value for inner in graph.node for value in inner.output}
        for inner in graph.node:
            read |= _reads(inner) - inside
        read |= {value.name for value in graph.output} - inside
    return read


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _sorted(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with nodes in topological order (stable); a cycle is an error."""
    nodes = list(model.graph.node)
    made_by = {value: index for index, node in enumerate(nodes) for value in node.output if value}
    needs = [{made_by[value] for value in _reads(node) if value in made_by} for node in nodes]
    if all(all(other < index for other in need) for index, need in enumerate(needs)):
        return model
    order = topological_order(needs)
    if len(order) < len(nodes):
        cycle = find_cycle(needs, set(range(len(nodes))) - set(order))
        shown = " -> ".join(label(nodes[index]) for index in cycle[:4])
        raise ModelError(f"{name}: the graph has a cycle: {shown}{' -> ...' if len(cycle) > 4 else ''}")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes[index] for index in order)
    return result


# --- tensors ----------------------------------------------------------------------------------------


def stored_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor: initializers and attributes, of the graph, its subgraphs and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
        for graph in subgraphs(node):
            yield from _graph_tensors(graph)


def is_external(tensor: TensorProto) -> bool:
    """Whether the bytes are in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def byte_size(tensor: TensorProto) -> int:
    """Bytes that `dims` and the type ask for; 4-bit types are packed two to a byte. Not for strings."""
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        bits = 8 * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return -(-int(math.prod(tensor.dims)) * bits // 8)


_BITS = {
    number: int(bits)
    for kind, bits in (("UINT4", 4), ("INT4", 4), ("FLOAT4E2M1", 4), ("UINT2", 2), ("INT2", 2))
    if (number := getattr(TensorProto, kind, None)) is not None
}


def _check_tensors(model: onnx.ModelProto, name: str) -> None:
    """Sizes of all stored tensors; values and dimensions of weights."""
    # infinite constants are legitimate as masks (a table that is only looked up in may be one), and empty ones as
    # options; not as weights that are computed with
    weights = {
        value: node
        for node in model.graph.node
        if node.domain in STANDARD_DOMAINS and (are := traits_of(node)).weights and not are.looks_up
        for value in node.input
    }
    for tensor in stored_tensors(model):
        where = f"{name}: initializer {tensor.name!r}" if tensor.name else f"{name}: a stored tensor"
        check_declaration(tensor, where)
        _check_size(tensor, where)
    for value, tensor in _constants(model.graph):
        node = weights.get(value)
        where = f"{name}: initializer {value!r}" + (f" of {label(node)}" if node else "")
        if node and 0 in tensor.dims:
            raise ModelError(f"{where} is empty: {'x'.join(map(str, tensor.dims))}")
        _check_values(tensor, where, infinite_allowed=node is None)


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Initializers and the tensors of Constant nodes, by value name."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS and node.output:
            yield from (
                (node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value"
            )


def check_declaration(tensor: TensorProto, where: str) -> None:
    """The element type is known and no size is negative, so that `byte_size` makes sense."""
    if tensor.data_type == TensorProto.UNDEFINED or tensor.data_type not in TensorProto.DataType.values():
        raise ModelError(f"{where} has no valid element type ({tensor.data_type})")
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{where} has a negative size: {'x'.join(map(str, tensor.dims))}")


def _check_size(tensor: TensorProto, where: str) -> None:
    count = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        if len(tensor.string_data) != count:
            raise ModelError(f"{where} holds {len(tensor.string_data)} strings, its shape needs {count}")
        return
    needed = byte_size(tensor)
    if tensor.HasField("raw_data"):
        if (have := len(tensor.raw_data)) != needed:
            raise ModelError(f"{where} holds {have} bytes, its shape and type need {needed}")
        return
    field = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
    bits = _BITS.get(tensor.data_type)
    complex_type = tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
    entries = needed if bits else count * (2 if complex_type else 1)
    if len(field) != entries:
        raise ModelError(f"{where} holds {len(field)} values, its shape needs {entries}")


def _check_values(tensor: TensorProto, where: str, infinite_allowed: bool) -> None:
    kind = TensorProto.DataType.Name(tensor.data_type)
    if not kind.startswith(("FLOAT", "DOUBLE", "BFLOAT")) or tensor.data_type in _BITS:
        return
    array = numpy_helper.to_array(tensor)
    if bool(np.isfinite(array).all()):
        return
    if bool(np.isnan(array).any()):
        raise ModelError(f"{where} contains NaN")
    if not infinite_allowed:
        raise ModelError(f"{where} contains infinite values")


# --- the onnx checker -------------------------------------------------------------------------------


def _check_standard(
    model: onnx.ModelProto, name: str, runs: Callable[[onnx.ModelProto], bool]
) -> onnx.ModelProto:
    """Run the checker with strict shape inference; stale shape hints inside the graph are dropped."""
    skeleton = _without_weights(model)
    try:
        onnx.checker.check_model(skeleton, full_check=True)
        return model
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{name}: {_explain(error)}") from None
    except onnx.shape_inference.InferenceError as error:
        if not model.graph.value_info:
            if runs(model):
                return model
            raise ModelError(f"{name}: shapes do not fit: {_explain(error)}") from None
    except ValueError as error:  # the protobuf limit, with the weights already left out
        raise ModelError(f"{name}: too large to be checked: {describe(error)}") from None
    # Hints are not part of the model's meaning, and exporters leave wrong ones behind.
    del skeleton.graph.value_info[:]
    try:
        onnx.checker.check_model(skeleton, full_check=True)
    except onnx.shape_inference.InferenceError as error:
        if not runs(model):
            raise ModelError(f"{name}: shapes do not fit: {_explain(error)}") from None
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    return result


def _explain(error: Exception) -> str:
    """The checker's first complaint, the node named as in all other messages."""
    text = describe(error, 2000)
    if context := re.match(r"(.*) ==> Context: Bad node spec for node\. Name: (.*) OpType: (\w+)", text):
        text = f"node {context[2].strip()!r} ({context[3]}): {context[1]}"
    text = re.sub(r"\[\w+Error\] |Inference error\(s\): ", "", text)
    text = re.sub(r"\(op_type:(\w+), node name: ([^)]*)\)", r"node '\2' (\1)", text)
    first = re.split(r" (?=node '[^']*' \(\w+\): )", text)[0]
    return first if len(first) <= 300 else first[:297] + "..."


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for the checker in which large initializers are inputs: same types, no data."""
    skeleton = without_initializers(model)
    skeleton.ClearField("training_info")
    skeleton.graph.name = model.graph.name or "graph"
    skeleton.ir_version = max(model.ir_version, 4)  # from which on an initializer need not be an input
    stored = {tensor.name for tensor in model.graph.initializer}
    del skeleton.graph.input[:]
    skeleton.graph.input.extend(value for value in model.graph.input if value.name not in stored)
    _say_more(skeleton)
    _give_shapes(skeleton.graph)
    for tensor in model.graph.initializer:
        large = tensor.data_type != TensorProto.STRING and byte_size(tensor) > LARGE_BYTES
        if not large:
            skeleton.graph.initializer.append(tensor)
        else:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            skeleton.graph.input.append(info)
    return skeleton


def _give_shapes(graph: onnx.GraphProto) -> None:
    """Shapes of inputs and outputs are optional (IR.md), but the checker insists: it gets to see their sizes."""
    for value in [value for value in graph.input if is_shapeless(value)]:
        filled = helper.make_node("ConstantOfShape", [f"sizes of {value.name}"], [value.name])
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            filled.output[0] = f"filled {value.name}"
            to = value.type.tensor_type.elem_type
            graph.node.insert(0, helper.make_node("Cast", [filled.output[0]], [value.name], to=to))
        graph.node.insert(0, filled)
        value.CopyFrom(helper.make_tensor_value_info(filled.input[0], TensorProto.INT64, [None]))
    for value in graph.output:
        if is_shapeless(value):
            graph.value_info.append(value)
            sizes = f"sizes of {value.name}"
            graph.node.append(helper.make_node("Shape", [value.name], [sizes]))
            value.CopyFrom(helper.make_tensor_value_info(sizes, TensorProto.INT64, [None]))


def is_shapeless(value: onnx.ValueInfoProto) -> bool:
    """Does the declaration leave open what the value is, or how many axes it has?"""
    if not value.type.WhichOneof("value"):
        return True
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def only_in_runtime(node: onnx.NodeProto, opset: int) -> bool:
    """Does onnxruntime know this operator of the standard domain, and the standard not, or not any more?"""
    if node.domain not in STANDARD_DOMAINS or not traits_of(node).in_runtime:
        return False
    known = onnx.defs.has(node.op_type, opset, "")
    return not known or bool(onnx.defs.get_schema(node.op_type, opset, "").deprecated)


def _say_more(skeleton: onnx.ModelProto) -> None:
    """Attributes that definitions refer to; onnxruntime's operators in its own domain, where nobody checks them."""
    opset = opset_of(skeleton)
    if all(entry.domain != "com.microsoft" for entry in skeleton.opset_import):
        skeleton.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for node in skeleton.graph.node:
        node.domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        if only_in_runtime(node, opset) or is_custom(node):
            node.domain = node.domain or "com.microsoft"
        elif node.domain in STANDARD_DOMAINS and onnx.defs.has(node.op_type, opset, ""):
            schema = onnx.defs.get_schema(node.op_type, opset, "")
            if has_definition(schema):
                fill_defaults(node, schema)


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of everything but the graph's initializers, which may be too large to copy."""
    result = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(result, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(result.graph, field.name, value)
    return result


def _copy_field(message: onnx.ModelProto | onnx.GraphProto, name: str, value: object) -> None:
    if isinstance(value, int | str):
        setattr(message, name, value)
    else:
        getattr(message, name).extend(value)
