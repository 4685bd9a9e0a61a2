"""Latency of several models, measured side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.errors import UsageError
from tgonnx.runtime.sessions import open_session

_WARM_UP = 3


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run: the median and the 90th percentile; `ran_by` names the runtime."""

    p50: float
    p90: float
    runs: int
    ran_by: str


def latency(
    models: Sequence[onnx.ModelProto],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    repeats: int = 50,
    threads: int = 0,
    seconds: float = 10.0,
) -> list[Latency]:
    """Time the models in turns, each on its own feeds, so that all of them meet the same noise.

    Stops after `repeats` rounds, or after `seconds` once there were five.

    Raises `UsageError` for wrong numbers, `UnsupportedError` or `ModelError` for a model that does not run.
    """
    if repeats < 1 or threads < 0:
        raise UsageError("repeats must be at least 1 and threads at least 0")
    sessions = [open_session(model, threads) for model in models]
    for session, feed in zip(sessions, feeds, strict=True):
        for _ in range(_WARM_UP):
            session.run(feed)
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    for done in range(repeats):
        if done >= 5 and time.perf_counter() > end:
            break
        for session, feed, measured in zip(sessions, feeds, times, strict=True):
            start = time.perf_counter()
            session.run(feed)
            measured.append((time.perf_counter() - start) * 1000)
    return [
        Latency(float(np.median(measured)), float(np.percentile(measured, 90)), len(measured), session.ran_by)
        for session, measured in zip(sessions, times, strict=True)
    ]
