"""What the rules of `tgonnx.analysis.symbolic` see of one node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from tgonnx.analysis.algebra import Dims, Element
from tgonnx.graph.proto import attribute_of

if TYPE_CHECKING:
    from tgonnx.analysis.symbolic import Symbols


class Asked:
    """One node, with the sizes and elements of its inputs."""

    def __init__(self, node: onnx.NodeProto, symbols: Symbols) -> None:
        self.node, self.symbols, self.algebra = node, symbols, symbols.algebra
        self.opset = symbols.first.opsets.get("", 1)

    def attribute(self, name: str, default: Any = None) -> Any:
        return attribute_of(self.node, name, default)

    def has(self, index: int) -> bool:
        return index < len(self.node.input) and bool(self.node.input[index])

    def dims(self, index: int = 0) -> Dims:
        """The sizes of an input; KeyError if its shape is not known."""
        return self.symbols.dims[self.node.input[index]]

    def parts(self, index: int, attribute: str = "") -> list[Element] | None:
        """The elements of an input of one axis, or of an attribute of older opsets."""
        value = self.attribute(attribute) if attribute else None
        if value is not None:
            return list(value)
        found = self.symbols.parts(self.node.input[index]) if self.has(index) else None
        return None if found is None else list(found.ravel())
