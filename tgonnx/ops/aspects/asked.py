"""What a rule for sizes, or for single numbers that are computed from sizes, sees of one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx

from tgonnx.graph.algebra import Algebra, Dims, Element
from tgonnx.graph.proto import attribute_of

Claims = Sequence[Element | None]  # sizes of an output's axes; None where nothing is known


class Swept(Protocol):
    """Concrete shapes and small values under one binding of the dynamic axes."""

    @property
    def opsets(self) -> Mapping[str, int]: ...
    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def known(self) -> Mapping[str, np.ndarray]: ...


class Followed(Protocol):
    """Sizes of all values so far, and elements of small ones."""

    @property
    def first(self) -> Swept: ...
    @property
    def algebra(self) -> Algebra: ...
    @property
    def dims(self) -> Mapping[str, Dims]: ...
    def parts(self, name: str) -> np.ndarray | None: ...


class Asked:
    """One node, with the sizes and elements of its inputs."""

    def __init__(self, node: onnx.NodeProto, symbols: Followed) -> None:
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

    @property
    def result(self) -> np.ndarray:
        """The output as it is under one binding."""
        return self.symbols.first.known[self.node.output[0]]

    def natural(self, *operands: Element) -> bool:
        """Are these never negative?"""
        return all(self.algebra.natural(operand) for operand in operands)


def whole(*operands: Element) -> bool:
    """Fractions are not added to sizes: a polynomial has whole coefficients."""
    return not any(isinstance(operand, float) for operand in operands)
