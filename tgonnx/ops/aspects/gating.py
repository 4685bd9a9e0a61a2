"""What an operator's `gated` form is built with: statistics over the open channels only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tgonnx.ops.aspects.view import View

if TYPE_CHECKING:  # heavy, and needed for gates only
    import onnx_graphsurgeon as gs


class Writer(Protocol):
    """Where the gated graph is written."""

    def emit(
        self, op_type: str, *inputs: gs.Tensor, into: gs.Variable | None = None, **attributes: Any
    ) -> gs.Variable:
        """Append a node and return its output."""
        ...

    def constant(self, value: np.ndarray) -> gs.Constant: ...

    def keep(self, node: gs.Node) -> None:
        """Append a node of the model as it is."""
        ...


@dataclass(frozen=True)
class Gates:
    """The gates at all gated `axes` of a value: `mask` is their product, broadcastable to it, in its element type.

    `ratio` makes the number of labels over the number of open ones (a scalar), so that
    mean over open = mean(x * mask) * ratio. `spread`: the mask is made as long as the value at hand, which varies.
    """

    axes: tuple[int, ...]
    mask: gs.Variable
    ratio: Callable[[], gs.Variable]
    spread: bool = False


class Gating:
    """One node during gate insertion: `gates` are those of input 0, whose element type is `dtype`."""

    def __init__(self, view: View, node: gs.Node, gates: Gates, dtype: Any, writer: Writer) -> None:
        self.view, self.node, self.gates, self.dtype = view, node, gates, dtype
        self.axes, self.mask = gates.axes, gates.mask
        self.emit, self.constant, self.keep = writer.emit, writer.constant, writer.keep

    @cached_property
    def ratio(self) -> gs.Variable:
        """Number of labels over number of open ones; made only where it is used."""
        return self.gates.ratio()

    @cached_property
    def shares(self) -> gs.Variable:
        """What each label of the last axis counts in a mean, [labels, 1]; they add up to one."""
        share = self.emit("Div", self.ratio, self.scalar(len(self.view.input(0)[-1])))
        column = self.emit("Reshape", self.mask, self.constant(np.array([-1, 1], np.int64)))
        return self.emit("Mul", column, share)

    def scalar(self, value: float) -> gs.Constant:
        """A number in the element type of input 0."""
        return self.constant(np.array(value, self.dtype))

    def reduce(self, op_type: str, x: gs.Tensor, axes: Sequence[int], keepdims: int = 1) -> gs.Variable:
        """A reduction, its axes written the way the model's opset wants them."""
        since = 13 if op_type == "ReduceSum" else 18
        if (self.view.standard_opset or self.view.opset) >= since:
            return self.emit(op_type, x, self.constant(np.array(axes, np.int64)), keepdims=keepdims)
        return self.emit(op_type, x, axes=list(axes), keepdims=keepdims)

    def mean(self, x: gs.Tensor, axes: Sequence[int], keepdims: int = 1) -> gs.Variable:
        """The mean of `x` over `axes`, open labels only.

        Over the last axis it is one product with the share of each label: it and its gradients read `x` once, where a
        product with the mask and a sum of that write and read as much again.
        """
        rank = self.view.input(0).rank
        last = list(axes) == [rank - 1] and self.axes == (rank - 1,) and not self.gates.spread
        if keepdims and last and rank > 1:
            return self.emit("MatMul", x, self.shares)
        return self.emit(
            "Mul", self.reduce("ReduceMean", self.emit("Mul", x, self.mask), axes, keepdims), self.ratio
        )

    def standardize(
        self, x: gs.Tensor, axes: Sequence[int], epsilon: float, center: bool = True
    ) -> gs.Variable:
        """(x - mean) / sqrt(variance + epsilon), open labels only; uncentred: x / sqrt(mean square + epsilon)."""
        if center:
            x = self.emit("Sub", x, self.mean(x, axes))
        variance = self.mean(self.emit("Mul", x, x), axes)
        return self.emit("Div", x, self.emit("Sqrt", self.emit("Add", variance, self.scalar(epsilon))))

    def replace_input(self, x: gs.Tensor) -> None:
        """Keep the node as it is, but for its first input."""
        self.node.inputs[0] = x
        self.keep(self.node)

    def detach(self, *outputs: int) -> None:
        """Give the node other values to write in place of these outputs."""
        import onnx_graphsurgeon as gs

        for index in outputs:
            if index < len(self.node.outputs) and self.node.outputs[index].name:
                name = f"{self.node.outputs[index].name}/ungated"
                self.node.outputs[index] = gs.Variable(name)

    def finish(self, value: gs.Tensor, output: int = 0) -> None:
        """Make `value` the node's output."""
        into = self.node.outputs[output]
        into.inputs.clear()
        self.emit("Identity", value, into=into)
