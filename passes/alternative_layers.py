"""Layers that can stand in for a convolution: each with all that differs between them.

An entry of `LAYERS` says, for a convolution, which nodes and weights give a value of the same shape from the same
input, and why that cannot be. Weights start near what the convolution has: the middle of its kernel, its diagonal, the
best product of one spatial pattern and one column for each channel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from tgonnx.errors import OptionError

Weights = NDArray[np.floating]
KERNEL = re.compile(r"\d+(x\d+)*")  # a smaller kernel, as 1x1


class NoAlternative(Exception):
    """Why a convolution has no such alternative."""


@dataclass(frozen=True)
class Convolution:
    """A convolution: its input, weight [outputs, inputs of a group, *kernel], bias [outputs], and how it moves.

    `same` says whether its output has the shape of its input. `pads` are the first and the last of each axis in turn;
    `automatic` is the attribute auto_pad, which stands for them.
    """

    source: str
    weight: Weights
    bias: Weights
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    automatic: str
    groups: int
    same: bool

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1]) * self.groups


@dataclass(frozen=True)
class Layer:
    """Nodes that give `value`, and weights by name. `fitted` names the weight that is set by least squares, if any."""

    value: str
    nodes: tuple[NodeProto, ...] = ()
    weights: tuple[tuple[str, Weights], ...] = ()
    fitted: str = ""


Build = Callable[[Convolution, str], Layer]  # the second is the stem of names; raises NoAlternative


def layer_of(word: str, of: Convolution, stem: str) -> Layer:
    """The alternative of this name. Raises NoAlternative, OptionError for a name that nobody knows."""
    if word in LAYERS:
        return LAYERS[word](of, stem)
    if KERNEL.fullmatch(word):
        return _smaller(of, stem, tuple(int(size) for size in word.split("x")))
    raise OptionError("alternative", f"unknown {word!r}; there are {', '.join(LAYERS)}, and kernels like 1x1")


def _conv(
    of: Convolution, stem: str, weight: Weights, groups: int, pads: tuple[int, ...], bias: Weights
) -> Layer:
    """A convolution that goes over the input as the original does."""
    attributes: dict[str, Any] = {
        "kernel_shape": weight.shape[2:],
        "strides": of.strides,
        "dilations": of.dilations,
    }
    attributes |= {"auto_pad": of.automatic} if of.automatic != "NOTSET" else {"pads": pads}
    names = [f"{stem}/weight", f"{stem}/bias"]
    node = helper.make_node("Conv", [of.source, *names], [stem], name=stem, group=groups, **attributes)
    return Layer(stem, (node,), ((names[0], weight), (names[1], bias)), names[0])


def _smaller(of: Convolution, stem: str, kernel: tuple[int, ...]) -> Layer:
    """A smaller kernel about the same middle."""
    if len(kernel) != len(of.kernel) or any(
        ours > size for ours, size in zip(kernel, of.kernel, strict=True)
    ):
        raise NoAlternative(f"its kernel is {_times(of.kernel)}")
    if kernel == of.kernel:
        raise NoAlternative("it has that kernel already")
    cut = [size - ours for ours, size in zip(kernel, of.kernel, strict=True)]
    if any(less % 2 for less in cut) or (of.automatic == "VALID" and any(cut)):
        raise NoAlternative(f"its kernel of {_times(of.kernel)} has no {_times(kernel)} in its middle")
    less = [part // 2 * dilation for part, dilation in zip(cut, of.dilations, strict=True)]
    pads = tuple(pad - part for pad, part in zip(of.pads, [*less, *less], strict=True))
    if of.automatic == "NOTSET" and min(pads) < 0:
        raise NoAlternative("it does not reach over the edges of its input, as a smaller kernel then had to")
    middle = tuple(slice(part // 2, part // 2 + ours) for part, ours in zip(cut, kernel, strict=True))
    return _conv(of, stem, of.weight[(slice(None), slice(None), *middle)].copy(), of.groups, pads, of.bias)


def _depthwise(of: Convolution, stem: str) -> Layer:
    """Each channel by itself, with the kernel of the original's diagonal."""
    if of.inputs != of.outputs:
        raise NoAlternative(f"it makes {of.outputs} channels of {of.inputs}")
    if of.groups == of.outputs:
        raise NoAlternative("it is one already")
    each = np.arange(of.outputs)
    weight = of.weight[each, each % of.weight.shape[1]][:, None]
    return _conv(of, stem, weight, of.outputs, of.pads, of.bias)


def _separable(of: Convolution, stem: str) -> Layer:
    """Each channel by itself, then a mixture of these: the best pattern of one rank for each channel of the input."""
    if of.groups > 1 or max(of.kernel) == 1:
        raise NoAlternative("its channels are not mixed over a neighbourhood")
    matrices = np.moveaxis(of.weight.reshape(of.outputs, of.inputs, -1), 1, 0).astype(np.float64)
    columns, sizes, patterns = np.linalg.svd(matrices, full_matrices=False)
    spatial = (patterns[:, 0] * np.sqrt(sizes[:, :1])).reshape(of.inputs, 1, *of.kernel)
    mixing = (columns[:, :, 0] * np.sqrt(sizes[:, :1])).T.reshape(
        of.outputs, of.inputs, *[1] * len(of.kernel)
    )
    dtype = of.weight.dtype
    first = _conv(
        of, f"{stem}/spatial", spatial.astype(dtype), of.inputs, of.pads, np.zeros(of.inputs, dtype)
    )
    names = [f"{stem}/weight", f"{stem}/bias"]
    node = helper.make_node("Conv", [first.value, *names], [stem], name=stem)
    weights = ((names[0], mixing.astype(dtype)), (names[1], of.bias))
    return Layer(stem, (*first.nodes, node), (*first.weights, *weights), names[0])


def _identity(of: Convolution, stem: str) -> Layer:
    """The input itself."""
    if of.inputs != of.outputs or not of.same:
        raise NoAlternative("its output has another shape than its input")
    return Layer(of.source)


def _times(kernel: tuple[int, ...]) -> str:
    return "x".join(map(str, kernel))


LAYERS: dict[str, Build] = {"depthwise": _depthwise, "separable": _separable, "identity": _identity}
