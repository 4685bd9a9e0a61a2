"""Every operator with a rule, on the cases that the standard itself comes with: gated equals pruned.

Each case of the onnx backend tests is put between mixers. A mixer multiplies one axis by a matrix (Transpose,
MatMul, Transpose), so that every axis of what the operator reads and writes is a channel axis that could be cut:
where a rule lets labels go that the operator needs, the outputs differ or the surgery fails.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests
from oracle import check_exact, feeds_of, run

from tgonnx import ops
from tgonnx.errors import ModelError, UnsupportedError
from tgonnx.loading import load
from tgonnx.ops.unprunable import KEPT

FLOAT = TensorProto.FLOAT
FLOATS = (FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
WHOLE = tuple(getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64))
TYPES = (*FLOATS, *WHOLE, TensorProto.BOOL)

LONGEST = 64


@dataclass(frozen=True)
class Case:
    name: str
    model: onnx.ModelProto
    data: dict[str, np.ndarray]


class CannotWrap(Exception):
    """Why a case cannot stand between mixers."""


@dataclass
class Wrapper:
    """A graph under construction around the nodes of a case."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, value: np.ndarray, name: str = "") -> str:
        name = name or f"mixer_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def op(self, op_type: str, *inputs: str, into: str = "", **attributes: object) -> str:
        name = into or f"mixed_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def mix(self, x: str, shape: Sequence[int], matrix: Callable[[int], np.ndarray]) -> str:
        """Multiply every axis of `x` by a matrix of its own, but for very long ones."""
        for axis, size in enumerate(shape):
            if size > LONGEST:
                continue
            order = [*(i for i in range(len(shape)) if i != axis), axis]
            x = self.op("Transpose", x, perm=order)
            x = self.op("MatMul", x, self.constant(matrix(size).astype(np.float32)))
            x = self.op("Transpose", x, perm=np.argsort(order).tolist())
        return x

    def means(self, size: int) -> np.ndarray:
        """A matrix whose columns are weights of a mean: what is computed stays in the range of the data."""
        weight = self.rng.random((size, size)) ** 3 + 1e-3 + np.eye(size)
        return weight / weight.sum(0)

    def permutation(self, size: int) -> np.ndarray:
        return self.rng.permutation(np.eye(size))

    def fed(self, data: np.ndarray) -> str:
        """The data, but as far as the graph tells from an input of the model."""
        name = f"fed_{len(self.inputs)}"
        elem_type = helper.np_dtype_to_tensor_dtype(data.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, elem_type, data.shape))
        nothing = self.op("Mul", name, self.constant(np.array(0, data.dtype)))
        return self.op("Add", nothing, self.constant(data))

    def read(self, value: onnx.ValueInfoProto, data: np.ndarray) -> None:
        """An input of the case, computed by mixers, which only permute what is not a float."""
        elem_type = value.type.tensor_type.elem_type
        matrix = self.means if elem_type in FLOATS else self.permutation
        with np.errstate(over="ignore"):  # what is beyond float32 is infinite
            values = np.nan_to_num(data.astype(np.float32), posinf=9, neginf=-9)
        x = self.mix(self.fed(values), data.shape, matrix)
        # as in `write`, this keeps onnxruntime 1.19 from fusing Transpose and Gemm
        x = self.op("Add", x, self.constant(np.zeros(data.shape, np.float32)))
        self.op("Cast", x, into=value.name, to=elem_type)

    def write(self, value: onnx.ValueInfoProto) -> None:
        """An output of the case, read by mixers."""
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        sizes = [size if size > LONGEST else 2 for size in shape]
        x = self.op("Cast", value.name, to=FLOAT)
        # onnxruntime 1.19 fuses Gemm and Transpose and computes something else where beta is not 1
        x = self.op("Sub", x, self.constant(np.array(0.25, np.float32)))
        x = self.mix(x, shape, lambda size: self.rng.standard_normal((size, 2)))
        name = self.op("Identity", x, into=f"read_{value.name}")
        self.outputs.append(helper.make_tensor_value_info(name, FLOAT, sizes))


def wrap(case: Case, computed: str) -> onnx.ModelProto:
    """The case between mixers.

    `computed` says which of its inputs are: "first" (of its float inputs), "floats" (the others being initializers)
    or "runtime" (as "floats", the others being unknown before the model runs).
    """
    graph = case.model.graph
    wrapper = Wrapper(np.random.default_rng(len(case.name)))
    if not all(v.type.HasField("tensor_type") for v in [*graph.input, *graph.output]):
        raise CannotWrap("an input or output is a sequence or an optional")
    with_axes = [v for v in graph.input if case.data[v.name].ndim]
    floats = [v.name for v in with_axes if v.type.tensor_type.elem_type in FLOATS]
    chosen = floats or [v.name for v in with_axes]
    for value in graph.input:
        data, elem_type = case.data[value.name], value.type.tensor_type.elem_type
        if elem_type not in TYPES:
            raise CannotWrap(f"an input has type {TensorProto.DataType.Name(elem_type)}")
        if not data.size and value.name in chosen:
            raise CannotWrap("an input is empty")
        if value.name in (chosen[:1] if computed == "first" else chosen):
            wrapper.read(value, data)
        elif computed == "runtime" and elem_type in (TensorProto.INT64, TensorProto.INT32):
            wrapper.nodes.append(helper.make_node("Identity", [wrapper.fed(data)], [value.name]))
        else:
            wrapper.constant(data, value.name)
    wrapper.nodes += graph.node
    for value in graph.output:
        if value.type.tensor_type.elem_type not in TYPES:
            kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            raise CannotWrap(f"an output has type {kind}")
        wrapper.write(value)
    if not wrapper.inputs:
        raise CannotWrap("no input has an axis")
    wrapper.initializers += graph.initializer
    wrapped = helper.make_graph(
        wrapper.nodes, case.name, wrapper.inputs, wrapper.outputs, wrapper.initializers
    )
    imports = [helper.make_opsetid(o.domain, max(o.version, 7)) for o in case.model.opset_import]
    return helper.make_model(wrapped, opset_imports=imports, ir_version=max(case.model.ir_version, 4))


