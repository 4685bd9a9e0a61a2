"""Put alternatives beside convolutions: the normal form becomes a supernet in which the original is one choice.

What read a convolution reads the sum of it and of its alternatives (`alternative_layers`), of which one stays
(`tgonnx.analysis.alternatives`); with the convolution alone open it computes what the original computes. The weights of
an alternative are set by least squares so that it puts out what the convolution does, on calibration inputs: `fitted`
never does worse than the start on batches that were held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tgonnx.analysis.model import Model, Node
from tgonnx.analysis.uses import Use, Uses
from tgonnx.errors import OptionError
from tgonnx.graph.proto import attribute_of, replace_nodes, with_values
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.products import Draw
from tgonnx.options import means
from tgonnx.passes.alternative_layers import Convolution, Layer, NoAlternative, layer_of
from tgonnx.passes.compensate import HELD_OUT, MOST_TERMS, ROWS
from tgonnx.runtime.walk import Walk
from tgonnx.selection.least_squares import Moments, fitted

OPERATOR = "Conv"
ROOM = 1 << 29  # bytes of activations that may be kept


@dataclass(frozen=True)
class Placed:
    """The alternatives of one convolution: `meeting` is what they are added up to, `own` what the convolution gives."""

    meeting: str
    own: str
    layers: tuple[Layer, ...]


def add_alternatives(
    model: Model, asked: Mapping[str, Sequence[str]], batches: Sequence[Mapping[str, Array]], threads: int = 0
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of the normal form with alternatives, and the names of their meetings.

    `asked` are names of alternatives by the glob of convolutions. What a convolution cannot have is left out. Raises
    OptionError for a glob that matches no convolution, and for one of whose convolutions none can have any of them.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    placed = [*_placed(model, proto, asked)]
    proto = _with_fits(proto, placed, batches, threads) if len(batches) else proto
    return proto, tuple(each.meeting for each in placed)


def _placed(model: Model, proto: onnx.ModelProto, asked: Mapping[str, Sequence[str]]) -> Iterator[Placed]:
    """Write the alternatives into a copy of the normal form."""
    words = _by_node(model, asked)
    nodes = []
    for index, proto_node in enumerate(proto.graph.node):
        nodes.append(proto_node)
        if index not in words:
            continue
        meeting = proto_node.output[0]
        layers = tuple(layer for _, layer in words[index])
        own = f"{meeting}/own"
        proto_node.output[0] = own
        for layer in layers:
            nodes += layer.nodes
            proto.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in layer.weights)
        values = [own, *(layer.value for layer in layers)]
        nodes.append(helper.make_node("Sum", values, [meeting], name=f"{meeting}/choice"))
        yield Placed(meeting, own, layers)
    replace_nodes(proto.graph, nodes)


def _by_node(model: Model, asked: Mapping[str, Sequence[str]]) -> dict[int, list[tuple[str, Layer]]]:
    """The alternatives that there can be, by the place of the convolution. Raises OptionError."""
    convolutions = {node.index: node for node in model.nodes if node.op_type == OPERATOR}
    found: dict[int, list[tuple[str, Layer]]] = {}
    for glob, words in asked.items():
        hits = [
            node
            for node in convolutions.values()
            if means(glob, node.label, *node.outputs, *node.inputs[1:2])
        ]
        if not hits:
            raise OptionError("alternative", f"{glob!r} names no {OPERATOR} of {model.source}")
        reasons = [reason for node in hits for reason in _add(model, node, words, found)]
        if not any(node.index in found for node in hits):
            raise OptionError("alternative", f"'{glob}={','.join(words)}': {reasons[0]}")
    return found


def _add(
    model: Model, node: Node, words: Sequence[str], found: dict[int, list[tuple[str, Layer]]]
) -> Iterator[str]:
    """Add the alternatives that a convolution can have to those found; why it cannot have the others."""
    of = _read(model, node)
    if of is None:
        yield f"node {node.label} has no stored weight"
        return
    for word in words:
        if word in {known for known, _ in found.get(node.index, ())}:
            continue
        try:
            layer = layer_of(word, of, f"{node.outputs[0]}/{word}")
        except NoAlternative as reason:
            yield f"node {node.label} has no {word} alternative: {reason}"
        else:
            found.setdefault(node.index, []).append((word, layer))


def _read(model: Model, node: Node) -> Convolution | None:
    """What there is to know of a convolution; None if its weight is computed."""
    stored = model.initializers.get(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    if stored is None or (bias and bias not in model.initializers):
        return None
    weight = numpy_helper.to_array(stored)
    rank, proto = weight.ndim - 2, node.proto
    dims = [model.symbols.dims.get(name) for name in (node.inputs[0], node.outputs[0])]
    return Convolution(
        source=node.inputs[0],
        weight=weight,
        bias=numpy_helper.to_array(model.initializers[bias]) if bias else np.zeros(len(weight), weight.dtype),
        strides=tuple(attribute_of(proto, "strides", [1] * rank)),
        dilations=tuple(attribute_of(proto, "dilations", [1] * rank)),
        pads=tuple(attribute_of(proto, "pads", [0] * 2 * rank)),
        automatic=attribute_of(proto, "auto_pad", b"NOTSET").decode(),
        groups=int(attribute_of(proto, "group", 1)),
        same=dims[0] is not None and dims[1] is not None and [*dims[0]] == [*dims[1]],
    )


def _with_fits(
    proto: onnx.ModelProto, placed: Sequence[Placed], batches: Sequence[Mapping[str, Array]], threads: int
) -> onnx.ModelProto:
    """The weights of alternatives set by least squares; a layer of very many terms stays as it starts."""
    by_weight = Uses(proto).by_weight
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    jobs = {
        each.own: [use for layer in each.layers for use in by_weight.get(layer.fitted, ())[:1]]
        for each in placed
    }
    jobs = {own: [u for u in uses if _terms(u, values) <= MOST_TERMS] for own, uses in jobs.items()}
    wanted = {own for own, uses in jobs.items() if uses} | {u.operand for uses in jobs.values() for u in uses}
    walk = Walk(_own_alone(proto, placed), batches, wanted, ROOM, threads)
    for own, uses in jobs.items():
        if uses:
            walk.advance(own)
            values |= _fit(walk, own, uses, values)
    return with_values(proto, values)


def _terms(use: Use, values: Mapping[str, Array]) -> int:
    return int(use.matrix(np.zeros(values[use.weight].shape, bool)).shape[1])


def _fit(walk: Walk, own: str, uses: Sequence[Use], values: Mapping[str, Array]) -> dict[str, Array]:
    """New weights and biases of the alternatives of one convolution."""
    sums = [(Moments(), Moments()) for _ in uses]
    count = len(walk.batches)
    every = min(HELD_OUT, count)
    for number, found in enumerate(walk(sorted({own, *(use.operand for use in uses)}))):
        draw = Draw(ROWS // count + 1, number)
        held_out = number % every == every - 1 and count > 1
        for use, parts in zip(uses, sums, strict=True):
            x = use.product.rows(found[use.operand].astype(np.float32), draw)
            parts[held_out].add(x, _rows_of(found[own].astype(np.float32), len(x), draw))
    solved: dict[str, Array] = {}
    for use, parts in zip(uses, sums, strict=True):
        solved |= _solved(values, use, *parts)
    return solved


def _own_alone(proto: onnx.ModelProto, placed: Sequence[Placed]) -> onnx.ModelProto:
    """The original among its alternatives: what is added up is the convolution alone."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    own = {each.meeting: each.own for each in placed}
    for node in copy.graph.node:
        if node.output[0] in own:
            node.op_type = "Identity"
            node.input[:] = [own[node.output[0]]]
    return copy


