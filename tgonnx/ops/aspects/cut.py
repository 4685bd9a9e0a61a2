"""What an operator's `resize` sees and may change when labels around its node are removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tgonnx.ops.aspects.relations import Labels
from tgonnx.ops.aspects.view import Operand

Keep = npt.NDArray[np.bool_]


class Cut:
    """One node during surgery: which labels are kept, and setters for stored sizes.

    `now(i)` is the input's value after the cut so far, dynamic axes having the sizes that analysis counts with: what is
    not to change must not be written from it. `set_elements` changes single numbers of a stored or computed vector;
    `set_input` gives the node its own constant for an input.
    """

    def __init__(
        self,
        open_labels: Callable[[Labels], Keep],
        now: Callable[[int], np.ndarray | None],
        set_attribute: Callable[[str, object], None],
        set_input: Callable[[int, np.ndarray], None],
    ) -> None:
        self.keep = open_labels
        self.now = now
        self.set_attribute = set_attribute
        self.set_input = set_input

    def set_elements(self, index: int, new: Mapping[int, int]) -> None:
        """Change some elements of an input (place -> number); the others stay what they are in the graph."""
        present = self.now(index)
        if present is None:
            return
        wanted = np.array(present)
        for place, number in new.items():
            wanted[place] = number
        if not np.array_equal(wanted, present):
            self.set_input(index, wanted)

    def size(self, labels: Labels) -> int:
        """How many of these labels are kept."""
        return int(self.keep(labels).sum())

    def sizes(self, operand: Operand) -> tuple[int, ...]:
        return tuple(self.size(axis) for axis in operand.axes)

    def touches(self, axes: Sequence[Labels]) -> bool:
        """Whether any label of these axes is removed."""
        return any(not self.keep(axis).all() for axis in axes)
