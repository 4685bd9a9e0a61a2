"""Optimisers by name: how gradients become what is taken off the weights.

Weight decay is the same for all, and decoupled (Loshchilov and Hutter 2019): w -= lr (update + decay w). No moment
holds it and nothing divides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from onnx import helper

from tgonnx.engines.spec import ParameterGroup
from tgonnx.graph.builder import Array, Emitter, Value
from tgonnx.strategies import find


@dataclass
class Memory:
    """What an optimiser remembers of a group from one step to the next, a flat vector or a number each.

    `prefix` stands before its names in the state, `like` has the length and type of the group's parameters.
    """

    prefix: str
    like: Array
    emitter: Emitter
    state: dict[str, Array] = field(default_factory=dict)
    carried: dict[str, Value] = field(default_factory=dict)

    def vector(self, name: str) -> Value:
        """Zeros, one for each parameter, before the first step."""
        return self._value(name, np.zeros_like(self.like))

    def number(self, name: str) -> Value:
        """Zero before the first step."""
        return self._value(name, np.zeros((), self.like.dtype))

    def keep(self, old: Value, new: Value) -> None:
        """In the next step `old` has the value of `new`."""
        self.carried[old.name] = new

    def _value(self, name: str, initial: Array) -> Value:
        self.state[f"{self.prefix}/{name}"] = initial
        kind = int(helper.np_dtype_to_tensor_dtype(initial.dtype))
        return self.emitter.value(f"{self.prefix}/{name}", kind)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An optimiser by name: one entry of the table `OPTIMIZERS`.

    `change` writes what is taken off the weights for their gradients, rate included and decay not. `decay` is the
    weight decay if nothing else is asked for.
    """

    name: str
    change: Callable[[ParameterGroup, Memory, Value, Value], Value]  # group, memory, gradients, rate
    decay: float = 0.0


def _adam(group: ParameterGroup, memory: Memory, grad: Value, rate: Value) -> Value:
    """Kingma and Ba 2015: lr m^ / (sqrt(v^) + eps)."""
    e = memory.emitter
    m, v, count = memory.vector("first"), memory.vector("second"), memory.number("count")
    b1, b2 = group.betas
    t = count + 1.0
    m_new = m * b1 + grad * (1.0 - b1)
    v_new = v * b2 + grad * grad * (1.0 - b2)
    correct1 = 1.0 - e.op("Exp", t * math.log(b1)) if b1 > 0 else e.scalar(1.0, grad.elem_type)
    correct2 = 1.0 - e.op("Exp", t * math.log(b2))
    for old, new in ((m, m_new), (v, v_new), (count, t)):
        memory.keep(old, new)
    root = e.op("Sqrt", v_new) / e.op("Sqrt", correct2) + group.eps
    return m_new * (rate / correct1) / root


def _sgd(group: ParameterGroup, memory: Memory, grad: Value, rate: Value) -> Value:
    """With momentum, v = momentum v + g (Sutskever et al. 2013, as everybody writes it): lr v."""
    if group.momentum:
        velocity = memory.vector("velocity")
        grad = velocity * group.momentum + grad
        memory.keep(velocity, grad)
    return grad * rate


# SGD's decay is that of weight decay 1e-4 on the gradient, as it is often written, which momentum 0.9 multiplies by 10
ADAMW = Optimizer(name="adamw", change=_adam, decay=1e-2)
ADAM = Optimizer(name="adam", change=_adam)
SGD = Optimizer(name="sgd", change=_sgd, decay=1e-3)
OPTIMIZERS: dict[str, Optimizer] = {each.name: each for each in (ADAMW, ADAM, SGD)}


def named(name: str) -> Optimizer:
    """The optimiser of that name. Raises UsageError that lists the known ones."""
    return find(OPTIMIZERS, name, "optimizer")


def clipped(grads: Iterable[Value], largest: float, emitter: Emitter) -> list[Value]:
    """Gradients scaled alike so that the norm of all of them is at most `largest` (Pascanu et al. 2013)."""
    grads = list(grads)
    squares = [(grad * grad).sum(None, False).cast(1) for grad in grads]
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    norm = emitter.op("Sqrt", total)
    factor = emitter.scalar(largest) / emitter.op("Max", norm, emitter.scalar(largest))
    return [grad * (factor if grad.elem_type == 1 else factor.cast_like(grad)) for grad in grads]
