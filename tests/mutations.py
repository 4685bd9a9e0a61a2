"""Changes of a model that keep what it computes: other names, orders, containers, opsets, types and tools.

Each takes a copy of a model and a generator. `Skip` says why one cannot be made of this model, or here.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from independent import choices, draw
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from random_forms import hints, weights_as_inputs

Rng = np.random.Generator
Mutation = Callable[[ModelProto, Rng], ModelProto]


class Skip(Exception):
    """This model or this environment does not offer the mutation; the message says why."""


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def reads(node: NodeProto) -> set[str]:
    """All names that a node and its bodies read; those made inside a body do no harm here."""
    names = {name for name in node.input if name}
    for body in subgraphs(node):
        names.update(*(reads(inner) for inner in body.node), {value.name for value in body.output})
    return names


def renamed(model: ModelProto, rng: Rng) -> ModelProto:
    """Every inner value and node gets a name that says nothing, some of them odd."""
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {"": ""}
    style = rng.choice(["n{}", "/a b/{}:0", "ü{}\N{SNOWMAN}", "{}", "x.{}[0]"])

    def new(name: str) -> str:
        return name if name in kept else names.setdefault(name, str(style).format(len(names)))

    def visit(graph: GraphProto) -> None:
        for tensor in graph.initializer:
            tensor.name = new(tensor.name)
        for value in (*graph.value_info, *graph.output, *graph.input):
            value.name = new(value.name)
        for node in graph.node:
            node.name = str(rng.choice(["", "same", f"node {len(names)}"]))
            for field in (node.input, node.output):
                field[:] = [new(name) for name in field]
            for body in subgraphs(node):
                visit(body)

    visit(model.graph)
    return model


def reordered(model: ModelProto, rng: Rng) -> ModelProto:
    """Another topological order."""
    waiting = list(model.graph.node)
    made = {name for node in waiting for name in node.output}
    ready: list[NodeProto] = []
    while waiting:
        able = [i for i, node in enumerate(waiting) if not reads(node) & made]
        node = waiting.pop(int(rng.choice(able)))
        made -= set(node.output)
        ready.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in ready]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def with_dead_nodes(model: ModelProto, rng: Rng) -> ModelProto:
    """Nodes and weights that reach no output."""
    made = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Relu")]
    weight = numpy_helper.from_array(np.ones((3, 5), np.float32), "nobody reads this")
    model.graph.initializer.append(weight)
    for i, name in enumerate(rng.permutation(made)[:3]):
        model.graph.node.append(helper.make_node("Sigmoid", [str(name)], [f"dead {i}"]))
        model.graph.node.append(helper.make_node("Shape", [f"dead {i}"], [f"deader {i}"]))
    return model


def in_functions(model: ModelProto, rng: Rng) -> ModelProto:
    """Runs of nodes become calls of functions of the model's own."""
    nodes, calls = list(model.graph.node), []
    results = {value.name for value in model.graph.output}
    start = 0
    while start < len(nodes):
        size = int(rng.integers(1, 6))
        run = nodes[start : start + size]
        start += size
        if rng.random() < 0.4 or any(list(subgraphs(n)) or n.op_type == "Constant" for n in run):
            calls += run
            continue
        made = [name for node in run for name in node.output if name]
        outer = [n for other in nodes if all(other is not n for n in run) for n in reads(other)]
        inputs = list(dict.fromkeys(n for node in run for n in node.input if n and n not in made))
        outputs = [name for name in made if name in results or name in outer]
        if not outputs:
            calls += run
            continue
        name = f"block{len(model.functions)}"
        model.functions.append(
            helper.make_function("local", name, inputs, outputs, run, list(model.opset_import))
        )
        calls.append(helper.make_node(name, inputs, outputs, domain="local"))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in calls]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.ir_version = max(model.ir_version, 8)
    return model


def constants(model: ModelProto, rng: Rng) -> ModelProto:
    """Initializers become Constant nodes, and the other way round."""
    inputs = {value.name for value in model.graph.input}
    moved = [t for t in model.graph.initializer if t.name not in inputs and rng.random() < 0.6]
    for node in [n for n in model.graph.node if n.op_type == "Constant" and rng.random() < 0.6]:
        value = next((a for a in node.attribute if a.name == "value"), None)
        if value is not None:
            tensor = TensorProto.FromString(value.t.SerializeToString())
            tensor.name = node.output[0]
            model.graph.node.remove(node)
            model.graph.initializer.append(tensor)
    for tensor in moved:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        model.graph.initializer.remove(tensor)
    return model


