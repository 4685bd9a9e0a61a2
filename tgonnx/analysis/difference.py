"""What each layer of one model has lost in another, whoever cut it: weights matched, their shapes side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from tgonnx.analysis.cost import Cost
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.kinds import PARAMETER_TYPES
from tgonnx.analysis.model import Model
from tgonnx.analysis.shapes import Shape
from tgonnx.analysis.weights import counted_weights
from tgonnx.io.stamp import cut_from
from tgonnx.io.summary import ROWS, Shown, Summary, amount, left_out

Counted = Mapping[str, tuple[int, int]]  # weight -> elements that are not zero, and all
_NUMBERED = re.compile(r"onnx::|val_|_?\d+$|.*_quantized_\d+$")  # names that exporters count up: of nothing


@dataclass(frozen=True)
class Weight:
    """An initializer where it is read first: by which node, of which type, as which input."""

    name: str
    shape: Shape
    node: str
    named: bool  # the node has a name of its own
    op_type: str
    input: int

    @property
    def place(self) -> tuple[str, int, int]:
        """What weights that are the same one have in common."""
        return self.op_type, self.input, len(self.shape)


@dataclass(frozen=True)
class WeightChange:
    """A weight by its name in the first model and in the second; there is no shape where it is missing.

    `kept` is how many elements of a kernel or matrix are not zero, before and after, where both models have it.
    """

    name: str
    other: str
    before: Shape | None
    after: Shape | None
    kept: tuple[int, int] | None = None

    @property
    def changed(self) -> bool:
        return self.before != self.after or self.thinned

    @property
    def thinned(self) -> bool:
        """Whether another share of its elements is not zero."""
        if self.kept is None or self.before is None or self.after is None:
            return False
        return self.kept[0] * math.prod(self.after) != self.kept[1] * math.prod(self.before)

    @property
    def channels(self) -> tuple[tuple[int, int, int], ...]:
        """Axis, channels before and after of each axis that is not as it was."""
        pairs = enumerate(zip(self.before or (), self.after or (), strict=False))
        return tuple((axis, old, new) for axis, (old, new) in pairs if old != new)


@dataclass(frozen=True)
class LayerChange:
    """A node with its weights, the largest first; `other` is the node of the second model, empty where it has none.

    `flops` and `params` are before and after.
    """

    node: str
    other: str
    op_type: str
    weights: tuple[WeightChange, ...]
    flops: tuple[float, float]

    @property
    def name(self) -> str:
        """What people know it by: its largest weight, unless an exporter numbered that."""
        return known_as(self.weights[0].name or self.weights[0].other, self.node or self.other)

    @property
    def params(self) -> tuple[int, int]:
        both = ([w.before for w in self.weights], [w.after for w in self.weights])
        before, after = (sum(math.prod(shape) for shape in shapes if shape is not None) for shapes in both)
        return before, after

    @property
    def changed(self) -> bool:
        return any(weight.changed for weight in self.weights)


@dataclass(frozen=True, repr=False)
class Difference(Shown):
    """What `diff` returns: the layers in the order of the first model, those that only the second has at the end.

    `branches` are the residual branches of the first model all of whose own kernels and matrices are missing in the
    second, by the values that their sums put out.
    """

    a: str
    b: str
    before: Cost
    after: Cost
    layers: tuple[LayerChange, ...]
    branches: tuple[str, ...] = ()

    @property
    def nonzeros(self) -> tuple[int, int]:
        """Elements of kernels and matrices that both models have which are not zero, before and after."""
        kept = [weight.kept for layer in self.layers for weight in layer.weights if weight.kept is not None]
        return sum(before for before, _ in kept), sum(after for _, after in kept)

    def summary(self) -> Summary:
        """The costs, and what was cut most."""
        cut = sorted(
            (layer for layer in self.layers if layer.changed),
            key=lambda layer: layer.params[1] - layer.params[0],
        )
        rows = [
            (layer.name, *map(amount, layer.params), f"{layer.params[1] / max(layer.params[0], 1):.0%}")
            for layer in cut[:ROWS]
        ]
        facts = [
            (name, f"{amount(old)} before, {amount(new)} after")
            for name, old, new in (
                ("FLOPs", self.before.flops, self.after.flops),
                ("parameters", self.before.params, self.after.params),
            )
        ]
        facts += [("removed", f"branch {name}") for name in self.branches[:ROWS]]
        title = f"Difference: {len(cut):,} of {len(self.layers):,} layers changed"
        more = left_out(len(cut) - ROWS, "layers")
        return Summary(title, facts, ("layer", "parameters before", "after", "left"), rows, more)


def known_as(weight: str, node: str) -> str:
    """What people know a layer by: its weight, unless an exporter numbered that, then its node."""
    return node if _NUMBERED.match(weight) else weight


def difference(a: Coupling, b: Coupling) -> Difference:
    """Match the weights of two models: by name, else by the name of their node, else by their order.

    Names that an exporter counted up (`onnx::Conv_193`) say nothing, unless the second says that it was cut from the
    first; and two weights match only if operators of the
    same type read them as the same input, with as many axes.
    """
    ours, theirs = weights_of(a.model), weights_of(b.model)
    pairs = _matched(ours, theirs, cut_from(b.model.original, a.model.original))
    counts = counted_weights(a.model), counted_weights(b.model)
    spent = {weight.name for weight in pairs.values()}
    flops = a.cost_model.by_owner("flops"), b.cost_model.by_owner("flops")
    layers = [
        _layer(node, [(weight, pairs.get(weight.name)) for weight in held], flops, counts)
        for node, held in _by_node(ours).items()
    ]
    rest = _by_node(weight for weight in theirs if weight.name not in spent)
    layers += [_new_layer(node, held, flops[1]) for node, held in rest.items()]
    costs = a.cost_model.cost(), b.cost_model.cost()
    return Difference(a.model.source, b.model.source, *costs, tuple(layers), _without(a.model, pairs))


def _without(model: Model, pairs: Mapping[str, Weight]) -> tuple[str, ...]:
    """The branches whose own kernels and matrices have no match."""
    found = []
    for branch in model.branches:
        own = {name for name in branch.weights if len(model.initializers[name].dims) > 1}
        if own and not own & pairs.keys():
            found.append(branch.name)
    return tuple(found)


def weights_of(model: Model) -> list[Weight]:
    """The parameters in the order in which nodes read them, each at its first reader."""
    left = {name: t for name, t in model.initializers.items() if t.data_type in PARAMETER_TYPES and t.dims}
    found = []
    for node in model.nodes:
        for place, name in enumerate(node.inputs):
            if (tensor := left.pop(name, None)) is not None:
                shape, named = tuple(tensor.dims), bool(node.proto.name)
                found.append(Weight(name, shape, node.label, named, node.op_type, place))
    return found


def _matched(ours: list[Weight], theirs: list[Weight], cut: bool) -> dict[str, Weight]:
    """The weight of the second model for the name of one of the first; if that was `cut` from this, first by name."""
    pairs: dict[str, Weight] = {}
    for key in (*((_by_full_name,) if cut else ()), _by_name, _by_node_name):
        there = {key(weight): weight for weight in _unmatched(theirs, pairs.values())}
        for weight in ours:
            found = there.get(key(weight))
            if weight.name not in pairs and found is not None and key(weight) is not None:
                pairs[weight.name] = found
    left = [weight for weight in ours if weight.name not in pairs]
    right = _unmatched(theirs, pairs.values())
    places = [weight.place for weight in left], [weight.place for weight in right]
    for block in SequenceMatcher(None, *places, autojunk=False).get_matching_blocks():
        for step in range(block.size):
            pairs[left[block.a + step].name] = right[block.b + step]
    return pairs


def _by_full_name(weight: Weight) -> object:
    return weight.name, weight.place


def _by_name(weight: Weight) -> object:
    return None if _NUMBERED.match(weight.name) else (weight.name, weight.place)


def _by_node_name(weight: Weight) -> object:
    return (weight.node, weight.place) if weight.named else None


def _unmatched(weights: Iterable[Weight], taken: Iterable[Weight]) -> list[Weight]:
    names = {weight.name for weight in taken}
    return [weight for weight in weights if weight.name not in names]


def _by_node(weights: Iterable[Weight]) -> dict[str, list[Weight]]:
    nodes: dict[str, list[Weight]] = {}
    for weight in weights:
        nodes.setdefault(weight.node, []).append(weight)
    return nodes


def _layer(
    node: str,
    held: list[tuple[Weight, Weight | None]],
    flops: tuple[Mapping[str, float], ...],
    counts: tuple[Counted, Counted],
) -> LayerChange:
    held = sorted(held, key=lambda pair: -math.prod(pair[0].shape))
    other = next((match.node for _, match in held if match is not None), "")
    changes = tuple(
        WeightChange(
            weight.name,
            match.name if match else "",
            weight.shape,
            match.shape if match else None,
            _kept(weight.name, match.name, counts) if match else None,
        )
        for weight, match in held
    )
    work = flops[0].get(node, 0.0), flops[1].get(other, 0.0)
    return LayerChange(node, other, held[0][0].op_type, changes, work)


def _kept(name: str, other: str, counts: tuple[Counted, Counted]) -> tuple[int, int] | None:
    both = counts[0].get(name), counts[1].get(other)
    return None if both[0] is None or both[1] is None else (both[0][0], both[1][0])


def _new_layer(node: str, held: list[Weight], flops: Mapping[str, float]) -> LayerChange:
    changes = tuple(WeightChange("", weight.name, None, weight.shape) for weight in held)
    return LayerChange("", node, held[0].op_type, changes, (0.0, flops.get(node, 0.0)))
