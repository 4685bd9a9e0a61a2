"""The sizes that dynamic axes are tried with.

Analysis wants concrete shapes. Every dynamic axis, named or not, gets a size of its own, so that two axes are not
taken for one; where a model does not run so (a mask must be as long as the tokens), axes of one kind share a size.
Which sizes a model accepts is not written in the file: several are tried, and the binding with the fewest
contradictions is taken. Nothing is concluded from sizes that were tried: what is the same for all inputs is what
`tgonnx.analysis.symbolic` says.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from tgonnx.analysis.shapes import Hint, Shape, Sweep, sweep
from tgonnx.graph.declared import fixed_size, is_placeholder, model_inputs
from tgonnx.io.forced_sizes import forced_sizes
from tgonnx.io.named_sizes import MOST, named_sizes

BATCHES = (2, 5, 9, 13, 17, 21, 25, 29)  # of the first, second, ... dynamic first axis
SIDES = (64, 224, 32, 128, 256, 16, 512, 8, 4)  # of images; further sides are 3/2, 5/2, 7/2, ... of it
LENGTHS = (8, 16, 64, 128, 4, 1024, 16000)  # of everything else, samples of sound last; further ones likewise
ASSUMED = (7, 11)  # what stands for a size that depends on data, in the two bindings
MAX_APART = 8  # axes that are told apart one by one where not all can be


@dataclass(frozen=True)
class DynamicAxis:
    """An axis of a model's inputs whose size is not fixed; one with a name may stand in several places."""

    key: Hashable
    kind: str  # batch, side or length


@dataclass(frozen=True)
class Binding:
    """What the dynamic axes are bound to, and the shapes and values that follow."""

    sizes: Mapping[Hashable, int]
    swept: Sweep

    @property
    def problems(self) -> int:
        return len(self.swept.problems)


def axis_keys(proto: onnx.ModelProto) -> dict[str, list[Hashable | None]]:
    """For each input the name of each axis; None where its size is fixed, by declaration or by the weight it meets."""
    forced = forced_sizes(proto)
    return {
        value.name: [
            None
            if fixed_size(dim) is not None or (value.name, axis) in forced
            else dim.dim_param
            if not is_placeholder(dim.dim_param)
            else (value.name, axis)
            for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        ]
        for value in _tensor_inputs(proto)
    }


def bind(proto: onnx.ModelProto, given: Mapping[str, Shape]) -> tuple[Binding, Binding]:
    """Two bindings under which the model has few contradictions or none; `given` are whole shapes of inputs.

    The second differs from the first in every dynamic axis where the model lets it.
    """
    axes = _dynamic_axes(proto)
    wanted = _given_sizes(proto, given)
    first = _first(proto, axes, wanted)
    second = _second(proto, axes, first)
    return first, second


def rebind(proto: onnx.ModelProto, bindings: tuple[Binding, Binding]) -> tuple[Binding, Binding]:
    """The same sizes for a model that was changed."""
    first, second = (
        replace(binding, swept=_swept(proto, binding.sizes, assumed))
        for binding, assumed in zip(bindings, ASSUMED, strict=True)
    )
    return first, second


# --- which axes there are -------------------------------------------------------------------------------


def _tensor_inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [value for value in model_inputs(proto) if value.type.tensor_type.HasField("shape")]


def _dynamic_axes(proto: onnx.ModelProto) -> list[DynamicAxis]:
    found: dict[Hashable, str] = {}
    for keys in axis_keys(proto).values():
        for axis, key in enumerate(keys):
            if key is not None:
                kind = "batch" if axis == 0 else "side" if len(keys) > 3 else "length"
                found.setdefault(key, kind)
    return [DynamicAxis(key, kind) for key, kind in found.items()]


def _given_sizes(proto: onnx.ModelProto, given: Mapping[str, Shape]) -> dict[Hashable, int]:
    """What whole shapes of inputs say of the dynamic axes, and what weights do."""
    sizes: dict[Hashable, int] = {(name, axis): size for (name, axis), size in forced_sizes(proto).items()}
    for name, keys in axis_keys(proto).items():
        for axis, (key, size) in enumerate(zip(keys, given.get(name, ()), strict=False)):
            sizes[(name, axis) if key is None else key] = int(size)
    return sizes


# --- which sizes they get -------------------------------------------------------------------------------


