"""What of a model depends on its dynamic axes, by data flow.

A walk over the nodes gives every axis of every value a size (`tgonnx.graph.algebra`): a number, or a polynomial in
dynamic axes of the model's inputs and in sizes that depend on data. The elements of small computed values (shape
arithmetic) are followed in the same way. What comes out as a number is that number for all inputs and may be stored;
what does not may be rewritten where its polynomial says how, but never stored, however often it was the same when it
was tried.

Shapes and values come from two sweeps (`tgonnx.analysis.shapes`) under different bindings of the dynamic axes. Every
claim of the walk is held against both, and dropped if one contradicts it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from tgonnx.analysis.shapes import Sweep
from tgonnx.analysis.symbolic_dims import dims_of
from tgonnx.analysis.symbolic_elements import elements_of
from tgonnx.graph.algebra import Algebra, Dims, Element, Number, Size
from tgonnx.ops.aspects.traits import traits_of

MAX_ELEMENTS = 4096  # of the largest value whose elements are followed one by one
_COMPUTED: dict[str, Callable[..., Any]] = {  # atoms that follow from others
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: int(a / b) if b else None,
}


@dataclass
class Symbols:
    """Sizes of all values, and the elements of those computed values that depend on dynamic axes.

    `dims[name]` has one element an axis. `elements[name]`, for a value that the sweeps know and that is dynamic, is an
    array of objects, or None where the elements are not followed. Known values that are not in it are static.
    """

    first: Sweep
    second: Sweep
    algebra: Algebra = field(default_factory=Algebra)
    dims: dict[str, Dims] = field(default_factory=dict)
    elements: dict[str, np.ndarray | None] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)  # claims that a sweep contradicted
    _trials: dict[Hashable, tuple[Number, Number]] = field(default_factory=dict)  # atoms in the two sweeps

    def static(self, name: str) -> np.ndarray | None:
        """The value of a small tensor if it is the same for all inputs."""
        return self.first.known.get(name) if name not in self.elements else None

    def parts(self, name: str) -> np.ndarray | None:
        """The elements of a value, static ones as numbers; None if they are not known one by one."""
        if name in self.elements:
            return self.elements[name]
        value = self.first.known.get(name)
        return None if value is None or value.size > MAX_ELEMENTS else _objects(value)

    def declare(self, name: str, keys: Sequence[Hashable | None]) -> None:
        """A graph input; None stands for an axis of fixed size, anything else names a dynamic one."""
        sizes = zip(self.first.shapes[name], self.second.shapes[name], keys, strict=True)
        self.dims[name] = tuple(
            size if key is None else self._tried(key, (size, other), positive=True)
            for size, other, key in sizes
        )

    def visit(self, node: onnx.NodeProto) -> None:
        """Follow sizes and elements through one node."""
        self._follow_elements(node)
        claims = dims_of(node, self) if self._is_dynamic(node) else None
        for position, name in enumerate(node.output):
            if name and name in self.first.shapes:
                claimed = None if claims is None or position >= len(claims) else claims[position]
                if claims is None:  # nothing dynamic goes in: what was inferred is so for all inputs
                    claimed = self.first.shapes[name]
                self.dims[name] = tuple(self._settled(name, claimed))

    def _tried(self, key: Hashable, trial: tuple[Number, Number], positive: bool = False) -> Size:
        self._trials.setdefault(key, trial)
        return self.algebra.atom(key, positive=positive)

    # --- sizes ----------------------------------------------------------------------------------------

    def _is_dynamic(self, node: onnx.NodeProto) -> bool:
        """Can the sizes of its outputs depend on a dynamic axis?"""
        if any(attribute.HasField("g") for attribute in node.attribute):
            return True
        return any(
            name in self.elements or any(isinstance(d, Size) for d in self.dims.get(name, ()))
            for name in node.input
            if name
        )

    def _settled(self, name: str, claimed: Sequence[Element | None] | None) -> Iterator[Element]:
        """The claims where both sweeps agree; an atom of its own for an axis of which nothing is claimed."""
        shape, other = self.first.shapes[name], self.second.shapes.get(name, ())
        free = self.first.free.get(name, frozenset())
        if claimed is None or len(claimed) != len(shape):
            claimed = [None] * len(shape)
        for axis, size in enumerate(shape):
            trial = (size, other[axis] if len(other) == len(shape) else size)
            claim = None if axis in free and not isinstance(claimed[axis], Size) else claimed[axis]
            if claim is not None and not self._holds(claim, trial):
                self.dropped.append(f"{name}: axis {axis} is {trial}, {claim} was claimed")
                claim = None
            yield self._tried(("axis", name, axis), trial) if claim is None else claim

    def _holds(self, claim: Element, trial: tuple[Number, Number]) -> bool:
        """Is the claim what the sweeps found? An atom that is met for the first time is what they say."""
        if not isinstance(claim, Size):
            return trial == (claim, claim)
        key = self.algebra.lone(claim)
        if key is not None and self._trial(key) is None:
            self._trials[key] = trial
        sides = (self.algebra.value(claim, self._under(side)) for side in (0, 1))
        return all(found is None or found == size for found, size in zip(sides, trial, strict=True))

    def _under(self, side: int) -> Callable[[Hashable], Number | None]:
        """What atoms are in one of the sweeps."""
        return lambda key: None if (trial := self._trial(key)) is None else trial[side]

    def _trial(self, key: Hashable) -> tuple[Number, Number] | None:
        """What an atom is in the two sweeps; None if they have not said, and it does not follow."""
        if key not in self._trials and isinstance(key, tuple) and key[0] in _COMPUTED:
            operands = [[self.algebra.value(o, self._under(side)) for o in key[1:]] for side in (0, 1)]
            first, second = (None if None in pair else _COMPUTED[key[0]](*pair) for pair in operands)
            if first is not None and second is not None:
                self._trials[key] = (first, second)
        return self._trials.get(key)

    # --- elements -------------------------------------------------------------------------------------

    def _follow_elements(self, node: onnx.NodeProto) -> None:
        known = [name for name in node.output if name in self.first.known]
        if not known or not self._reads_dynamic(node):
            return
        found = elements_of(node, self) if len(node.output) == 1 else None
        for name in known:
            value, other = self.first.known[name], self.second.known.get(name)
            if other is None or value.shape != other.shape or value.size > MAX_ELEMENTS:
                self.elements[name] = None
                continue
            if found is None or found.shape != value.shape:
                found = np.full(value.shape, None, object)
            settled = np.empty(value.shape, object)
            for place in np.ndindex(value.shape):
                trial = (value[place].item(), other[place].item())
                settled[place] = self._element(name, place, found[place], trial)
            if any(isinstance(element, Size) for element in settled.flat):
                self.elements[name] = settled

    def _element(
        self, name: str, place: tuple[int, ...], claim: Any, trial: tuple[Number, Number]
    ) -> Element:
        """An element as claimed (Element or None) where the sweeps agree, else an atom of its own."""
        if isinstance(claim, Size) and self._holds(claim, trial):
            return claim
        if claim is not None and not isinstance(claim, Size) and trial == (claim, claim):
            return trial[0]
        return self.algebra.atom(("element", name, place), natural=False, whole=False)

    def _reads_dynamic(self, node: onnx.NodeProto) -> bool:
        if traits_of(node).reads_sizes:
            return any(isinstance(size, Size) for size in self.dims.get(node.input[0], ()))
        return any(name in self.elements for name in node.input)


def follow(
    proto: onnx.ModelProto, first: Sweep, second: Sweep, axes: Mapping[str, Sequence[Hashable | None]]
) -> Symbols:
    """The sizes of a whole model; `axes` names the dynamic axes of its inputs."""
    symbols = Symbols(first, second)
    for name, keys in axes.items():
        symbols.declare(name, keys)
    for tensor in proto.graph.initializer:
        symbols.dims[tensor.name] = tuple(tensor.dims)
    for node in proto.graph.node:
        symbols.visit(node)
    return symbols


def _objects(value: np.ndarray) -> np.ndarray:
    parts = np.empty(value.shape, object)
    for place in np.ndindex(value.shape):
        number = value[place].item()
        whole = isinstance(number, float) and number.is_integer()  # so that a polynomial may take it
        parts[place] = int(number) if whole else number
    return parts
