"""The patches of an image that a kernel meets, as rows of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from tgonnx.graph.proto import attribute_of
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.products import Draw


@dataclass(frozen=True)
class Window:
    """How a kernel meets an image, with the attributes as they are."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    mode: str
    more: tuple[int, ...]  # rows added at the end of a transposed convolution's output

    @property
    def reach(self) -> tuple[int, ...]:
        return reach_of(self.kernel, self.dilations)

    def padding(self, space: tuple[int, ...]) -> list[tuple[int, int]]:
        """Before and behind each axis of an image of this size."""
        n = len(space)
        if not self.mode.startswith("SAME"):
            return [(0, 0) if self.mode == "VALID" else (self.pads[i], self.pads[n + i]) for i in range(n)]
        pairs = []
        for size, stride, reach in zip(space, self.strides, self.reach, strict=True):
            pairs.append(halves(same_padding(size, stride, reach), self.mode))
        return pairs


def reach_of(kernel: tuple[int, ...], dilations: tuple[int, ...]) -> tuple[int, ...]:
    """The extent of a dilated kernel."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))


def same_padding(size: int, stride: int, reach: int) -> int:
    """What SAME adds to an axis, at both ends together."""
    return max((-(-size // stride) - 1) * stride + reach - size, 0)


def halves(total: int, mode: str) -> tuple[int, int]:
    """Padding before and behind; SAME_UPPER puts the odd one behind."""
    small = total // 2
    return (small, total - small) if mode == "SAME_UPPER" else (total - small, small)


def window_of(node: NodeProto, kernel: tuple[int, ...]) -> Window:
    """The window of a convolution with a kernel of this size."""
    n = len(kernel)
    mode = attribute_of(node, "auto_pad", b"NOTSET").decode()
    return Window(
        kernel,
        tuple(attribute_of(node, "strides", [1] * n)),
        tuple(attribute_of(node, "dilations", [1] * n)),
        tuple(attribute_of(node, "pads", [0] * 2 * n)),
        mode,
        tuple(attribute_of(node, "output_padding", [0] * n)),
    )


def patches(x: Array, draw: Draw, window: Window, groups: int) -> Array:
    """The patches of images [samples, channels, *space] that the kernel meets: [groups, rows, terms]."""
    padded = np.pad(x, [(0, 0), (0, 0), *window.padding(x.shape[2:])])
    return _picked(padded, draw, window, groups)


def spread_patches(x: Array, draw: Draw, window: Window, groups: int) -> Array:
    """The same for a transposed convolution: one of the images with zeros between their pixels."""
    n = len(window.kernel)
    apart = tuple((size - 1) * stride + 1 for size, stride in zip(x.shape[2:], window.strides, strict=True))
    spread = np.zeros((*x.shape[:2], *apart), x.dtype)
    everything: list[Any] = [slice(None)] * 2
    spread[tuple(everything + [slice(None, None, stride) for stride in window.strides])] = x
    ends = [
        (window.reach[i] - 1 - window.pads[i], window.reach[i] - 1 - window.pads[n + i] + window.more[i])
        for i in range(n)
    ]
    padded = np.pad(spread, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in ends)])
    inner = [
        slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(ends, padded.shape[2:], strict=True)
    ]  # more padding than reach takes pixels away
    dense = Window(window.kernel, (1,) * n, window.dilations, window.pads, window.mode, window.more)
    return _picked(padded[tuple(everything + inner)], draw, dense, groups, flip=True)


def _picked(padded: Array, draw: Draw, window: Window, groups: int, flip: bool = False) -> Array:
    n = len(window.kernel)
    axes = tuple(range(2, 2 + n))
    views = np.lib.stride_tricks.sliding_window_view(padded, window.reach, axis=axes)
    steps = (slice(None, None, stride) for stride in window.strides)
    taps = (slice(None, None, dilation) for dilation in window.dilations)
    views = views[(slice(None), slice(None), *steps, *taps)]  # [samples, channels, *places, *kernel]
    if flip:
        views = np.flip(views, tuple(range(2 + n, 2 + 2 * n)))
    places = (views.shape[0], *views.shape[2 : 2 + n])
    sample, *where = np.unravel_index(draw(int(np.prod(places))), places)
    picked: list[Any] = [sample, slice(None), *where]
    rows = views[tuple(picked)]  # [rows, channels, *kernel]
    rows = rows.reshape(len(rows), groups, -1)
    return np.ascontiguousarray(rows.swapaxes(0, 1))
