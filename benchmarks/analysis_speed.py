"""CPU time of each stage per node, for graphs of growing size: it should not grow with them.

    python benchmarks/analysis_speed.py [--nodes 100 1000 10000 50000] [--shapes blocks reshapes layers]
    python benchmarks/analysis_speed.py --graphs FOLDER [--torch-python PYTHON] [--times 3]

The second form is load + analyze + apply of the graphs in a folder beside Torch-Pruning's build + step on the same
architectures (`beside_torch.py` names them), where torch, torchvision, timm and torch-pruning are installed, be it for
another interpreter. One thread, a process for each measurement, the two in turns, the least of several times.

`blocks` are inverted residual blocks, whose depthwise convolutions each offer a choice; `reshapes` a chain of
reshapes between [heads * dim] and [heads, dim], in which one choice decides all; `layers` a plain perceptron.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from beside_torch import ARCHITECTURES
from onnx import TensorProto, helper, numpy_helper
from tables import as_markdown, graphs

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


def seconds(source: onnx.ModelProto | Path) -> Iterator[float]:
    """CPU time of each of `STAGES`."""
    started = time.process_time()
    model = tg.load(source)
    yield (now := time.process_time()) - started
    coupling = tg.analyze(model)
    yield (then := time.process_time()) - now
    mask = tg.select(coupling, tg.Target(params=0.5), "l2")
    yield (now := time.process_time()) - then
    insert_gates(model.proto, coupling, mask)
    yield (then := time.process_time()) - now
    remove_channels(model.proto, coupling, mask)
    yield time.process_time() - then


def growing(shapes: Sequence[str], sizes: Sequence[int]) -> None:
    """The table for graphs of growing size."""
    print("CPU time, microseconds a node\n")
    print(as_markdown(("graph", "nodes", *STAGES), []))
    for shape in shapes:
        for nodes in sizes:
            proto = MAKERS[shape](max(1, nodes // NODES_EACH[shape]))
            count = len(proto.graph.node)
            per_node = [f"{1e6 * s / count:.0f}" for s in seconds(proto)]
            print("| " + " | ".join((shape, f"{count:,}", *per_node)) + " |", flush=True)


def one(path: Path) -> None:
    """What a process of its own prints: seconds of load, analyze and apply."""
    first = reshapes(4)  # what is imported at the first use counts for neither side
    first.graph.node.insert(0, helper.make_node("Neg", ["w1"], ["n"]))
    for proto in (blocks(2), first):
        list(seconds(proto))
    load, analyze, _, _, apply = seconds(path)
    print(json.dumps([load, analyze, apply]))


def beside(folder: Path, torch_python: str, times: int) -> None:
    """The table of real graphs beside Torch-Pruning, and the median of what ours takes in terms of that."""
    torch_script = Path(__file__).with_name("beside_torch.py")
    ratios = []
    print(as_markdown(("graph", "load", "analyze", "apply", "sum", "build", "step", "sum", "ratio"), []))
    for name, path in graphs(folder):
        architecture, _, variant = name.partition(".")
        if architecture not in ARCHITECTURES or variant not in ("", "ts"):
            continue
        ours, theirs = list[list[float]](), list[list[float]]()
        for _ in range(times):
            ours += measured([sys.executable, __file__, "--one", str(path)])
            theirs += measured([torch_python, str(torch_script), architecture])
            if not ours or not theirs:
                break
        cells = [*_cells(ours, 4), *_cells(theirs, 3)]
        if ours and theirs:
            ratios.append(min(map(sum, ours)) / min(map(sum, theirs)))
            cells.append(f"{ratios[-1]:.2f}")
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    if ratios:
        print(f"\nmedian ratio of {len(ratios)}: {statistics.median(ratios):.2f}")


def _cells(runs: list[list[float]], count: int) -> list[str]:
    """The parts of the fastest run and their sum."""
    best = min(runs, key=sum, default=[])
    return [f"{part:.3f}" for part in (*best, sum(best))] if best else ["fails"] * count


def measured(command: list[str]) -> list[list[float]]:
    """The seconds that a process prints, in a list; an empty one if it fails or takes two minutes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        return [[float(part) for part in json.loads(done.stdout.splitlines()[-1])]]
    except (subprocess.SubprocessError, ValueError, IndexError):
        return []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--shapes", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    parser.add_argument("--graphs", type=Path)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one)
    elif arguments.graphs:
        beside(arguments.graphs, arguments.torch_python, arguments.times)
    else:
        growing(arguments.shapes, arguments.nodes)


if __name__ == "__main__":
    main()
