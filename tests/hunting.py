"""The command line of the fuzzers: for so many minutes, seed after seed, one line a fault."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def hunt(check: Callable[[int], object], start: Callable[[], None] | None = None) -> int:
    """Call `check` with one seed after another, in processes begun by `start`; the exit code is 1 if any raised."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    options = parser.parse_args()
    seed, faults, end = options.seed, 0, time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        with ProcessPoolExecutor(
            1, initializer=start
        ) as pool:  # a crash of the runtime is a fault, not the end
            try:
                pool.submit(_several, check, seed, end).result()
            except Exception as error:
                where, what = error.args if isinstance(error, Fault) else (seed, repr(error))
                print(f"seed {where}: {what}", flush=True)
                faults, seed = faults + 1, where + 1
            else:
                seed += BATCH
    print(f"{seed - options.seed} seeds from {options.seed}, {faults} faults")
    return int(faults > 0)


BATCH = 50  # seeds that share a process, so that what leaks goes with it


class Fault(Exception):
    """A seed, and what went wrong with it."""


def _several(check: Callable[[int], object], first: int, end: float) -> None:
    for seed in range(first, first + BATCH):
        if time.monotonic() > end:
            return
        try:
            check(seed)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise Fault(seed, text[:300]) from None
