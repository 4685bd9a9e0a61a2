"""Latency of several models, measured side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.errors import UsageError
from tgonnx.runtime.sessions import open_session

_WARM_UP = 3
_LEAST = 5  # rounds, however long they take


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run: the median and the 90th percentile of wall time, the median of CPU time of all threads.

    `share` is the median over rounds of the time beside that of the first model in the same round: CPU time on one
    thread, which other processes do not disturb, else wall time. `ran_by` names the runtime.
    """

    p50: float
    p90: float
    runs: int
    ran_by: str
    cpu: float = 0.0
    share: float = 1.0


def latency(
    models: Sequence[onnx.ModelProto],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    repeats: int = 50,
    threads: int = 0,
    seconds: float = 10.0,
) -> list[Latency]:
    """Time the models in turns, each on its own feeds, so that all of them meet the same noise.

    Waiting threads sleep: if they spun, as they do by default where a model is alone, those of one model would take the
    time of the next (what is left of a ResNet-18 was 0.9 then, and 0.63 with threads that sleep).

    Stops after `repeats` rounds, or after `seconds` once there were five.

    Raises `UsageError` for wrong numbers, `UnsupportedError` or `ModelError` for a model that does not run.
    """
    if repeats < 1 or threads < 0:
        raise UsageError("repeats must be at least 1 and threads at least 0")
    sessions = [open_session(model, threads) for model in models]
    runs = [partial(session.run, feed) for session, feed in zip(sessions, feeds, strict=True)]
    return in_turns(runs, [session.ran_by for session in sessions], repeats, threads, seconds)


def in_turns(
    runs: Sequence[Callable[[], object]],
    ran_by: Sequence[str],
    repeats: int,
    threads: int = 0,
    seconds: float = 10.0,
) -> list[Latency]:
    """Time some functions in turns, after each was called a few times; how long as for `latency`."""
    for run in runs:
        for _ in range(_WARM_UP):
            run()
    rounds = list[list[tuple[float, float]]]()  # wall and CPU time of each
    end = time.perf_counter() + seconds
    while len(rounds) < repeats and (len(rounds) < _LEAST or time.perf_counter() < end):
        rounds.append([_timed(run) for run in runs])
    taken = np.array(rounds) * 1000  # [rounds, functions, 2]
    compared = taken[:, :, 1] if threads == 1 else taken[:, :, 0]
    shares = np.median(compared / np.maximum(compared[:, :1], 1e-9), axis=0)
    return [
        Latency(
            float(np.median(wall)), float(np.percentile(wall, 90)), len(rounds), name, float(np.median(cpu)),
            float(share),
        )
        for name, wall, cpu, share in zip(ran_by, taken[:, :, 0].T, taken[:, :, 1].T, shares, strict=True)
    ]  # fmt: skip


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call: wall time, CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu
