"""Fold what does not depend on the dynamic axes, and write reshape targets plainly.

What is static is what `tgonnx.analysis.symbolic` proves by data flow; that a value was the same when it was tried is
no proof.
Handled:
* a value that is static becomes an initializer (shape arithmetic, index tables, masks), unless it is large;
* `If` with a static condition becomes the branch that is taken;
* a `Gather` that takes a flat value in order (what exporters make of as_strided) becomes a `Reshape`;
* a `BatchNormalization` in training mode whose running statistics nothing uses (weight standardisation) gets
  constants for the old ones, which it does not read, either;
* a computed `Reshape` target becomes a constant where static sizes, 0 (for an axis that has the size of the input's
  axis at that place, whatever it is) and one -1 (the rest) can say it;
* nodes and initializers that nothing uses any more are removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from tgonnx.analysis.bindings import axis_keys, bind, rebind
from tgonnx.analysis.shapes import Shape, Sweep
from tgonnx.analysis.symbolic import Symbols, follow
from tgonnx.graph.algebra import Size
from tgonnx.graph.proto import captured_names, dense, fresh_name, remove_unused, replace_nodes
from tgonnx.passes import PassResult, perform
from tgonnx.passes.normalize import ConstantsToInitializers

MAX_FOLDED = 1 << 16  # elements of the largest value that is stored instead of computed


@dataclass(frozen=True)
class FoldShapes:
    """Fold static values, in place; `symbols` are those of this very model."""

    name: ClassVar = "fold-shapes"
    in_place: ClassVar = True
    keeps_values: ClassVar = True

    symbols: Symbols

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        graph, symbols = model.graph, self.symbols
        static = {name: value for name, value in symbols.first.known.items() if name not in symbols.elements}
        changed = _inline_static_branches(graph, static)
        changed = _fold(graph, static) or changed
        changed = _gathers_in_order(graph, symbols) or changed
        changed = _forget_running_statistics(graph, symbols.first) or changed
        changed = _plain_reshapes(graph, symbols) or changed
        return PassResult(model, remove_unused(graph) or changed)


def _inline_static_branches(graph: onnx.GraphProto, static: dict[str, np.ndarray]) -> bool:
    nodes: list[onnx.NodeProto] = []
    changed = False
    for index, node in enumerate(graph.node):
        if node.op_type != "If" or node.input[0] not in static:
            nodes.append(node)
            continue
        wanted = "then_branch" if bool(static[node.input[0]].all()) else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == wanted)
        nodes += _spliced(branch, node, f"{node.name or 'If'}_{index}/", graph)
        changed = True
    if changed:
        replace_nodes(graph, nodes)
    return changed


def _spliced(
    branch: onnx.GraphProto, node: onnx.NodeProto, prefix: str, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """The branch's nodes, its own names made unique, and an `Identity` for each output of the `If`."""
    stored = [*branch.initializer, *(dense(t, t.values.name) for t in branch.sparse_initializer)]
    tensors = {tensor.name for tensor in stored}
    renamed = {name: prefix + name for inner in branch.node for name in inner.output if name}
    renamed |= {name: prefix + name for name in tensors}
    for tensor in stored:
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = renamed[tensor.name]
    body = []
    for inner in branch.node:
        clone = onnx.NodeProto()
        clone.CopyFrom(inner)
        clone.name = prefix + inner.name if inner.name else ""
        clone.output[:] = [renamed.get(name, name) for name in inner.output]
        _rename_inputs(clone, renamed)
        body.append(clone)
    for value, name in zip(branch.output, node.output, strict=True):
        body.append(onnx.helper.make_node("Identity", [renamed.get(value.name, value.name)], [name]))
    return body


