"""A supernet of 8 layers with 4 alternatives each: what gates choose beside choices drawn at random.

    python benchmarks/choices.py [--seeds 3] [--targets 1 0.3] [--epochs 3]

Fashion-MNIST (Debian package dataset-fashion-mnist): 20,000 images to learn from, accuracy on all 10,000 test images,
which no choice sees. Gates choose while the supernet trains from random weights, and what they chose trains on; a
random choice that meets the same target trains for as many samples from the start. Rows are kept in a file as they
end: a run goes on where it was left.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fashion import images
from onnx import TensorProto, helper, numpy_helper

import tgonnx as tg

ROWS = Path(__file__).resolve().parent / "results" / "choices.jsonl"
KEYS = ("how", "target", "seed", "epochs")  # of a row
LAYERS, IMAGES, CHOOSE = 8, 20000, "meet_*=1"


def supernet(seed: int = 0) -> onnx.ModelProto:
    """16 channels at 14 x 14, then 32 at 7 x 7; each layer sums a convolution, a separable one of 5 x 5, a pointwise
    one and a skip, normalises and cuts off."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    stored: dict[str, np.ndarray] = {}

    def conv(source: str, out: str, shape: tuple[int, ...], stride: int = 1) -> str:
        fan = int(np.prod(shape[1:]))
        stored[f"{out}.w"] = rng.normal(0, np.sqrt(2 / fan), shape).astype(np.float32)
        pad, group = shape[2] // 2, shape[0] if shape[1] == 1 and shape[0] > 1 and shape[2] > 1 else 1
        group = group if source != "image" else 1
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{out}.w"],
                [out],
                name=out,
                kernel_shape=shape[2:],
                pads=[pad] * 4,
                strides=[stride] * 2,
                group=group,
            )
        )
        return out

    def normalised(source: str, channels: int, out: str) -> str:
        for ending, value in (("scale", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)):
            stored[f"{out}.{ending}"] = np.full(channels, value, np.float32)
        names = [f"{out}.{ending}" for ending in ("scale", "bias", "mean", "var")]
        nodes.append(helper.make_node("BatchNormalization", [source, *names], [f"{out}.n"], name=f"{out}.n"))
        nodes.append(helper.make_node("Relu", [f"{out}.n"], [out], name=out))
        return out

    value, channels = normalised(conv("image", "stem", (16, 1, 3, 3), 2), 16, "x0"), 16
    for layer in range(LAYERS):
        if layer == LAYERS // 2:
            value, channels = normalised(conv(value, "down", (32, 16, 3, 3), 2), 32, "down.x"), 32
        dense = conv(value, f"dense_{layer}", (channels, channels, 3, 3))
        deep = conv(value, f"deep_{layer}", (channels, 1, 5, 5))
        separable = conv(deep, f"separable_{layer}", (channels, channels, 1, 1))
        point = conv(value, f"point_{layer}", (channels, channels, 1, 1))
        nodes.append(
            helper.make_node("Sum", [dense, separable, point, value], [f"meet_{layer}"], name=f"meet_{layer}")
        )
        value = normalised(f"meet_{layer}", channels, f"x{layer + 1}")
    stored["head.w"] = rng.normal(0, 0.1, (channels, 10)).astype(np.float32)
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "head.w"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "supernet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(how: str, target: float, seed: int, values: dict[str, np.ndarray], epochs: int) -> dict[str, Any]:
    """One choice, trained, and its accuracy on the test images."""
    began, model, share = time.process_time(), supernet(seed), f"flops={target:g}"
    common: dict[str, Any] = {"epochs": epochs, "from_scratch": True, "lr": 3e-3, "seed": seed, "threads": 1}
    common["verify_seconds"] = 1.0
    if how == "gates":
        result = tg.prune(model, values, share, choose=CHOOSE, **common)
    else:
        mask = tg.select(model, share, "random", seed, choose=CHOOSE)
        result = tg.prune(model, values, mask=mask, **common)
    gone = {*result.mask.branches}
    kept = [n for layer in range(LAYERS) for n in range(4) if f"meet_{layer}[{n}]" not in gone]
    return {
        "how": how, "target": target, "seed": seed, "epochs": epochs, "accuracy": result.after.metric,
        "left": result.after.cost.flops / result.before.cost.flops, "kept": kept,
        "seconds": time.process_time() - began,
    }  # fmt: skip


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--targets", type=float, nargs="+", default=[1.0, 0.3])
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    values = images(packed=False)
    values |= {name: values[name][:IMAGES] for name in ("image", "label")}
    values["scale"] = np.array(1 / 255, np.float32)
    known = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    for seed in range(given.seeds):
        for target in given.targets:
            for how in ("gates", "random"):
                if (how, target, seed, given.epochs) in {tuple(row[key] for key in KEYS) for row in known}:
                    continue
                known.append(run(how, target, seed, values, given.epochs))
                with ROWS.open("a") as stream:
                    stream.write(json.dumps(known[-1]) + "\n")
                print(known[-1], flush=True)
    by_row: dict[tuple[float, str], list[dict[str, Any]]] = defaultdict(list)
    for row in known:
        if row["epochs"] == given.epochs:
            by_row[row["target"], row["how"]].append(row)
    print(
        "| target | choice | FLOPs left | accuracy | of each seed | CPU seconds |\n|---|---|---|---|---|---|"
    )
    for (target, how), rows in by_row.items():
        left, mean, seconds = (
            float(np.mean([row[key] for row in rows])) for key in ("left", "accuracy", "seconds")
        )
        each = ", ".join(f"{row['accuracy']:.2%}" for row in rows)
        print(f"| flops={target:g} | {how} | {left:.1%} | {mean:.2%} | {each} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
