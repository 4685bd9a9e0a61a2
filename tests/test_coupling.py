"""Groups do not depend on how a model is written down, and are the same every time."""

from __future__ import annotations

import networkx as nx
import numpy as np
import onnx
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper, parser
from random_graphs import random_model

from tgonnx.analysis.axis_graph import Axis
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.selection.budget import random_mask

seeds = st.integers(0, 2**32 - 1)
Outline = list[tuple[int, int, tuple[tuple[str, int], ...]]]


def coupling_of(model: onnx.ModelProto) -> Coupling:
    return analyze(load(model))


def outline(coupling: Coupling, prefix: str = "") -> Outline:
    """Groups as sizes, widths and weight axes, in no particular order."""
    weights = coupling.model.initializers
    return sorted(
        (
            g.size,
            g.width,
            tuple(sorted((m.value.removeprefix(prefix), m.axis) for m in g.members if m.value in weights)),
        )
        for g in coupling.groups
    )


def reordered(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The nodes in another topological order, the initializers shuffled."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(seed)
    made = {name for node in model.graph.node for name in node.output}
    waiting, done, order = list(model.graph.node), set[str](), []
    while waiting:
        ready = [i for i, n in enumerate(waiting) if all(x in done or x not in made for x in n.input)]
        node = waiting.pop(ready[int(rng.integers(len(ready)))])
        done.update(node.output)
        order.append(node)
    tensors = [model.graph.initializer[i] for i in rng.permutation(len(model.graph.initializer))]
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(order)
    copy.graph.initializer.extend(tensors)
    return copy


def renamed(model: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    """Every value and node with another name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.name = f"{prefix}{node.name}" if node.name else ""
        node.input[:] = [prefix + name if name else "" for name in node.input]
        node.output[:] = [prefix + name if name else "" for name in node.output]
    for value in [*copy.graph.input, *copy.graph.output, *copy.graph.value_info, *copy.graph.initializer]:
        value.name = prefix + value.name
    return copy


def with_constant_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every initializer as a Constant node."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.initializer[:], copy.graph.node[:]
    for tensor in model.graph.initializer:
        copy.graph.node.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
    copy.graph.node.extend(model.graph.node)
    return copy


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=seeds, opset=st.sampled_from([11, 17, 21]), length=st.integers(1, 4))
@example(seed=26741940, opset=11, length=4)  # units of kinds of their own, in weights of another order
def test_the_way_of_writing_does_not_matter(seed: int, opset: int, length: int) -> None:
    model = random_model(seed, opset, length)
    expected = outline(coupling_of(model))
    assert outline(coupling_of(reordered(model, seed))) == expected
    assert outline(coupling_of(renamed(model, "zz_")), "zz_") == expected
    assert outline(coupling_of(with_constant_nodes(model))) == expected


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=seeds, length=st.integers(1, 4))
def test_the_result_is_the_same_every_time(seed: int, length: int) -> None:
    model = random_model(seed, 17, length)
    first, second = coupling_of(model), coupling_of(model)
    assert first.to_json() == second.to_json()
    assert np.array_equal(first.unit_of, second.unit_of)
    assert [(s.node, s.input, s.axis, s.units.tolist()) for s in first.sites] == [
        (s.node, s.input, s.axis, s.units.tolist()) for s in second.sites
    ]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=seeds, keep=st.floats(0.01, 0.5))
def test_no_group_and_no_axis_is_emptied(seed: int, keep: float) -> None:
    coupling = coupling_of(random_model(seed, 17, 3))
    mask = random_mask(coupling, keep, seed)
    kept = np.append(mask.open, True)[coupling.unit_of]
    assert all(mask.open[group.units].any() for group in coupling.groups)
    assert all(
        kept[labels].any() for axes in coupling.labelling.axes.values() for labels in axes if len(labels)
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=seeds)
def test_every_unit_is_in_one_group_and_in_a_weight(seed: int) -> None:
    coupling = coupling_of(random_model(seed, 17, 3))
    units = np.concatenate([np.zeros(0, np.int64), *(group.units for group in coupling.groups)])
    assert units.tolist() == list(range(coupling.units))
    for group in coupling.groups:
        held = [coupling.axis_units(m) for m in group.members if m.value in coupling.model.static]
        assert set(group.units.tolist()) <= set(np.concatenate(held).tolist())


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=seeds)
def test_a_group_is_connected_in_the_axis_graph(seed: int) -> None:
    coupling = coupling_of(random_model(seed, 17, 3))
    for group in coupling.groups:
        inside = nx.node_connected_component(coupling.axis_graph, group.members[0])
        assert set(group.members) <= inside


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=seeds)
def test_a_reason_reaches_the_axis_that_it_pins(seed: int) -> None:
    coupling = coupling_of(random_model(seed, 17, 3))
    for pin in coupling.pinned:
        if not pin.op_type:
            continue
        way = coupling.why(pin)
        axes, nodes = way[::2], way[1::2]
        assert str(axes[0]) == f"{pin.value}[{pin.axis}]"
        for a, b, node in zip(axes, axes[1:], nodes, strict=False):
            assert coupling.axis_graph.edges[a, b]["node"] == node
        last = axes[-1].value  # type: ignore[union-attr]
        makers = [n for n in coupling.model.nodes if last in (*n.inputs, *n.outputs)]
        ends = {"input": coupling.model.inputs, "output": coupling.model.outputs}.get(pin.op_type, ())
        assert last in ends if not pin.node else pin.node in {n.label for n in makers}


def parsed(text: str, domain: str = "", **weights: tuple[int, ...]) -> Coupling:
    """The coupling of a graph with random weights of these shapes."""
    imports = '"" : 18' + (f', "{domain}" : 1' if domain else "")
    model = parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> {text}")
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        values = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return coupling_of(model)


def test_the_node_that_ties_all_channels_is_named() -> None:
    """A sum with the channels moved on by one ties each to the next."""
    coupling = parsed(
        """net (float[N, 3] x) => (float[N, 2] y) <int64[4] next = {1, 2, 3, 0}> {
            h = MatMul (x, w)
            [moved] g = Gather <axis = 1> (h, next)
            [sum] s = Add (h, g)
            y = MatMul (s, v)
        }""",
        w=(3, 4),
        v=(4, 2),
    )
    assert coupling.units == 0
    (pin,) = [p for p in coupling.pinned if (p.value, p.axis) == ("w", 1)]
    assert (pin.node, pin.op_type, pin.kept) == ("sum", "Add", 4)
    assert pin.reason == "all 4 channels are tied together, by sum"
    assert coupling.why(pin)[-1] == Axis("h", 1)  # an axis of the node


def test_a_channel_without_company_is_called_so() -> None:
    """Of two channels, the other one is an output."""
    coupling = parsed(
        """net (float[N, 3] x) => (float[N, 1] y, float[N, 2] z)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}> {
            h = MatMul (x, w)
            y = Slice (h, one, two, one)
            b = Slice (h, zero, one, one)
            z = MatMul (b, v)
        }""",
        w=(3, 2),
        v=(1, 2),
    )
    assert coupling.units == 0
    (pin,) = [p for p in coupling.pinned if (p.value, p.axis) == ("w", 1)]
    assert (pin.node, pin.reason) == ("", "it is the only unit of its kind")


def test_what_is_not_counted_is_named() -> None:
    """A convolution has multiplications that are counted, a sum has none, of a foreign operator nobody knows."""
    coupling = parsed(
        """net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
            [mix] h = Conv (x, w)
            s = Add (h, b)
            [strange] y = foreign.Mix (s, m)
        }""",
        "foreign",
        w=(4, 3, 1, 1),
        b=(4, 1, 1),
        m=(4, 4),
    )
    assert coupling.cost_model.uncounted == ("strange (Mix)",)
    assert list(coupling.cost_model.by_owner("flops")) == ["mix"]