def _rename_inputs(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    node.input[:] = [renamed.get(name, name) for name in node.input]
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                _rename_inputs(inner, renamed)
            for value in attribute.g.output:
                value.name = renamed.get(value.name, value.name)


def _fold(graph: onnx.GraphProto, static: dict[str, np.ndarray]) -> bool:
    fixed = {value.name for value in graph.output}
    kept, folded = [], []
    for node in graph.node:
        outputs = [name for name in node.output if name]
        values = [static[name] for name in outputs if name in static]
        if (
            len(values) == len(outputs)
            and not fixed & set(outputs)
            and all(v.size <= MAX_FOLDED for v in values)
        ):
            folded += [numpy_helper.from_array(v, n) for v, n in zip(values, outputs, strict=True)]
        else:
            kept.append(node)
    if not folded:
        return False
    used = {name for node in kept for name in node.input} | captured_names(graph)
    graph.initializer.extend(tensor for tensor in folded if tensor.name in used)
    replace_nodes(graph, kept)
    return True


def _gathers_in_order(graph: onnx.GraphProto, symbols: Symbols) -> bool:
    changed = False
    for node in graph.node:
        if node.op_type == "Gather" and _in_order(node, symbols):
            target = _plain_target(node, symbols)
            if target is not None:
                name = fresh_name(f"{node.output[0]}_shape", {t.name for t in graph.initializer})
                graph.initializer.append(numpy_helper.from_array(target, name))
                node.op_type, node.input[1] = "Reshape", name
                del node.attribute[:]
                changed = True
    return changed


def _forget_running_statistics(graph: onnx.GraphProto, sweep: Sweep) -> bool:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    initializers = {tensor.name for tensor in graph.initializer}
    changed = False
    for node in graph.node:
        training = any(a.name == "training_mode" and a.i for a in node.attribute)
        if node.op_type != "BatchNormalization" or not training or used & set(node.output[1:]):
            continue
        if initializers.issuperset(node.input[3:5]):
            continue
        shape, kind = (
            sweep.shapes[node.input[1]],
            onnx.helper.tensor_dtype_to_np_dtype(sweep.types[node.input[1]]),
        )
        for index, stem in ((3, "mean"), (4, "var")):
            name = fresh_name(f"{node.output[0]}_{stem}", initializers)
            graph.initializer.append(numpy_helper.from_array(np.ones(shape, kind), name))
            initializers.add(name)
            node.input[index] = name
        changed = True
    return changed


def _in_order(node: onnx.NodeProto, symbols: Symbols) -> bool:
    shape, indices = symbols.dims.get(node.input[0], ()), symbols.static(node.input[1])
    if len(shape) != 1 or indices is None or indices.size != shape[0]:
        return False
    return np.array_equal(indices.ravel(), np.arange(indices.size))


def _plain_reshapes(graph: onnx.GraphProto, symbols: Symbols) -> bool:
    initializers = {tensor.name for tensor in graph.initializer}
    changed = False
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in initializers:
            continue
        target = _plain_target(node, symbols)
        if target is not None:
            name = fresh_name(f"{node.output[0]}_shape", initializers)
            graph.initializer.append(numpy_helper.from_array(target, name))
            initializers.add(name)
            node.input[1] = name
            changed = True
    return changed


def _plain_target(node: onnx.NodeProto, symbols: Symbols) -> np.ndarray | None:
    """The target as constants, 0 where a dynamic size is copied, and at most one -1; None if that cannot say it."""
    x, y = symbols.dims.get(node.input[0]), symbols.dims.get(node.output[0])
    if x is None or y is None or any(size == 0 for size in y):
        return None
    target = np.array([-1 if isinstance(size, Size) else int(size) for size in y], np.int64)
    if not any(a.name == "allowzero" and a.i for a in node.attribute):
        copied = [i for i, size in enumerate(y) if isinstance(size, Size) and i < len(x) and x[i] == size]
        target[copied] = 0
        if -1 in target and not all(symbols.algebra.positive(y[i]) for i in copied):
            return None  # beside an axis without elements, -1 cannot be told
    return target if (target == -1).sum() <= 1 else None


def fold(proto: onnx.ModelProto, sizes: Mapping[str, Shape]) -> tuple[onnx.ModelProto, Symbols]:
    """Store what depends on no dynamic axis; `proto` is changed. What is known of its sizes comes with it."""
    bindings = bind(proto, sizes)
    while True:
        first, second = bindings
        symbols = follow(proto, first.swept, second.swept, axis_keys(proto))
        result = perform(FoldShapes(symbols), proto)
        proto = result.model
        if not result.changed:
            return proto, symbols
        perform(ConstantsToInitializers(), proto)  # those that a branch brought along
        bindings = rebind(proto, bindings)
        if bindings[0].problems:  # what was folded shows that the sizes do not fit
            bindings = bind(proto, sizes)
