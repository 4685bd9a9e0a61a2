"""Memory that is not needed any more, given back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys

_THRESHOLD = -3  # M_MMAP_THRESHOLD


def give_back() -> None:
    """Collect what hangs together in cycles, as sessions do, and return free memory, which glibc keeps otherwise."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def keep_large_blocks_apart() -> None:
    """Let blocks of a megabyte go back to the system as soon as they are freed; glibc would keep ever larger ones."""
    if sys.platform == "linux":
        option = getattr(ctypes.CDLL(None), "mallopt", None)
        if option is not None:
            option(_THRESHOLD, 1 << 20)
