"""CPU time of each stage per node, for graphs of growing size: it should not grow with them.

    python benchmarks/analysis_speed.py [--nodes 100 1000 10000 50000] [--shapes blocks reshapes layers]

`blocks` are inverted residual blocks, whose depthwise convolutions each offer a choice; `reshapes` a chain of
reshapes between [heads * dim] and [heads, dim], in which one choice decides all; `layers` a plain perceptron.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tables import as_markdown

import tgonnx as tg
from tgonnx.passes.insert_gates import insert_gates
from tgonnx.passes.remove_channels import remove_channels

STAGES = ("load", "analyze", "select", "gate", "apply")
SIZES = (100, 1000, 10_000, 50_000)


class _Chain:
    """Nodes that each take what the last one made."""

    def __init__(self, channels: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.last, self.channels = "x", channels
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        self.weights.append(
            numpy_helper.from_array(self.rng.normal(size=shape).astype(np.float32), f"w{len(self.weights)}")
        )
        return self.weights[-1].name

    def sizes(self, *sizes: int) -> str:
        self.weights.append(numpy_helper.from_array(np.array(sizes, np.int64), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def then(self, op_type: str, *others: str, **attributes: object) -> str:
        self.nodes.append(
            helper.make_node(op_type, [self.last, *others], [f"v{len(self.nodes)}"], **attributes)
        )
        self.last = self.nodes[-1].output[0]
        return self.last

    def model(self, inputs: Sequence[int], outputs: Sequence[int]) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "y"
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)
        graph = helper.make_graph(self.nodes, "chain", [x], [y], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def blocks(count: int, channels: int = 8) -> onnx.ModelProto:
    """Inverted residual blocks of six nodes: 1x1 up, depthwise 3x3, 1x1 down, and the sum."""
    chain, wide = _Chain(channels), 2 * channels
    chain.then("Conv", chain.weight(channels, 3, 1, 1))
    for _ in range(count):
        start = chain.last
        chain.then("Conv", chain.weight(wide, channels, 1, 1))
        chain.then("Relu")
        chain.then("Conv", chain.weight(wide, 1, 3, 3), group=wide, pads=[1, 1, 1, 1])
        chain.then("Relu")
        chain.then("Conv", chain.weight(channels, wide, 1, 1))
        chain.then("Add", start)
    chain.then("Conv", chain.weight(2, channels, 1, 1))
    return chain.model([1, 3, 8, 8], [1, 2, 8, 8])


def reshapes(count: int, heads: int = 4, dim: int = 8) -> onnx.ModelProto:
    """A chain of reshapes between two matrix products."""
    chain, channels = _Chain(heads * dim), heads * dim
    chain.then("MatMul", chain.weight(3, channels))
    for number in range(count // 2 * 2):
        chain.then("Reshape", chain.sizes(0, channels) if number % 2 else chain.sizes(0, heads, dim))
    chain.then("MatMul", chain.weight(channels, 2))
    return chain.model([1, 3], [1, 2])


def layers(count: int, channels: int = 8) -> onnx.ModelProto:
    """A perceptron: `count` pairs of a matrix product and an activation."""
    chain = _Chain(channels)
    chain.then("MatMul", chain.weight(3, channels))
    for _ in range(count):
        chain.then("Relu")
        chain.then("MatMul", chain.weight(channels, channels))
    chain.then("Relu")
    chain.then("MatMul", chain.weight(channels, 2))
    return chain.model([1, 3], [1, 2])


NODES_EACH = {"blocks": 6, "reshapes": 1, "layers": 2}
MAKERS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "blocks": blocks,
    "reshapes": reshapes,
    "layers": layers,
}


def seconds(proto: onnx.ModelProto) -> Iterator[float]:
    """CPU time of each of `STAGES`."""
    started = time.process_time()
    model = tg.load(proto)
    yield (now := time.process_time()) - started
    coupling = tg.analyze(model)
    yield (then := time.process_time()) - now
    mask = tg.select(coupling, tg.Target(params=0.5), "l2")
    yield (now := time.process_time()) - then
    insert_gates(model.proto, coupling, mask)
    yield (then := time.process_time()) - now
    remove_channels(model.proto, coupling, mask)
    yield time.process_time() - then


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--shapes", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    arguments = parser.parse_args()
    print("CPU time, microseconds a node\n")
    print(as_markdown(("graph", "nodes", *STAGES), []))
    for shape in arguments.shapes:
        for nodes in arguments.nodes:
            proto = MAKERS[shape](max(1, nodes // NODES_EACH[shape]))
            count = len(proto.graph.node)
            per_node = [f"{1e6 * s / count:.0f}" for s in seconds(proto)]
            print("| " + " | ".join((shape, f"{count:,}", *per_node)) + " |", flush=True)


if __name__ == "__main__":
    main()
