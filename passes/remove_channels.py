"""Surgery: delete closed units from the model and carry the change of shapes downstream.

Handled, node after node, with shapes inferred again as it goes:
* every initializer loses the labels that are closed, along each of its axes;
* the operator's `resize` entry rewrites stored sizes (groups, split sizes, reshape targets, pads, indices, ...);
* a computed reshape or expand target that still says the old size gets its element scaled;
* stored numbers that stand for the length of an axis become that of what is left of it (`tgonnx.analysis.lengths`);
* a size that is divided further on (heads x samples by heads) is set back to what it was before the cut, as a
  division of less would not come out even;
* after each node the inferred shape must be the one that the labels say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx import ops
from tgonnx.analysis.branches import Part, gone_with, still_read
from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.lengths import rescaled
from tgonnx.analysis.model import Model, Node
from tgonnx.analysis.shapes import Shape, Sweep, empty_sweep
from tgonnx.errors import VerificationError
from tgonnx.graph.algebra import Size
from tgonnx.graph.proto import captured_names, fresh_name, remove_unused
from tgonnx.io.checker import is_external, without_initializers
from tgonnx.io.hollow import Hollow, declaration, is_large
from tgonnx.ops.aspects.cut import Cut, Keep
from tgonnx.ops.aspects.relations import Labels, lookup
from tgonnx.passes import PassResult, perform, watching
from tgonnx.passes.file_form import give_form_back
from tgonnx.passes.normalize import sparse_constants
from tgonnx.passes.remove_branches import remove_branches
from tgonnx.passes.zero_weights import zero_weights
from tgonnx.selection.mask import Mask

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class RemoveChannels:
    """Delete the units that `mask` closes."""

    name: ClassVar = "remove-channels"
    in_place: ClassVar = False

    coupling: Coupling
    mask: Mask

    @property
    def keeps_values(self) -> bool:
        """With nothing closed."""
        return bool(self.mask.open.all())

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        result = _Surgeon(model, self.coupling, self.mask).run().filled()
        return PassResult(result, not self.keeps_values or result != model)


def apply(coupling: Coupling, mask: Mask, sparse: bool = False) -> onnx.ModelProto:
    """The pruned model, its weights stored sparsely where that is asked for and smaller.

    With nothing closed, it is the original itself.
    """
    mask.check(coupling)
    if mask.keeps_everything:
        return coupling.model.original
    pruned = remove_channels(coupling.model.proto, coupling, mask)
    return give_form_back(pruned, coupling.model.outline, sparse)


def apply_sharing(coupling: Coupling, mask: Mask, sparse: bool = False) -> Hollow:
    """The pruned model, whose weights are cut whenever they are asked for: `apply` for large models.

    Where parts or single weights go, or are stored sparsely, and while passes are watched, they are cut at once.
    """
    mask.check(coupling)
    if sparse or mask.keeps_everything or mask.weights or mask.branches or watching():
        return Hollow.of(apply(coupling, mask, sparse))
    cut = _Surgeon(coupling.model.proto, coupling, mask).run()
    outline = coupling.model.outline
    if outline.graph.sparse_initializer or sparse_constants(outline):  # for which values are needed
        return Hollow.of(give_form_back(cut.filled(), outline))
    return Hollow(give_form_back(cut.proto, outline), cut.stored)


def remove_channels(proto: onnx.ModelProto, coupling: Coupling, mask: Mask) -> onnx.ModelProto:
    """Cut a copy of `proto`, which has the structure that `coupling` was made from (its weights may differ).

    Parts go after the channels: what is cut in them is not missed, and shortcuts have the channels of their sums.
    Raises VerificationError naming the node whose shape would not be what the labels say.
    """
    cut = perform(RemoveChannels(coupling, mask), proto).model
    if mask.weights:
        cut = zero_weights(cut, mask.weights)
    if not mask.branches:
        return cut
    gone = gone_with(coupling.model, joined_parts(coupling, mask)).nodes
    parts = coupling.parts(mask.branches)
    return remove_branches(
        cut,
        coupling.model,
        [part for part in parts if part.add not in gone and not len(coupling.units_along(part))],
    )


def joined_parts(coupling: Coupling, mask: Mask) -> list[Part]:
    """What a mask takes out of Concats: with their channels, not behind them."""
    return [part for part in coupling.parts(mask.branches) if len(coupling.units_along(part))]


class _Surgeon:
    def __init__(self, model: onnx.ModelProto, coupling: Coupling, mask: Mask) -> None:
        kept = np.append(mask.open, True)
        self.kept: Keep = kept[coupling.unit_of]
        self.coupling = coupling
        # cut in a copy, a weight would still take its memory
        self.proto = proto = without_initializers(model)
        self.graph = proto.graph
        self.whole: dict[str, TensorProto] = {}
        for tensor in model.graph.initializer:
            self.graph.initializer.append(self._placed(tensor))
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.users = Counter(name for node in self.graph.node for name in node.input)
        self.users.update(captured_names(self.graph) | {value.name for value in self.graph.output})
        self.divided = _divided(coupling.model)
        joined = joined_parts(coupling, mask)
        self.gone, self.left = gone_with(coupling.model, joined).nodes, still_read(coupling.model, joined)
        self.sweep: Sweep = empty_sweep(proto)
        self.sweep.assumed, self.sweep.hints = coupling.model.first.assumed, dict(self._assumptions())

    def keep(self, labels: Labels) -> Keep:
        return lookup(self.kept, labels)

    def run(self) -> Hollow:
        """The cut model."""
        model = self.coupling.model
        for tensor in self.graph.initializer:
            self.sweep.declare_initializer(tensor)
        for name in model.inputs:
            if name in model.shapes:
                self.sweep.declare(name, model.first.types[name], model.shapes[name])
        self._rescale()
        for index, node in enumerate(list(self.graph.node)):
            if index in self.left:
                self._without(node, self.left[index])
            elif index in self.gone:
                self.graph.node.remove(node)
                continue
            self._resize(index, node)
            if node.op_type == "Shape" and node.output[0] in self.divided:
                self._set_back(index, node)
            self.sweep.visit(node)
            self._check(node)
        self._correct_hints()
        remove_unused(self.graph)
        left = {tensor.name for tensor in filter(is_external, self.graph.initializer)}
        return Hollow(self.proto, _Slices({name: self.whole[name] for name in left}, self._sliced))

    def _without(self, node: onnx.NodeProto, left: tuple[str, ...]) -> None:
        """Let a Concat join what is left."""
        node.input[:] = left
        if len(left) == 1:
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]

    def _masks(self, tensor: onnx.TensorProto) -> list[np.ndarray]:
        return [self.keep(labels) for labels in self.coupling.labelling.axes.get(tensor.name, ())]

    def _placed(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """What stands for the tensor in the cut model: a declaration with its new sizes, if it is a large weight."""
        if tensor.data_type not in _FLOATS or not is_large(tensor):  # analysis may read sizes
            return self._sliced(tensor)
        self.whole[tensor.name] = tensor
        stub = declaration(tensor)
        for axis, mask in enumerate(self._masks(tensor)):
            stub.dims[axis] = int(mask.sum())
        return stub

    def _sliced(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """The tensor without closed labels; itself if it has none."""
        masks = self._masks(tensor)
        if all(mask.all() for mask in masks):
            return tensor
        values = numpy_helper.to_array(tensor)
        for axis, mask in enumerate(masks):
            if not mask.all():
                values = np.compress(mask, values, axis)
        cut = numpy_helper.from_array(np.ascontiguousarray(values), tensor.name)
        cut.doc_string = tensor.doc_string
        return cut

    def _rescale(self) -> None:
        """Stored numbers that stand for the length of an axis; one that other nodes use, too, is left to them."""
        coupling = self.coupling
        for number in rescaled(coupling.model, coupling.lengths, lambda labels: int(self.keep(labels).sum())):
            tensor = self.initializers[number.name]
            there = self._sliced(self.whole[number.name]) if is_external(tensor) else tensor
            stored = numpy_helper.to_array(there)
            changed = np.asarray((stored.astype(np.float64) * number.factor).astype(stored.dtype))
            if number.alone:
                tensor.CopyFrom(numpy_helper.from_array(changed, number.name))
                self.sweep.declare_initializer(tensor)
                continue
            for length in number.lengths:
                self._set_input(self.graph.node[length.node], length.input, changed)

    def _resize(self, index: int, node: onnx.NodeProto) -> None:
        view = self.coupling.views[index]
        entry = ops.resize.get(node.op_type, node.domain)
        touched = [axis for o in (*view.inputs, *view.outputs) if o is not None for axis in o.axes]
        if entry is None or all(self.keep(axis).all() for axis in touched):
            return
        cut = Cut(
            self.keep,
            lambda i: self._now(node, i),
            lambda name, value: _set_attribute(node, name, value),
            lambda i, value: self._set_input(node, i, value),
        )
        try:
            entry(view, cut)
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:  # not foreseen, as in a rule
            reason = f"its sizes cannot follow the cut ({type(error).__name__}: {error})"
            raise VerificationError(f"node {view.label} ({node.op_type}): {reason}") from error

    def _now(self, node: onnx.NodeProto, index: int) -> np.ndarray | None:
        """The value of an input that is stored, or of one that is computed from sizes."""
        name = node.input[index] if index < len(node.input) else ""
        return self.sweep.known.get(name)

    def _set_input(self, node: onnx.NodeProto, index: int, value: np.ndarray) -> None:
        while len(node.input) <= index:
            node.input.append("")
        old = node.input[index]
        if old and old not in self.initializers:
            self._scale(node, index, value)
            return
        name = old
        if old not in self.initializers or self.users[old] > 1:
            name = fresh_name(f"{node.output[0]}_cut_{index}", {**self.initializers, **self.sweep.types})
            self.initializers[name] = self.graph.initializer.add()
            self.users[old] -= 1
            self.users[name] = 1
            node.input[index] = name
        self.initializers[name].CopyFrom(numpy_helper.from_array(value, name))
        self.sweep.declare_initializer(self.initializers[name])

    def _scale(self, node: onnx.NodeProto, index: int, value: np.ndarray) -> None:
        """A computed size: multiply each element by wanted / present, which leaves the others what they are."""
        old = node.input[index]
        now, changed = self.sweep.known[old], value != self.sweep.known[old]
        if (now[changed] == 0).any():
            raise VerificationError(
                f"node {node.name or node.op_type} ({node.op_type}): {old!r} is computed as {now.tolist()}, "
                f"which no factor makes {value.tolist()}"
            )
        node.input[index] = self._multiplied(
            node, old, np.where(changed, value, 1), np.where(changed, now, 1)
        )

    def _set_back(self, index: int, node: onnx.NodeProto) -> None:
        """Let a Shape node say what it said before the cut."""
        view = self.coupling.views[index]
        axes = view.input(0).axes[slice(view.attribute("start", 0), view.attribute("end", None))]
        before = np.array([len(labels) for labels in axes], np.int64)
        now = np.array([self.keep(labels).sum() for labels in axes], np.int64)
        if np.array_equal(before, now):
            return
        name, node.output[0] = node.output[0], fresh_name(f"{node.output[0]}_now", self.sweep.types)
        self.sweep.visit(node)
        cut = (
            before != now
        )  # what stays is multiplied by one, though it be nothing under the sizes of analysis
        self._multiplied(node, node.output[0], np.where(cut, before, 1), np.where(cut, now, 1), name)

    def _multiplied(
        self, node: onnx.NodeProto, source: str, by: np.ndarray, over: np.ndarray, into: str = ""
    ) -> str:
        """`source` * by / over, computed next to `node`: behind it if it makes `source`, else before it."""
        position = next(
            i for i, other in enumerate(self.graph.node) if other is node or other.output == node.output
        )
        position += source in node.output
        common = np.maximum(np.gcd(by, over), 1)
        for op_type, factor, last in (("Mul", by // common, ""), ("Div", over // common, into)):
            taken = {**self.initializers, **self.sweep.types}
            name = fresh_name(f"{node.output[0]}_{op_type.lower()}", taken)
            self.initializers[name] = self.graph.initializer.add()
            self.initializers[name].CopyFrom(numpy_helper.from_array(factor.astype(over.dtype), name))
            self.sweep.declare_initializer(self.initializers[name])
            out = last or fresh_name(f"{name}_out", self.sweep.types)
            scaled = helper.make_node(op_type, [source, name], [out])
            self.graph.node.insert(position, scaled)
            position += 1
            self.sweep.visit(scaled)
            source = out
        return source

    def _assumptions(self) -> Iterator[tuple[str, tuple[int, Shape]]]:
        """What analysis assumed where shapes cannot be inferred, after the cut: both see the same shapes."""
        first = self.coupling.model.first
        for name in first.free:
            axes = self.coupling.labelling.axes.get(name)
            if axes is not None:
                yield name, (first.types[name], tuple(int(self.keep(axis).sum()) for axis in axes))

    def _check(self, node: onnx.NodeProto) -> None:
        for name in node.output:
            axes = self.coupling.labelling.axes.get(name)
            if axes is None:
                continue
            wanted = tuple(int(self.keep(axis).sum()) for axis in axes)
            found = self.sweep.shapes.get(name)
            if found != wanted:
                why = self.sweep.problems.get(node.output[0], "")
                raise VerificationError(
                    f"node {node.name or node.op_type} ({node.op_type}): {name!r} would have shape {found}, "
                    f"the labels say {wanted} {why}".rstrip()
                )

    def _correct_hints(self) -> None:
        """The shapes that the file states of inner values: a cut size becomes what is left of it.

        Only what was a number is one afterwards, and not where it contradicts what the size depends on: runtimes
        believe these shapes, and a batch of the analysis among them would be the only one that runs.
        """
        model = self.coupling.model
        for value in self.graph.value_info:
            axes, sizes = self.coupling.labelling.axes.get(value.name), model.symbols.dims.get(value.name)
            dims = value.type.tensor_type.shape.dim
            if axes is None or sizes is None or not len(dims) == len(axes) == len(sizes):
                continue
            free = model.first.free.get(value.name, frozenset())
            for axis, (dim, labels, size) in enumerate(zip(dims, axes, sizes, strict=True)):
                kept = self.keep(labels)
                stale = isinstance(size, Size) and axis not in free
                if not dim.HasField("dim_value") or stale:
                    if not kept.all() or dim.HasField("dim_value"):
                        dim.Clear()
                elif not kept.all():
                    dim.dim_value = int(kept.sum())


class _Slices(Mapping[str, onnx.TensorProto]):
    """Tensors that are cut whenever they are asked for."""

    def __init__(
        self,
        whole: Mapping[str, onnx.TensorProto],
        cut: Callable[[onnx.TensorProto], onnx.TensorProto],
    ) -> None:
        self._whole, self._cut = whole, cut

    def __getitem__(self, name: str) -> onnx.TensorProto:
        return self._cut(self._whole[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


def _divided(model: Model) -> set[str]:
    """Sizes that are divided further on, be it after other arithmetic."""
    users: dict[str, list[Node]] = defaultdict(list)
    for node in model.nodes:
        for name in node.inputs:
            users[name].append(node)
    found: set[str] = set()
    for node in reversed(model.nodes):
        for output in node.outputs:
            if output in model.first.known and any(
                user.op_type in ("Div", "Mod") or found & set(user.outputs) for user in users[output]
            ):
                found.add(output)
    return found


def _set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    for i, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[i]
            break
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))
