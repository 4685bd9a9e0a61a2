"""What a small file may ask for: far more than real models need, far less than a machine has.

A few hundred bytes can declare a tensor of a billion gigabytes or, by functions that call each other, a billion nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import onnx

from tgonnx.errors import ModelError
from tgonnx.io.visible import shortened

MAX_ELEMENTS = 2**31  # of one value at the sizes that analysis tries: 8 GiB of float32
MAX_NODES = 100_000  # of a model with functions, when all of them are inlined
MAX_DEPTH = 64  # of subgraphs and functions within each other


def check_elements(shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raise `ModelError`, starting with `name`, if a value has more than `MAX_ELEMENTS`, or an axis less than none."""
    for value, shape in shapes.items():
        count = max(math.prod(shape), *shape) if shape else 1
        if count > MAX_ELEMENTS:
            reason = f"{count:.1e} elements, the limit is {MAX_ELEMENTS:.1e}"
        elif min(shape, default=0) < 0:
            reason = "a negative size"
        else:
            continue
        raise ModelError(
            f"{name}: {shortened(value, 100)!r} ({'x'.join(map(str, shape))}) would have {reason}"
        )


def check_inputs(model: onnx.ModelProto, name: str) -> None:
    """Raise `ModelError`, starting with `name`, if the fixed sizes of an input alone are too large."""
    dims = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    check_elements({key: tuple(max(dim.dim_value, 1) for dim in axes) for key, axes in dims.items()}, name)


def check_structure(model: onnx.ModelProto, name: str) -> None:
    """Raise `ModelError`, starting with `name`, if nodes are too many, or too deep within each other."""
    counter = _Counter(model, name)
    for domain, op_type in counter.functions:
        counter.function(domain, op_type, 1)
    counter.nodes(model.graph.node, 0)


class _Counter:
    """Counts nodes, and how deep they are, as if every function were inlined; looks at each function once."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self.functions = {(_plain(f.domain), f.name): f for f in model.functions}
        self.name = name
        self.limit = MAX_NODES if self.functions else math.inf
        self._found: dict[tuple[str, str], tuple[int, int] | None] = {}  # None: being looked at

    def function(self, domain: str, op_type: str, depth: int) -> tuple[int, int]:
        """Nodes and levels of a function that is called `depth` levels below the graph."""
        key = (domain, op_type)
        if key not in self._found:
            self._found[key] = None
            self._found[key] = self.nodes(self.functions[key].node, depth)
        found = self._found[key]
        if found is None:
            raise ModelError(f"{self.name}: function {op_type!r} calls itself")
        return found

    def nodes(self, nodes: Iterable[onnx.NodeProto], depth: int) -> tuple[int, int]:
        count = levels = 0
        parts = self._parts(nodes, depth + 1) if depth <= MAX_DEPTH else ()
        for inner, below in parts:
            count, levels = count + inner, max(levels, below)
        if depth + levels > MAX_DEPTH:
            raise ModelError(f"{self.name}: subgraphs or functions are more than {MAX_DEPTH} deep")
        if count > self.limit:
            raise ModelError(f"{self.name}: more than {MAX_NODES:,} nodes with all functions inlined")
        return count, levels + 1

    def _parts(self, nodes: Iterable[onnx.NodeProto], depth: int) -> Iterator[tuple[int, int]]:
        for node in nodes:
            key = (_plain(node.domain), node.op_type)
            yield self.function(*key, depth) if key in self.functions else (1, 0)
            for attribute in node.attribute:
                for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                    yield self.nodes(graph.node, depth)


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