def _rows_of(value: Array, groups: int, draw: Draw) -> Array:
    """What a convolution gives [samples, outputs, *space] as rows by groups [groups, rows, outputs of a group]."""
    flat = np.moveaxis(value, 1, -1).reshape(-1, value.shape[1])
    chosen = flat[draw(len(flat))]
    return chosen.reshape(len(chosen), groups, -1).swapaxes(0, 1)


def _solved(values: Mapping[str, Array], use: Use, learnt: Moments, held_out: Moments) -> dict[str, Array]:
    """The weight and the bias that give what is wanted, of the types that they have."""
    name, bias = use.weight, f"{use.weight.removesuffix('weight')}bias"
    weight = values[name]
    places = use.matrix(np.arange(weight.size).reshape(weight.shape))
    offsets = values[bias].astype(np.float64).reshape(places.shape[0], 1, -1)
    start = np.concatenate([weight.astype(np.float64).reshape(-1)[places], offsets], 1)
    held_out = held_out if held_out.count else learnt
    if not learnt.count or not (learnt.finite and held_out.finite):
        return {}
    found = fitted(learnt, held_out, start, True).weights
    new = weight.astype(np.float64).reshape(-1)
    new[places] = found[:, :-1]
    shift = found[:, -1].reshape(-1)
    return {name: new.reshape(weight.shape).astype(weight.dtype), bias: shift.astype(values[bias].dtype)}
