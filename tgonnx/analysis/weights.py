"""Single weights: the elements of kernels and matrices, each of which may become zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

if TYPE_CHECKING:
    from tgonnx.analysis.coupling import Coupling
    from tgonnx.analysis.model import Model


def single_weights(model: Model) -> dict[str, int]:
    """Initializers of floats that take part in products alone, and of how many elements, in the order of the file.

    Biases, tables and the scales of normalisations are none.
    """
    from tgonnx.analysis.uses import Uses  # which loads onnx's reference implementation

    used = Uses(model.proto).by_weight
    sizes = {name: math.prod(tensor.dims) for name, tensor in model.initializers.items()}
    return {
        name: size
        for name, size in sizes.items()
        if name in used and len(model.initializers[name].dims) > 1 and size > 1
    }


def why_whole(model: Model, name: str) -> str:
    """Why elements of an initializer cannot become zero; empty where they can, or it holds no floats."""
    from tgonnx.analysis.uses import FLOATS, Uses

    tensor = model.initializers[name]
    if name in model.single_weights or tensor.data_type not in FLOATS:
        return ""
    if len(tensor.dims) < 2:
        return "it has fewer than two axes"
    return (
        "it takes part in more than products"
        if name not in Uses(model.proto).by_weight
        else "it has one element"
    )


def counted_weights(model: Model) -> dict[str, tuple[int, int]]:
    """How many elements of each of these weights are not zero, of how many."""
    stored = model.initializers
    return {
        name: (int(np.count_nonzero(numpy_helper.to_array(stored[name]))), size)
        for name, size in model.single_weights.items()
    }


def names_of(coupling: Coupling) -> Mapping[str, set[str]]:
    """What each of these weights is called by: its own name, and those of the nodes that read it."""
    found = {name: {name} for name in coupling.model.single_weights}
    for node in coupling.model.nodes:
        for name in node.inputs:
            if name in found:
                found[name].add(node.label)
    return found


def along_inputs(model: Model) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Each of these weights with the places of its elements, [rows, channels] of the flattened weight.

    What an output sums at one place of a kernel is a row, in the order of the input channels. A weight of several
    nodes is seen as the first of them reads it.
    """
    from tgonnx.analysis.uses import Uses

    uses = Uses(model.proto).by_weight
    for name, size in model.single_weights.items():
        use = uses[name][0]
        places = use.matrix(np.arange(size).reshape(tuple(model.initializers[name].dims)))
        groups, terms, outputs = places.shape
        apart = places.reshape(groups, terms // use.product.window, use.product.window, outputs)
        yield name, np.moveaxis(apart, 1, 3).reshape(-1, apart.shape[1])
