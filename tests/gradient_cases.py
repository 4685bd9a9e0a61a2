"""One small model around an operator, and finite differences of it in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tgonnx.engines import session
from tgonnx.ops import trainable_gate as gates

Array = np.ndarray[Any, Any]


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def f32(values: Any) -> Array:
    return np.array(values, np.float32)


@dataclass(frozen=True)
class Case:
    """`inputs`: a shape makes a random parameter, an array a constant, None leaves an optional input out."""

    op_type: str
    inputs: list[tuple[int, ...] | Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    used: tuple[int, ...] = (0,)
    low: float = -1.0
    high: float = 1.0
    opset: int = 18
    frozen: tuple[int, ...] = ()
    domain: str = ""
    runtime: bool = False  # the reference implementation is wrong here: difference onnxruntime in float32
    eps: float = 1e-2  # of the differences of a `runtime` case
    trained: tuple[int, ...] = ()  # arrays that are parameters nevertheless
    dynamic: bool = False  # input 0 becomes a graph input of unknown sizes plus a zero parameter

    @property
    def label(self) -> str:
        """The test id."""
        shown = "-".join(f"{k}={v}" for k, v in self.attributes.items())
        shapes = "x".join(str(np.shape(i) if isinstance(i, np.ndarray) else i) for i in self.inputs)
        return f"{self.op_type}-{shown}-{shapes}{'-dyn' if self.dynamic else ''}".replace(" ", "")


def build(
    case: Case, seed: int = 0, dtype: Any = np.float32
) -> tuple[ModelProto, list[str], dict[str, Array]]:
    """The model with loss = sum over used outputs of sum(output * random), its parameters, and the feeds."""
    rng = np.random.default_rng(seed)
    elem = TensorProto.FLOAT if dtype == np.float32 else TensorProto.DOUBLE
    initializers, names, parameters, nodes, graph_inputs, feeds = [], [], [], [], [], {}
    for i, spec in enumerate(case.inputs):
        name = "" if spec is None else f"p{i}"
        names.append(name)
        if spec is None:
            continue
        if isinstance(spec, np.ndarray):
            value = spec.astype(dtype) if spec.dtype == np.float32 else spec
            if i in case.trained:
                parameters.append(name)
        else:
            value = np.asarray(rng.uniform(case.low, case.high, spec).astype(np.float32), dtype)
            if case.dynamic and i == 0:
                feeds["x"] = value
                dims = [f"d{k}" for k in range(len(spec))]
                graph_inputs.append(helper.make_tensor_value_info("x", elem, dims))
                names[-1] = "xs"
                nodes.append(helper.make_node("Add", ["x", "p0"], ["xs"]))
                value = np.zeros([1] * len(spec), dtype)
            if i not in case.frozen:
                parameters.append(name)
        initializers.append(numpy_helper.from_array(np.asarray(value), name))
    outputs = [f"y{j}" for j in range(case.outputs)]
    nodes.append(helper.make_node(case.op_type, names, outputs, domain=case.domain, **case.attributes))
    opsets = [helper.make_opsetid("", case.opset)]
    functions = []
    if case.domain:
        opsets.append(helper.make_opsetid(case.domain, 1))
        functions = [f(s) for s in gates.SHAPES for f in (gates.function, gates.sawtooth_function)]
    ir = 8 if case.opset < 19 else 10

    def model(nodes: list[Any], outs: list[Any]) -> ModelProto:
        graph = helper.make_graph(nodes, "case", graph_inputs, outs, initializers)
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=functions)

    probe = model(nodes, [helper.make_value_info(o, onnx.TypeProto()) for o in outputs])
    found = session(probe).run(None, feeds) if case.runtime else ReferenceEvaluator(probe).run(None, feeds)
    terms = []
    for j in case.used:
        weight = rng.uniform(0.5, 1.5, found[j].shape) * rng.choice([-1, 1], found[j].shape)
        initializers.append(numpy_helper.from_array(np.asarray(weight.astype(np.float32), dtype), f"r{j}"))
        nodes.append(helper.make_node("Mul", [outputs[j], f"r{j}"], [f"m{j}"]))
        nodes.append(helper.make_node("ReduceSum", [f"m{j}"], [f"l{j}"], keepdims=0))
        terms.append(f"l{j}")
    total = terms[0]
    for j, term in enumerate(terms[1:]):
        nodes.append(helper.make_node("Add", [total, term], [f"t{j}"]))
        total = f"t{j}"
    nodes.append(helper.make_node("Identity", [total], ["loss"]))
    result = model(nodes, [helper.make_tensor_value_info("loss", elem, [])])
    return result, parameters, feeds


def directional(case: Case, parameter: str, direction: Array) -> float:
    """(loss(p + eps d) - loss(p - eps d)) / 2 eps, in float64 by the ONNX reference implementation."""
    eps = case.eps if case.runtime else 1e-3
    losses = []
    for sign in (1.0, -1.0):
        model, _, feeds = build(case, dtype=np.float32 if case.runtime else np.float64)
        for tensor in model.graph.initializer:
            if tensor.name == parameter:
                value = numpy_helper.to_array(tensor)
                moved = np.asarray(value + sign * eps * direction, value.dtype)
                tensor.CopyFrom(numpy_helper.from_array(moved, parameter))
        losses.append(float(_run(model, feeds, case.runtime)))
    return (losses[0] - losses[1]) / (2 * eps)


def _run(model: ModelProto, feeds: dict[str, Array], runtime: bool) -> Any:
    if runtime:
        return session(model).run(None, feeds)[0]
    return ReferenceEvaluator(model).run(None, feeds)[0]