VARIANTS = ("first", "floats", "runtime")
STORED = ("pytorch-operator", "pytorch-converted", "simple")
# Rules that none of the standard's cases reaches, and why.
UNREACHED = {
    "Upsample": "removed from the standard in opset 10",
    "Optional": "makes an optional, which no mixer reads",
    "OptionalGetElement": "reads an optional",
    "CastLike": "its cases have element types that no installed runtime casts",
    "ConstantOfShape": "its input is a shape, which must not be computed by mixers",
    "CumProd": "nothing installed runs its cases",
    "GlobalLpPool": "has no case",
    "MaxRoiPool": "has no case",
}
# What is kept whole needs no case that reaches it.
WHOLE_KEPT = " ".join(KEPT.values()).split()
# What no two runs agree on.
RANDOM = "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()


@cache
def cases() -> dict[str, list[Case]]:
    """All cases, by the operator that they are for; the expanded ones after the plain ones."""
    found: dict[str, list[Case]] = defaultdict(list)
    operator: dict[str, str] = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        made = sorted(collect_testcases(None), key=lambda case: "_expanded" in case.name)
    for case in made:
        fed = [
            numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in case.data_sets[0][0]
        ]
        arrays = [np.asarray(x) for x in fed if isinstance(x, np.ndarray | np.generic)]
        if len(arrays) == len(case.model.graph.input):
            stem = case.name.split("_expanded")[0]
            op_type = operator.setdefault(stem, case.model.graph.node[0].op_type)
            data = {value.name: x for value, x in zip(case.model.graph.input, arrays, strict=True)}
            found[op_type].append(Case(case.name, case.model, data))
    return found


def stored_cases(kind: str) -> Iterator[Case]:
    """Cases that come as files: small models of the first exporters, of opset 6 to 9."""
    for case in load_model_tests(kind=kind):
        model = onnx.load(Path(case.model_dir) / "model.onnx")
        fed = [v for v in model.graph.input if v.name not in {t.name for t in model.graph.initializer}]
        files = sorted((Path(case.model_dir) / "test_data_set_0").glob("input_*.pb"))
        if len(files) == len(fed) and all(v.type.HasField("tensor_type") for v in fed):
            tensors = (onnx.load_tensor(file) for file in files)
            data = {v.name: numpy_helper.to_array(t) for v, t in zip(fed, tensors, strict=True)}
            del model.graph.input[:]
            model.graph.input.extend(fed)
            yield Case(case.name, model, data)


def check(chosen: Sequence[Case], variants: Sequence[str]) -> tuple[int, Counter[str]]:
    """Check cases; how many were, and why others were not."""
    checked, left_out = 0, Counter[str]()
    for case in chosen:
        for variant in variants:
            try:
                model = wrap(case, variant)
                onnx.shape_inference.infer_shapes(model, strict_mode=True)
                run(model, feeds_of(load(model)))
            except CannotWrap as reason:
                left_out[str(reason)] += 1
                continue
            except onnx.shape_inference.InferenceError:
                left_out["onnx refuses the shapes of the case itself"] += 1
                continue
            except (ModelError, UnsupportedError) as reason:
                left_out[f"nothing installed runs it: {str(reason)[:80]}"] += 1
                continue
            try:
                check_exact(model, seed=1)
            except Exception as error:
                raise AssertionError(f"{case.name} with {variant} computed: {error!r}") from error
            checked += 1
    return checked, left_out


def spread(chosen: Sequence[Case], count: int) -> list[Case]:
    """At most `count` of the cases, evenly spaced."""
    step = max(len(chosen) / count, 1)
    return [chosen[int(i * step)] for i in range(min(count, len(chosen)))]


STANDARD = [
    name for name in ops.rule.op_types() if "::" not in name and onnx.defs.has(name) and name not in RANDOM
]


@pytest.mark.parametrize("op_type", STANDARD)
def test_some_cases(op_type: str) -> None:
    plain = [case for case in cases()[op_type] if "_expanded" not in case.name]
    checked, left_out = check(spread(plain, 2), ["first"])
    if not checked:
        pytest.skip(f"{op_type}: {UNREACHED.get(op_type) or dict(left_out)}")


@pytest.mark.long
@pytest.mark.parametrize("op_type", STANDARD)
def test_all_cases(op_type: str, capsys: pytest.CaptureFixture[str]) -> None:
    checked, left_out = check(cases()[op_type], VARIANTS)
    with capsys.disabled():
        print(f"\n{op_type}: {checked} checked, left out: {dict(left_out)}")
    assert checked or op_type in UNREACHED or op_type in WHOLE_KEPT


@pytest.mark.long
@pytest.mark.parametrize("kind", STORED)
def test_stored_cases(kind: str) -> None:
    checked, left_out = check(list(stored_cases(kind)), ["first"])
    assert checked > sum(left_out.values()), left_out
