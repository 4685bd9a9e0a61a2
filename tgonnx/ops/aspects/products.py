"""What an operator sums: activations times a weight, as rows times matrices.

Many operators are one matrix product in disguise. A convolution multiplies patches of its input with its kernels, a
recurrent layer each step with its weights. Seen so, what a weight should be can be found by least squares, whatever
the operator is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgonnx.graph.types import Array

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Draw:
    """Which of many rows are looked at: at most `most`, the same ones for one `seed` and one number of rows."""

    most: int
    seed: int

    def __call__(self, count: int) -> Indices:
        """Rising numbers below `count`."""
        if count <= self.most:
            return np.arange(count)
        chosen: Indices = np.sort(np.random.default_rng(self.seed).choice(count, self.most, replace=False))
        return chosen


Rows = Callable[[Array, Draw], Array]
Places = Callable[[Array], Array]


@dataclass(frozen=True)
class Product:
    """A weight that an operator multiplies with activations and sums.

    `operand` and `weight` are numbers of inputs. What the operator sums is, but for what is added,

        rows(operand) @ matrix(weight)       [groups, rows, terms] @ [groups, terms, outputs]

    `matrix` only rearranges the elements of the weight. `rows` gives the rows that its `Draw` chooses, the same of
    operands of any number of channels. `bias` is the input that holds what is added to each output, and `added`
    rearranges it to [groups, outputs]; None where the operator has no such input. With `state`, the operand is not an
    input but this output. Outputs lie along `axis` of what the operator puts out;
    terms and groups along the axes `summed` of the operand, and all other axes are rows. Of the terms, every `window`
    neighbours are the places of a kernel over one channel.
    """

    operand: int
    weight: int
    rows: Rows
    matrix: Places
    bias: int | None = None
    added: Places | None = None
    state: int | None = None
    axis: int = -1
    summed: tuple[int, ...] = (-1,)
    window: int = 1


def plain_rows(x: Array, draw: Draw) -> Array:
    """[..., terms] -> [1, rows, terms]."""
    flat = x.reshape(-1, x.shape[-1])
    return flat[draw(len(flat))][None]


def turned_rows(x: Array, draw: Draw) -> Array:
    """[..., terms, columns] -> [1, rows, terms]."""
    return plain_rows(np.swapaxes(x, -1, -2), draw)


def plain_matrix(weight: Array) -> Array:
    """[terms, outputs] -> [1, terms, outputs]."""
    return weight[None]


def turned_matrix(weight: Array) -> Array:
    """[outputs, terms] -> [1, terms, outputs]."""
    return weight.T[None]


def one_group(bias: Array) -> Array:
    """A vector -> [1, outputs]."""
    return bias.reshape(1, -1)
