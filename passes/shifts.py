"""Where something can be added to each output of a product: its bias, an addition or a normalization behind."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.analysis.uses import FLOATS, Use, Uses
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.traits import traits_of


@dataclass(frozen=True)
class Shift:
    """An initializer to which `sign` times what is to be added is added, at `places` [groups, outputs]."""

    name: str
    places: NDArray[np.int64]
    sign: float = 1.0

    def add(self, values: MutableMapping[str, Array], more: NDArray[np.float64]) -> None:
        """Add to the stored value, in its type."""
        stored = values[self.name]
        new = np.array(stored, np.float64).reshape(-1)
        new[self.places] += self.sign * more
        values[self.name] = new.reshape(stored.shape).astype(stored.dtype)


def find_shift(uses: Uses, use: Use, values: Mapping[str, Array]) -> Shift | None:
    """Where to add to the outputs of a product; None if there is no such place that is its own."""
    node = uses.model.graph.node[use.place]
    product = use.product
    if product.bias is not None and product.bias < len(node.input) and node.input[product.bias]:
        name = node.input[product.bias]
        if not _own(uses, name) or product.added is None:
            return None
        numbers = np.arange(values[name].size).reshape(values[name].shape)
        return Shift(name, product.added(numbers))
    return _behind(uses, node, use, values)


def _behind(uses: Uses, node: onnx.NodeProto, use: Use, values: Mapping[str, Array]) -> Shift | None:
    """The constant that the only reader of a product adds to it, or takes off."""
    made = node.output[0]
    readers = uses.readers[made]
    if len(readers) != 1 or made in uses.outputs or use.product.state is not None:
        return None
    (reader,) = readers
    groups, _, outputs = use.matrix(values[use.weight]).shape
    count = groups * outputs
    does = traits_of(reader)
    if does.statistics and len(reader.output) == 1 and use.product.axis != -1:
        name, sign = reader.input[does.statistics[0]], -1.0
    elif does.plus > 0 and len(set(reader.input)) == 2:
        name, sign = next(other for other in reader.input if other != made), 1.0
    else:
        return None
    if name not in values or not _own(uses, name):
        return None
    shape = values[name].shape
    axis = use.product.axis if does.plus > 0 else -1
    if values[name].size != count or len(shape) < -axis or shape[axis] != count:
        return None
    return Shift(name, np.arange(count).reshape(groups, outputs), sign)


def _own(uses: Uses, name: str) -> bool:
    """Whether one node alone reads an initializer of floats."""
    tensor = uses.stored.get(name)
    readers = uses.readers.get(name, [])
    alone = len(readers) == 1 and name not in uses.outputs
    return tensor is not None and tensor.data_type in FLOATS and alone
