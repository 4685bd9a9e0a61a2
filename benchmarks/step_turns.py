"""What train_step.py and the processes that it measures share: the networks, and taking turns.

Each way to train is a process of its own: it makes its step, and then makes so many steps whenever it is told to, while
the others wait. So every way sees the same machine, and memory is that of one way.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SETTLE = 2  # steps before anything is measured: what is compiled, allocated or packed at first


@dataclass(frozen=True)
class Network:
    """A network by name, a batch for it and its number of classes; with `tokens`, inputs are numbers below that."""

    name: str
    batch: int
    shape: tuple[int, ...]
    classes: int = 10
    tokens: int = 0
    sequence: bool = False  # a label for each place

    def inputs(self) -> np.ndarray:
        """A batch of noise."""
        rng, shape = np.random.default_rng(0), (self.batch, *self.shape)
        return (
            rng.integers(0, self.tokens, shape) if self.tokens else rng.normal(size=shape).astype(np.float32)
        )

    def labels(self) -> np.ndarray:
        """Labels at random."""
        shape = (self.batch, *self.shape) if self.sequence else (self.batch,)
        return np.random.default_rng(1).integers(0, self.classes, shape)


def networks() -> Sequence[Network]:
    """Four CNNs and three transformers."""
    return (
        Network("resnet20", 64, (1, 28, 28)),
        Network("resnet56", 64, (3, 32, 32)),
        Network("resnet18", 16, (3, 64, 64)),
        Network("mobilenet_v2", 16, (3, 96, 96)),
        Network("vit_tiny", 8, (3, 64, 64)),
        Network("bert", 8, (64,), tokens=1000),
        Network("gpt", 8, (64,), classes=1000, tokens=1000, sequence=True),
    )


@dataclass(frozen=True)
class Turn:
    """What a step took in a turn: seconds of the processor and of the clock."""

    processor: float
    clock: float


class Way:
    """A process that trains when it is told to."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.loss = float(self._read()["loss"])

    def turn(self, steps: int) -> Turn:
        """So many steps, while this process waits."""
        found = self._ask(str(steps))
        return Turn(found["processor"] / steps, found["clock"] / steps)

    def close(self) -> float:
        """End the process; the most memory, in MB, that it had beyond what it had before it made anything."""
        memory = self._ask("0")["memory"]
        self._process.wait()
        return memory

    def _ask(self, line: str) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a way ended with code {self._process.wait()}: {self._process.args}")
        found: dict[str, float] = json.loads(line)
        return found


def serve(make: Callable[[], Callable[[], float]]) -> None:
    """Be a `Way`: make a step, then do what stdin says."""
    before = _resident()
    step = make()
    _forget_peak()
    losses = [step() for _ in range(SETTLE)]
    print(json.dumps({"loss": losses[0]}), flush=True)
    for line in sys.stdin:
        if int(line) == 0:
            print(json.dumps({"memory": (_peak() - before) / 1e6}), flush=True)
            return
        clock, processor = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        found = {"processor": time.process_time() - processor, "clock": time.perf_counter() - clock}
        print(json.dumps(found), flush=True)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _forget_peak() -> None:
    """What was needed to build a step is not what a step needs."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
