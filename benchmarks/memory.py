"""Peak memory of commands without data, in sizes of the model's file.

    python benchmarks/memory.py [vgg transformer] [--commands apply,verify] [--megabytes 94] [--most 4]

Each command runs as a process of its own on a model with random weights, with a mask that keeps half of the FLOPs.
Every few milliseconds the memory of that process and of all processes below it is added up: anonymous memory and
mapped files, each page divided by the processes that share it (Pss of /proc/PID/smaps_rollup), and files that exist in
memory alone, whether they are mapped or not. `peak` is the largest sum; `base` is the same command on a model of the
same structure whose file is small: packages and interpreters. The ratio is (peak - base) / size of the file; the ratio
with the base is told beside it. Linux only. Exit code 1 where `apply` takes more than `--most`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "memory.jsonl"
COMMANDS = ("mask", "apply", "gate", "verify", "prune")
INTERVAL = 0.004  # seconds between two sums


class Network:
    """A graph that grows by layers, with random weights."""

    def __init__(self, name: str, shape: list[int | str]) -> None:
        self.name, self.shape, self.last = name, shape, "x"
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        """Of a variance that keeps numbers as large as they are."""
        scale = np.sqrt(2 / max(np.prod(shape[1:]) if len(shape) == 4 else shape[0], 1))
        return self.store((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def store(self, values: np.ndarray) -> str:
        name = f"w{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(values, name))
        return name

    def add(self, op_type: str, *inputs: str, **attributes: object) -> str:
        self.last = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [self.last], self.last, **attributes))
        return self.last

    def linear(self, x: str, n: int, m: int) -> str:
        """A product with a bias."""
        product = self.add("MatMul", x, self.weight(n, m))
        return self.add("Add", product, self.store(np.zeros(m, np.float32)))

    def model(self, outputs: int) -> onnx.ModelProto:
        x, y = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", self.shape), (self.last, [*self.shape[:1], *[None] * outputs]))
        )
        graph = helper.make_graph(self.nodes, self.name, [x], [y], self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def vgg(width: float) -> onnx.ModelProto:
    """Like VGG: 3 x 3 convolutions in five steps, then two wide layers; 64 x 64 pixels."""
    net = Network("vgg", ["N", 3, 64, 64])
    x, channels = "x", 3
    for step, count in ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)):
        for _ in range(count):
            wide = max(int(step * width) // 8 * 8, 8)
            x = net.add("Conv", x, net.weight(wide, channels, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
            x, channels = net.add("Relu", x), wide
        x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x, hidden = net.add("Flatten", x), max(int(1536 * width) // 8 * 8, 8)
    for n, m in ((4 * channels, hidden), (hidden, hidden)):
        x = net.add("Relu", net.linear(x, n, m))
    net.linear(x, hidden, 1000 if width > 0.1 else 10)
    return net.model(1)


def transformer(width: float) -> onnx.ModelProto:
    """Seven blocks of attention and a feed-forward part over sequences of 16 vectors; 8 heads."""
    size = max(int(512 * width) // 64 * 64, 64)
    net = Network("transformer", ["N", 16, size])
    stream = "x"

    def norm(x: str) -> str:
        ones, zeros = (net.store(make(size, np.float32)) for make in (np.ones, np.zeros))
        return net.add("LayerNormalization", x, ones, zeros)

    split = net.store(np.array([0, 0, 8, size // 8], np.int64))
    whole = net.store(np.array([0, 0, size], np.int64))
    root = net.store(np.array(np.sqrt(size / 8), np.float32))
    for _ in range(7):
        x = norm(stream)
        parts = [net.add("Reshape", net.linear(x, size, size), split) for _ in range(3)]
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        q, k, v = (net.add("Transpose", p, perm=o) for p, o in zip(parts, orders, strict=True))
        shares = net.add("Softmax", net.add("Div", net.add("MatMul", q, k), root), axis=-1)
        joined = net.add("Transpose", net.add("MatMul", shares, v), perm=[0, 2, 1, 3])
        stream = net.add("Add", stream, net.linear(net.add("Reshape", joined, whole), size, size))
        wide = net.add("Relu", net.linear(norm(stream), size, 4 * size))
        stream = net.add("Add", stream, net.linear(wide, 4 * size, size))
    net.linear(norm(stream), size, size)
    return net.model(2)


MODELS: dict[str, Callable[[float], onnx.ModelProto]] = {"vgg": vgg, "transformer": transformer}


def sized(make: Callable[[float], onnx.ModelProto], megabytes: float) -> onnx.ModelProto:
    """The model of about this size: parameters grow with the square of the width."""
    width = 1.0
    for _ in range(3):
        width *= (megabytes * 1e6 / make(width).ByteSize()) ** 0.5
    return make(width)


# --- measuring --------------------------------------------------------------------------------------


def below(root: int) -> list[int]:
    """The process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:  # it has ended
                continue
            parents.setdefault(int(text.rsplit(")", 1)[1].split()[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def memory_of(pids: list[int]) -> int:
    """Bytes that these processes hold together."""
    total = shared = 0
    files: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
            total += fields.get("Pss_Anon", 0) + fields.get("Pss_File", 0) + fields.get("SwapPss", 0)
            shared += fields.get("Pss_Shmem", 0)
            for handle in os.listdir(f"/proc/{pid}/fd"):
                place = os.readlink(f"/proc/{pid}/fd/{handle}")
                if place.startswith(("/memfd:", "/dev/shm/")) or place.endswith(" (deleted)"):
                    status = os.stat(f"/proc/{pid}/fd/{handle}")
                    files[(status.st_dev, status.st_ino)] = status.st_blocks * 512
        except OSError:  # it has ended
            continue
    return total + max(shared, sum(files.values()))


def peak(command: list[str]) -> tuple[int, float]:
    """The largest sum while the command runs, in bytes, and how long it took, in seconds. Raises if it fails."""
    start, most = time.monotonic(), 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, cwd=ROOT)
        while process.poll() is None:
            most = max(most, memory_of(below(process.pid)))
            time.sleep(INTERVAL)
        said.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: {said.read().decode()[-2000:]}")
    return most, time.monotonic() - start


def commands(model: Path, folder: Path, seconds: str) -> dict[str, list[str]]:
    """What is run, by name. Without data, prune makes up for what it cuts on random inputs."""
    tool = [sys.executable, "-m", "tgonnx"]
    mask, small = str(folder / f"{model.stem}.json"), str(folder / f"{model.stem}.small.onnx")
    out = ["-o", str(folder / f"{model.stem}.out.onnx"), "--overwrite", "-q"]
    within = ["--verify-seconds", seconds]
    return {
        "mask": [*tool, "mask", str(model), "--target", "flops=0.5", "-o", mask, "--overwrite", "-q"],
        "apply": [*tool, "apply", str(model), "--mask", mask, "-o", small, "--overwrite", "-q", *within],
        "gate": [*tool, "gate", str(model), "--mask", mask, *out, *within],
        "verify": [*tool, "verify", str(model), str(model), "-q"],
        "prune": [*tool, "prune", str(model), "--target", "flops=0.5", "--no-run-dir", *out, *within],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(MODELS)} (all)")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--megabytes", type=float, default=94)
    parser.add_argument("--seconds", default="20", help="--verify-seconds of the commands that have it")
    parser.add_argument("--most", type=float, default=4.0, help="sizes of the file that `apply` may take")
    parser.add_argument("--write", action="store_true", help=f"append rows to {RESULTS.name}")
    options = parser.parse_args()
    bad = False
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="tgonnx-") as name:
        folder = Path(name)
        for kind in options.models or MODELS:
            large, tiny = folder / f"{kind}.onnx", folder / f"tiny_{kind}.onnx"
            onnx.save(sized(MODELS[kind], options.megabytes), large)
            onnx.save(MODELS[kind](0.05), tiny)
            sizes = [commands(model, folder, options.seconds) for model in (large, tiny)]
            for command in COMMANDS:
                if command not in options.commands.split(",") and command != "mask":
                    continue  # the others need a mask
                (top, took), (base, _) = (peak(each[command]) for each in sizes)
                size = large.stat().st_size
                row = {
                    "model": kind,
                    "command": command,
                    "megabytes": round(size / 1e6, 1),
                    "peak_mb": round(top / 1e6),
                    "base_mb": round(base / 1e6),
                    "ratio": round((top - base) / size, 2),
                    "ratio_with_base": round(top / size, 2),
                    "seconds": round(took, 1),
                    "onnxruntime": onnxruntime.__version__,
                    "python": platform.python_version(),
                }
                print(json.dumps(row), flush=True)
                bad |= command == "apply" and (top - base) / size > options.most
                if options.write:
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