def listed(model: ModelProto, rng: Rng) -> ModelProto:
    """Weights among the inputs."""
    weights_as_inputs(model, rng)
    return model


def hinted(model: ModelProto, rng: Rng) -> ModelProto:
    """value_info for every value, or for none."""
    if model.graph.value_info:
        del model.graph.value_info[:]
    else:
        hints(model, rng)
    return model


def converted(model: ModelProto, rng: Rng) -> ModelProto:
    """A newer opset, up to the newest that all runtimes know."""
    now = model.opset_import[0].version
    if now >= 21:
        raise Skip("the opset is the newest already")
    try:
        return onnx.version_converter.convert_version(model, int(rng.integers(now + 1, 22)))
    except Exception as error:
        raise Skip(f"onnx cannot convert it: {error}") from None


def half(model: ModelProto, rng: Rng) -> ModelProto:
    """Floats of 16 bits."""
    resized = {name for node in model.graph.node if node.op_type == "Resize" for name in node.input[1:3]}

    def narrow(tensor: TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in resized:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    def visit(graph: GraphProto) -> None:
        del graph.value_info[:]
        for tensor in graph.initializer:
            narrow(tensor)
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in resized:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR and not set(node.output) & resized:
                    narrow(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
            for body in subgraphs(node):
                visit(body)

    visit(model.graph)
    return model


def optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Skip(f"{module} is not installed: {error}") from None


def by_onnxslim(model: ModelProto, rng: Rng) -> ModelProto:
    return _by_tool("onnxslim", lambda tool: tool.slim(model), model)


def by_onnxsim(model: ModelProto, rng: Rng) -> ModelProto:
    return _by_tool("onnxsim", lambda tool: tool.simplify(model)[0], model)


def _by_tool(name: str, call: Callable[[Any], ModelProto], model: ModelProto) -> ModelProto:
    tool = optional(name)
    try:
        return call(tool)
    except Exception as error:
        raise Skip(f"{name} cannot take it: {error}") from None


def by_onnxruntime(model: ModelProto, rng: Rng) -> ModelProto:
    """What onnxruntime saves after its own optimisations, basic or extended."""
    runtime = optional("onnxruntime")
    level = runtime.GraphOptimizationLevel
    with tempfile.TemporaryDirectory() as folder:
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = (level.ORT_ENABLE_BASIC, level.ORT_ENABLE_EXTENDED)[
            int(rng.integers(2))
        ]
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        try:
            runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Skip(f"onnxruntime cannot take it: {error}") from None
        return onnx.load(options.optimized_model_filepath)


def quantised(model: ModelProto, rng: Rng) -> ModelProto:
    """8-bit weights and activations in QDQ form, calibrated on random inputs."""
    tools = optional("onnxruntime.quantization")
    logging.getLogger().setLevel(logging.ERROR)  # it gives advice to the root logger
    feeds = iter([draw(model, sizes, i) for i, sizes in enumerate(list(choices(model))[:2])])

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> Any:
            return next(feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        onnx.save(model, source)
        try:
            per_channel = bool(rng.random() < 0.5) and model.opset_import[0].version >= 13
            tools.quantize_static(str(source), str(target), Reader(), per_channel=per_channel)
        except Exception as error:
            raise Skip(f"onnxruntime cannot quantise it: {error}") from None
        return onnx.load(target)


MUTATIONS: tuple[Mutation, ...] = (
    renamed, reordered, with_dead_nodes, in_functions, constants, listed, hinted, converted, half, by_onnxslim,
    by_onnxsim, by_onnxruntime, quantised,
)  # fmt: skip
# After these the analysis must find what it found before.
NEUTRAL: Sequence[Mutation] = (
    renamed,
    reordered,
    with_dead_nodes,
    in_functions,
    constants,
    listed,
    hinted,
    half,
    converted,
)
