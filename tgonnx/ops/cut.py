"""What an operator's `resize` sees and may change when labels around its node are removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tgonnx.labels import Labels
from tgonnx.ops.view import Operand

Keep = npt.NDArray[np.bool_]


class Cut:
    """One node during surgery: which labels are kept, and setters for stored sizes.

    `set_input` gives the node its own constant for an input; `now(i)` is the input's value after the cut so far.
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

    def size(self, labels: Labels) -> int:
        """How many of these labels are kept."""
        return int(self.keep(labels).sum())

    def sizes(self, operand: Operand) -> tuple[int, ...]:
        return tuple(self.size(axis) for axis in operand.axes)

    def touches(self, axes: Sequence[Labels]) -> bool:
        """Whether any label of these axes is removed."""
        return any(not self.keep(axis).all() for axis in axes)
