"""Where channels of one axis became one class."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from tgonnx.ops.aspects.relations import Labels, Tie, pairs


def joining_nodes(
    ties: Sequence[tuple[int, Tie]], class_of: Labels, axis_of: Labels, classes: Collection[int]
) -> dict[int, int]:
    """For each of `classes` the number of the node whose tie first joined two labels of one axis.

    `ties` come with the number of their node; `class_of` and `axis_of` are by label.
    """
    wanted = np.zeros(len(class_of), bool)
    wanted[list(classes)] = True
    parent: dict[int, int] = {}
    axes: dict[int, set[int]] = {}
    found: dict[int, int] = {}

    def find(label: int) -> int:
        while (above := parent.setdefault(label, label)) != label:
            parent[label] = label = parent[above]
        return label

    for node, tie in ties:
        a, b = pairs(tie.a, tie.b)
        here = wanted[class_of[a]]
        for x, y in zip(a[here].tolist(), b[here].tolist(), strict=True):
            one, other = find(x), find(y)
            if one == other:
                continue
            ours, theirs = (axes.pop(root, {int(axis_of[root])}) for root in (one, other))
            if ours & theirs:
                found.setdefault(int(class_of[x]), node)
            parent[other] = one
            axes[one] = ours | theirs
    return found
