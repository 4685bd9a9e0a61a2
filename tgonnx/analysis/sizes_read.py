"""Which sizes a model reads as numbers."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from tgonnx.analysis.model import Model, Node
from tgonnx.analysis.symbolic_elements import moved_places
from tgonnx.ops.aspects.traits import traits_of


def sizes_read(model: Model) -> dict[int, frozenset[int]]:
    """For each `Shape` and `Size` the axes whose size is read as a number, and so must not change.

    A size may reach inputs that are sizes, through arithmetic on small integers: those follow a cut.
    """
    users: dict[str, list[tuple[Node, int]]] = defaultdict(list)
    for node in model.nodes:
        for i, name in enumerate(node.inputs):
            users[name].append((node, i))
        for name in node.captures:
            users[name].append((node, -1))
    integers = set(model.first.known)
    safe: dict[str, bool] = {name: False for name in model.outputs}

    def follows(user: Node, i: int) -> bool:
        are = traits_of(user)
        is_size = are.sizes_follow and i in are.sizes
        return is_size or (i >= 0 and all(o in integers and safe[o] for o in user.outputs if o))

    for node in reversed(model.nodes):
        for output in node.outputs:
            safe[output] = safe.get(output, True) and all(follows(*use) for use in users[output])
    read = {}
    for node in model.nodes:
        if (reads := traits_of(node).reads_sizes) and node.inputs[0] in model.shapes:
            axes = range(len(model.shapes[node.inputs[0]]))
            output, told = node.outputs[0], np.arange(len(axes))
            if reads == "axes":
                told = told[node.attributes.get("start", 0) : node.attributes.get("end")]
            places = [] if output not in model.outputs else [told]
            for user, i in users[output]:
                if not follows(user, i):
                    picked = moved_places(user.proto, i, len(told), model.symbols)
                    places.append(told if reads == "elements" or picked is None else told[picked])
            read[node.index] = frozenset(np.concatenate([np.zeros(0, int), *places]).tolist())
    return read