def _first(proto: onnx.ModelProto, axes: Sequence[DynamicAxis], given: Mapping[Hashable, int]) -> Binding:
    best: Binding | None = None
    troubles = []
    candidates = _candidates([axis for axis in axes if axis.key not in given], named_sizes(proto))
    for number, (side, length) in enumerate(candidates):
        for share in (False, True):
            sizes = _sizes(axes, side, length, share) | dict(given)
            if best is not None and sizes == best.sizes:
                continue
            binding = Binding(sizes, _swept(proto, sizes, ASSUMED[0]))
            troubles.append(set(binding.swept.problems))
            if best is None or binding.problems < best.problems:
                best = binding
            if not binding.problems:
                return _told_apart(proto, axes, given, binding, side, length) if share else binding
        if number > MOST and all(trouble == troubles[0] for trouble in troubles):
            break  # it is not the sizes
    assert best is not None
    return best


def _candidates(axes: Sequence[DynamicAxis], named: Sequence[int]) -> list[tuple[int, int]]:
    """Sides and lengths to try: the most usual, those that the graph names, then others."""
    kinds = {axis.kind for axis in axes}
    sides = SIDES if "side" in kinds else SIDES[:1]
    lengths = LENGTHS if "length" in kinds else LENGTHS[:1]
    first = [(sides[0], lengths[0])]
    if "length" in kinds:
        first += [(sides[0], size) for size in named]
    elif "side" in kinds:
        first += [(size, lengths[0]) for size in named]
    others = [(side, n) for n in lengths[:2] for side in sides] + [(sides[0], n) for n in lengths[2:]]
    return list(dict.fromkeys(first + others)) if kinds & {"side", "length"} else first


def _sizes(axes: Sequence[DynamicAxis], side: int, length: int, share: bool) -> dict[Hashable, int]:
    """A size for each axis: its own, or that of its kind."""
    sizes, count = {}, dict.fromkeys(("batch", "side", "length"), 0)
    for axis in axes:
        number = 0 if share else count[axis.kind]
        count[axis.kind] += 1
        if axis.kind == "batch":
            sizes[axis.key] = BATCHES[number % len(BATCHES)]
        else:
            base = side if axis.kind == "side" else length
            sizes[axis.key] = base if not number else base * (2 * number + 1) // 2
    return sizes


def _told_apart(
    proto: onnx.ModelProto,
    axes: Sequence[DynamicAxis],
    given: Mapping[Hashable, int],
    together: Binding,
    side: int,
    length: int,
) -> Binding:
    """A binding in which axes share sizes, but for those that need not."""
    own = _sizes(axes, side, length, share=False)
    for key in [axis.key for axis in axes if axis.key not in given][:MAX_APART]:
        if own[key] != together.sizes[key]:
            sizes = {**together.sizes, key: own[key]}
            apart = Binding(sizes, _swept(proto, sizes, ASSUMED[0]))
            together = together if apart.problems else apart
    return together


def _second(proto: onnx.ModelProto, axes: Sequence[DynamicAxis], first: Binding) -> Binding:
    """Twice the sizes, and another batch; less of it where the model does not run so."""
    kinds = {axis.key: axis.kind for axis in axes}
    doubled = {
        key: size + 1 if kinds.get(key) == "batch" else 2 * size if key in kinds else size
        for key, size in first.sizes.items()
    }
    samples = {key: doubled[key] if kinds.get(key) == "batch" else size for key, size in first.sizes.items()}
    for sizes in (doubled, samples):
        if sizes != first.sizes:
            binding = Binding(sizes, _swept(proto, sizes, ASSUMED[1]))
            if binding.problems <= first.problems:
                return binding
    return Binding(first.sizes, _swept(proto, first.sizes, ASSUMED[1]))


# --- sweeping -------------------------------------------------------------------------------------------


def _swept(proto: onnx.ModelProto, sizes: Mapping[Hashable, int], assumed: int) -> Sweep:
    inputs = {}
    keys = axis_keys(proto)
    for value in _tensor_inputs(proto):
        shape = tuple(
            fixed_size(dim) or sizes[(value.name, axis) if key is None else key]
            for axis, (dim, key) in enumerate(
                zip(value.type.tensor_type.shape.dim, keys[value.name], strict=True)
            )
        )
        inputs[value.name] = (value.type.tensor_type.elem_type, shape)
    hints: dict[str, tuple[int, Hint]] = {}
    for value in proto.graph.value_info:
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            stated = tuple(fixed_size(d) or sizes.get(d.dim_param) for d in tensor.shape.dim)
            hints[value.name] = (tensor.elem_type, stated)
    return sweep(proto, inputs, hints, assumed)
