"""Reading ahead: the next batches are made in the background while one is being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
DEPTH, WORKERS = 3, 2  # decoding lets other threads run; more of them would take the training's cores


def read_ahead(make: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`make(item)` for each item, in order, a few ahead of the caller. What `make` raises is raised here."""
    pool = ThreadPoolExecutor(WORKERS, "tgonnx-read")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > DEPTH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # the caller may have stopped in the middle
        pool.shutdown(wait=False, cancel_futures=True)
