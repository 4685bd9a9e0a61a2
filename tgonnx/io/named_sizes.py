"""Sizes that a graph itself names: an axis that is declared open may have been fixed when the model was traced."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import TensorProto, numpy_helper

from tgonnx.graph.proto import attribute_of
from tgonnx.ops.aspects.traits import picked, traits_of

SHORT = 8  # elements of an integer constant that may be a list of sizes
MOST = 8  # sizes that are named
SMALLEST, LARGEST = 3, 1 << 14
_WHOLE = (TensorProto.INT64, TensorProto.INT32)


def named_sizes(model: onnx.ModelProto) -> tuple[int, ...]:
    """Numbers in short integer constants, sizes of tables that are added or taken from, and how far constants index.

    The most frequent first.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        value = attribute_of(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, TensorProto):
            stored[node.output[0]] = value
    found: Counter[int] = Counter()
    reach = 0
    for node in model.graph.node:
        does = traits_of(node)
        indices = picked(node.input, tuple(place for place, _ in does.looks_up))
        several = does.carries not in ((), (0,))  # it chooses among its inputs, or joins them
        # positions that are added, masks, rows that are taken
        meets = does.plus or does.times > 0 or does.looks_up or several
        for name in node.input:
            tensor = stored.get(name)
            if tensor is None:
                continue
            if tensor.data_type in _WHOLE and len(tensor.dims) < 2 and sum(tensor.dims) <= SHORT:
                numbers = numpy_helper.to_array(tensor).ravel().tolist()
                found.update(numbers)
                if name in indices:
                    reach = max(reach, *numbers, 0)
            elif meets and len(tensor.dims) > 1:
                found.update(tensor.dims)
    found[reach + 1] = max(found.values(), default=0) + 1
    return tuple(size for size, _ in found.most_common() if SMALLEST <= size <= LARGEST)[:MOST]
