"""Is the gradient the gradient? One directional derivative of the whole training graph, two ways.

Every element of a parameter moves the way its gradient points, by the parameter's root mean square times a
small number t; the slope of the loss at t = 0 must be the sum of gradient times direction. All elements add to
this slope, so float32 suffices: central differences over a ladder of t, extrapolated (Richardson; linearly, too, for
kinks), of which the best counts, for a kink of a ReLU or a change of the largest element spoils some t, a wrong
gradient all.
Parameters whose gradient is almost zero move at random instead: a forgotten path shows as a slope.
Gates are relaxed to values, as no finite difference can see the shaped derivative of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tgonnx.engines.spec import StepSpec
from tgonnx.engines.trainer import session
from tgonnx.graph.builder import Array
from tgonnx.ops import trainable_gate as gates
from tgonnx.ops.aspects.traits import traits_of
from tgonnx.passes.make_differentiable import make_differentiable
from tgonnx.runtime.versions import newest_versions

TOLERANCE = 0.03  # of the slope; of ReLU networks in float32, correct gradients stay below 0.01
LADDER = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003)  # of the loss, the change that is aimed at
SILENT = 1e-6  # of the slope: what a parameter contributes whose gradient is almost zero
MOVED = 0.02  # of a parameter's size
_T = "check"  # float32 [parameters], the graph input by which they move


@dataclass(frozen=True)
class Verdict:
    """The slope that the gradients give and the one that was measured, per unit of t.

    `rounding` is the relative error that rounding of the loss explains. `suspects` name the nodes most likely
    at fault; `judged` is False where the loss says nothing: it is random, or rounding hides its slope.
    """

    predicted: float
    measured: float
    rounding: float = 0.0
    suspects: tuple[str, ...] = ()
    judged: bool = True

    @property
    def error(self) -> float:
        """The relative difference of the two."""
        return abs(self.measured - self.predicted) / abs(self.predicted)

    @property
    def passed(self) -> bool:
        return not self.judged or (not self.suspects and self.error <= TOLERANCE + self.rounding)


def relaxed(spec: StepSpec, seed: int = 0) -> StepSpec:
    """The same training graph with gates that pass on their logits, drawn from [0.6, 1].

    Its parameters are moved a little: where a model that learns from itself has lost nothing, the slope is zero, and
    rounding and curvature are all that there is to see.
    """
    model = ModelProto()
    model.CopyFrom(spec.model)
    rng = np.random.default_rng(seed)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in (name for group in spec.groups for name in group.names):
        values = numpy_helper.to_array(stored[name])
        moved = values + (MOVED * _size(values) * rng.standard_normal(values.shape)).astype(values.dtype)
        stored[name].CopyFrom(numpy_helper.from_array(moved.astype(values.dtype), name))
    for node in model.graph.node:
        if node.domain == gates.DOMAIN:
            if (tensor := stored.get(node.input[0])) is not None:
                values = rng.uniform(0.6, 1.0, tuple(tensor.dims)).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            node.op_type, node.domain = "Identity", ""
    del model.functions[:]
    return replace(spec, model=model)


def judge(
    spec: StepSpec, gradients: Mapping[str, Array], feeds: Mapping[str, Array], threads: int | None = None
) -> Verdict:
    """Hold `gradients` of a relaxed training graph at its stored parameters against finite differences."""
    broken = {name for name, value in gradients.items() if not np.isfinite(value).all()}
    if broken:
        suspects = _between(spec.model, broken, set(gradients) - broken)
        return Verdict(float("nan"), float("nan"), suspects=tuple(suspects))
    line = _Line(spec, gradients, feeds, threads)
    base, again = line.loss(0.0), line.loss(0.0)
    if base != again or not np.isfinite(base) or not line.total:
        return Verdict(line.total, float("nan"), judged=False)
    line.measure_noise(base)
    found = _slope(line, line.loud, line.total, base)
    if found is None:
        return Verdict(line.total, float("nan"), judged=False)
    verdict = Verdict(line.total, *found)
    if not verdict.passed:
        return replace(verdict, suspects=tuple(_suspects(line, base)))
    return replace(verdict, suspects=tuple(_readers(spec.model, _forgotten(line, base))))


@dataclass
class _Line:
    """The loss as a function of how far each parameter has moved along its direction."""

    spec: StepSpec
    gradients: Mapping[str, Array]
    feeds: Mapping[str, Array]
    threads: int | None
    names: list[str] = field(init=False)
    slopes: np.ndarray[Any, Any] = field(init=False)  # float64 [parameters], as predicted
    loud: np.ndarray[Any, Any] = field(init=False)  # bool [parameters]: contributes to the slope
    noise: float = 0.0

    def __post_init__(self) -> None:
        self.names = sorted(self.gradients)
        stored = {t.name: numpy_helper.to_array(t) for t in self.spec.model.graph.initializer}
        aligned = [_aligned(self.gradients[n], stored[n]) for n in self.names]
        self.slopes = np.array([_dot(self.gradients[n], d) for n, d in zip(self.names, aligned, strict=True)])
        self.loud = self.slopes > SILENT * self.slopes.sum()
        rng = np.random.default_rng(1)
        for index in np.flatnonzero(~self.loud):
            name = self.names[index]
            aligned[index] = rng.normal(size=stored[name].shape) * _size(stored[name])
            self.slopes[index] = _dot(self.gradients[name], aligned[index])
        directions = dict(zip(self.names, aligned, strict=True))
        moved = _moving(self.spec.model, directions)
        self._session = session(moved, self.threads)
        known = {i.name for i in moved.graph.input}
        self.feeds = {name: value for name, value in self.feeds.items() if name in known}

    @property
    def total(self) -> float:
        return float(self.slopes[self.loud].sum())

    def loss(self, t: float, which: np.ndarray[Any, Any] | None = None) -> float:
        """The loss with the parameters `which` (all that are loud) moved by t."""
        moves = np.where(self.loud if which is None else which, t, 0.0).astype(np.float32)
        (value,) = self._session.run([self.spec.model.graph.output[0].name], {**self.feeds, _T: moves})
        return float(value)

    def slope(self, t: float, which: np.ndarray[Any, Any]) -> float:
        return (self.loss(t, which) - self.loss(-t, which)) / (2 * t)

    def measure_noise(self, base: float) -> None:
        """Rounding of the loss: what is left of its change over steps that are too small to bend it."""
        tiny = 1e-5 * max(abs(base), 1e-6) / self.total
        wiggles = [abs(self.loss(k * tiny) - base - k * tiny * self.total) for k in (-0.2, 0.1, 0.3)]
        self.noise = max(*wiggles, 1e-7 * abs(base))


def _slope(
    line: _Line, which: np.ndarray[Any, Any], predicted: float, base: float
) -> tuple[float, float] | None:
    """The best measurement of a slope and its relative rounding; None if rounding hides it at every t."""
    best: tuple[float, float, float] | None = None
    scale = max(abs(base), 1e-6) / abs(predicted)
    for share in LADDER:
        t = min(share * scale, 0.1)
        rounding = 2 * line.noise / t / abs(predicted)
        if rounding > 0.1:
            break
        whole, half = line.slope(t, which), line.slope(t / 2, which)
        for measured in (whole, half, (4 * half - whole) / 3, 2 * half - whole):
            error = abs(measured - predicted) / abs(predicted)
            if best is None or error - rounding < best[0]:
                best = (error - rounding, measured, rounding)
        if best is not None and best[0] < TOLERANCE / 3:
            break
    return None if best is None else best[1:]


def _forgotten(line: _Line, base: float) -> list[str]:
    """Parameters with an almost zero gradient on which the loss depends nevertheless, to first order."""
    t = 0.01
    silent = np.flatnonzero(~line.loud)
    found: list[str] = []
    if not len(silent) or not _depends(line, ~line.loud, t):
        return found
    for index in silent[:64]:
        which = np.arange(len(line.names)) == index
        if _depends(line, which, t):
            found.append(line.names[index])
    return found


def _depends(line: _Line, which: np.ndarray[Any, Any], t: float) -> bool:
    """A true slope does not shrink with the step, and stands out of the rounding."""
    expected = float(line.slopes[which].sum())
    wide, narrow = line.slope(t, which) - expected, line.slope(t / 4, which) - expected
    clear = 20 * line.noise / t < abs(narrow) and abs(narrow) > 1e-4 * line.total
    return clear and 0.7 < wide / narrow < 1.4


def _suspects(line: _Line, base: float, most: int = 48) -> list[str]:
    """The operators whose gradients are most likely wrong, by measuring parameters one by one."""
    wrong: set[str] = set()
    right: set[str] = set()
    order = [i for i in np.argsort(-line.slopes) if line.loud[i]]
    for index in order[:most]:
        which = np.arange(len(line.names)) == index
        found = _slope(line, which, float(line.slopes[index]), base)
        if found is not None:
            error = abs(found[0] / line.slopes[index] - 1)
            (wrong if error > 2 * TOLERANCE + found[1] else right).add(line.names[index])
    return _between(line.spec.model, wrong, right)


def _between(model: ModelProto, wrong: set[str], right: set[str]) -> list[str]:
    """A wrong gradient spoils what lies before its node: nodes behind every wrong parameter and no right one."""
    before: dict[str, set[str]] = {name: {name} for name in wrong | right}
    behind = []
    for node in model.graph.node:
        upstream = set().union(*(before.get(name, set()) for name in node.input))
        before.update(dict.fromkeys(node.output, upstream))
        if wrong and wrong <= upstream and not upstream & right:
            behind.append(node)
    behind.sort(key=lambda node: traits_of(node).common)
    return [_label(node) for node in behind[:3]] or _readers(model, sorted(wrong))


def _readers(model: ModelProto, names: Sequence[str]) -> list[str]:
    """The nodes that read parameters."""
    return [_label(node) for node in model.graph.node if set(names) & set(node.input)][:3]


def _label(node: NodeProto) -> str:
    return f"{node.name or node.output[0]!r} ({node.op_type})"


def moving(model: ModelProto, gradients: Mapping[str, Array]) -> tuple[ModelProto, dict[str, Array], str]:
    """The loss as a function of how far the parameters move along their gradients.

    Returns it, the direction of each parameter, and the name of the input [parameters] that says how far.
    """
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    directions = {name: _aligned(gradients[name], stored[name]) for name in sorted(gradients)}
    return _moving(model, directions), directions, _T


def _moving(model: ModelProto, directions: Mapping[str, Array]) -> ModelProto:
    """The loss with every parameter p replaced by p + t[i] d_i."""
    copy = make_differentiable(
        model, *newest_versions()
    )  # onnxruntime must not write statistics into what the next run reads
    nodes = []
    kinds = {}
    for tensor in copy.graph.initializer:
        if tensor.name in directions:
            kinds[tensor.name] = tensor.data_type
            tensor.name = f"check/{tensor.name}"
    for index, (name, direction) in enumerate(directions.items()):
        kind = helper.tensor_dtype_to_np_dtype(kinds[name])
        copy.graph.initializer.extend(
            [
                numpy_helper.from_array(np.ascontiguousarray(direction, kind), f"check/direction/{name}"),
                numpy_helper.from_array(np.array(index, np.int64), f"check/index/{name}"),
            ]
        )
        t, cast, step = (f"check/{part}/{name}" for part in ("one", "cast", "step"))
        nodes += [
            helper.make_node("Gather", [_T, f"check/index/{name}"], [t], name=t),
            helper.make_node("Cast", [t], [cast], name=cast, to=kinds[name]),
            helper.make_node("Mul", [f"check/direction/{name}", cast], [step], name=step),
            helper.make_node("Add", [f"check/{name}", step], [name], name=f"check/sum/{name}"),
        ]
    body = list(copy.graph.node)
    del copy.graph.node[:], copy.graph.output[1:]
    copy.graph.node.extend([*nodes, *body])
    copy.graph.input.append(helper.make_tensor_value_info(_T, TensorProto.FLOAT, [len(directions)]))
    return copy


def _aligned(gradient: Array, value: Array) -> Array:
    return np.asarray(np.sign(gradient) * _size(value), gradient.dtype)


def _size(value: Array) -> float:
    """Root mean square; a parameter of zeros counts as one of hundredths."""
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64)))) or 0.01


def _dot(a: Array, b: Array) -> float:
    return float(np.sum(np.asarray(a, np.float64) * b))
