"""A second oracle, which shares nothing with `equivalence`: sessions, sizes, inputs and measure are its own.

The sizes are those that a user may choose: batches of 1, 2 and 3, height different from width, odd lengths. Where
the original runs, the gated and the pruned model must run and agree, on the installed onnxruntime with its
optimisations on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.selection.budget import random_mask
from tgonnx.selection.mask import Mask

Array = np.ndarray[Any, np.dtype[Any]]
Sizes = Mapping[str, int]
BATCHES = (1, 3, 2, 5)
SIDES = ((64, 96), (40, 56), (61, 75), (8, 24), (9, 13), (224, 224), (32, 32), (7, 7))
LENGTHS = (9, 16, 41, 5, 120, 1)
ZERO = 1e-6  # an output of floats that never gets there is zero but for rounding (the mean of what was normalised)
EPSILONS = {2: 2**-10, 4: 2**-23, 8: 2**-23}  # of floats by their bytes; doubles may come from floats


def watch(name: str) -> None:
    """Called with the name of the model that runs next; a test that looks on from another process replaces it."""


class Crash(Exception):
    """The runtime does not take the model, or not these inputs."""


def session(model: onnx.ModelProto, optimised: bool = True) -> onnxruntime.InferenceSession:
    """A plain session on one thread. Raises `Crash`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions have no common class of their own
        raise Crash(str(error)[:400]) from None


def run(session: onnxruntime.InferenceSession, feeds: Mapping[str, Array]) -> list[Array]:
    """All outputs. Raises `Crash`."""
    try:
        return [np.asarray(value) for value in session.run(None, dict(feeds))]
    except Exception as error:
        raise Crash(str(error)[:400]) from None


def free_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that must be fed."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    defaults |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in defaults]


def axes_of(model: onnx.ModelProto) -> dict[str, str]:
    """Each free axis of the inputs, by name, with its role: batch, height, width or length.

    An axis without a name, and the placeholder that some exporters use for all, is one of its own.
    """
    roles: dict[str, str] = {}
    for value in free_inputs(model):
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if dim.dim_value <= 0:
                last = axis - len(dims)
                image = len(dims) == 4 and axis > 0
                role = (
                    "batch"
                    if axis == 0
                    else "height"
                    if image and last == -2
                    else "width"
                    if image
                    else "length"
                )
                roles.setdefault(_key(value.name, axis, dim), role)
    return roles


def _key(name: str, axis: int, dim: Any) -> str:
    return dim.dim_param if dim.dim_param not in ("", "?") else f"{name}[{axis}]"


def choices(model: onnx.ModelProto) -> Iterator[dict[str, int]]:
    """Sizes to try, each free axis having one of its own."""
    roles = axes_of(model)
    kinds = set(roles.values())
    forms = max(
        len(BATCHES) if "batch" in kinds else 1,
        len(SIDES) if kinds & {"height", "width"} else 1,
        len(LENGTHS) if "length" in kinds else 1,
    )
    for form in range(forms):
        sides = SIDES[form % len(SIDES)]
        sizes, lengths = {}, 0
        for name, role in roles.items():
            if role == "length":
                sizes[name] = LENGTHS[(form + lengths) % len(LENGTHS)]
                lengths += 1
            else:
                sizes[name] = {"batch": BATCHES[form % len(BATCHES)], "height": sides[0], "width": sides[1]}[
                    role
                ]
        yield sizes


def draw(
    model: onnx.ModelProto, sizes: Sizes, seed: int = 0, fixed: Mapping[str, float] | None = None
) -> dict[str, Array]:
    """Inputs of the model at some sizes; those named in `fixed` have one value.

    Integers are 0 to 4, which every table at hand holds.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in free_inputs(model):
        tensor = value.type.tensor_type
        dims = [
            dim.dim_value if dim.dim_value > 0 else sizes[_key(value.name, axis, dim)]
            for axis, dim in enumerate(tensor.shape.dim)
        ]
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if value.name in (fixed or {}):
            feeds[value.name] = np.full(dims, (fixed or {})[value.name])
        elif kind.kind == "b":
            feeds[value.name] = rng.random(dims) < 0.7
        elif kind.kind in "iu":
            feeds[value.name] = rng.integers(0, 5, dims).astype(kind)
        else:
            feeds[value.name] = rng.standard_normal(dims).astype(kind)
        feeds[value.name] = np.asarray(feeds[value.name], kind)  # a scalar stays an array
    return feeds


def disagreement(
    expected: Sequence[Array],
    plain: Sequence[Array],
    found: Sequence[Array],
    slack: float = 1.0,
    flips: float = 0.0,
    usual: Sequence[Array] = (),
) -> str:
    """What is wrong with `found`, or nothing. `usual` is what the original gives, where a mask may leave only rounding.

    A share of `flips` elements may differ at will, the rest by `slack` times what follows.

    An element may differ by 1e-4 of the largest element of its slice along axis 1, and of that along the last
    axis, so that no channel hides behind a larger one; by a few roundings of the largest element of all, `usual` ones
    included; and by
    a multiple of what the runtime's own optimisations change there (`plain` is `expected` without them).
    """
    for i, (x, p, y) in enumerate(zip(expected, plain, found, strict=True)):
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"output {i}: {x.dtype}{x.shape} became {y.dtype}{y.shape}"
        if x.dtype.kind not in "fiub":
            if not np.array_equal(x, y):
                return f"output {i}: values differ"
            continue
        epsilon = EPSILONS.get(x.dtype.itemsize, 0.0) if x.dtype.kind == "f" else 0.0
        tolerance = max(1e-4, 10 * epsilon) if epsilon else 0.0
        a, b, c = (np.asarray(v, np.float64) for v in (x, p, y))
        if not np.array_equal(np.isfinite(a), np.isfinite(c)):
            return f"output {i}: infinite or NaN values differ"
        a, b, c = (np.nan_to_num(v, posinf=0, neginf=0) for v in (a, b, c))
        allowed = tolerance * _slices(np.abs(a)) + 30 * _slices(np.abs(a - b))
        largest = float(np.abs(a).max(initial=0))
        if usual and x.dtype.kind == "f":
            whole = np.nan_to_num(usual[i].astype(np.float64), posinf=0, neginf=0)
            largest = max(largest, float(np.abs(whole).max(initial=0)))
            if largest < ZERO:
                continue
        allowed += 8 * epsilon * largest + 1e-9
        excess = np.abs(a - c) / (slack * allowed)
        if excess.size and (excess > 1).mean() > flips:
            worst = np.unravel_index(int(excess.argmax()), a.shape)
            place = tuple(int(k) for k in worst)
            return f"output {i} at {place} of {a.shape}: {a[worst]:.6g} became {c[worst]:.6g}"
    return ""


def _slices(x: Array) -> Array:
    """For each element the largest of its slice along axis 1 or the last one, whichever is smaller."""
    best = np.full(x.shape, x.max(initial=0))
    for axis in {1, x.ndim - 1} if x.ndim > 1 else set():
        others = tuple(k for k in range(x.ndim) if k != axis)
        best = np.minimum(best, x.max(axis=others, keepdims=True, initial=0))
    return best


def faults_of(
    source: onnx.ModelProto,
    seed: int = 0,
    keep: float = 0.5,
    sizes: Sequence[Sizes] | None = None,
    fixed: Mapping[str, float] | None = None,
) -> tuple[list[str], int, Coupling]:
    """What is wrong with the gated and the pruned model, at how many sizes it was looked at, and the analysis.

    Raises `Crash` if the runtime does not take the original.
    """
    session(source)
    coupling = analyze(load(source))
    mask = random_mask(coupling, keep, seed)
    models = {
        "original": source,
        "all gates open": gate(coupling, Mask.all_open(coupling)),
        "gated": gate(coupling, mask),
        "pruned": apply(coupling, mask),
    }
    faults, looked = compare(models, list(choices(source)) if sizes is None else sizes, seed, fixed=fixed)
    return faults, looked, coupling


def compare(
    models: Mapping[str, onnx.ModelProto],
    sizes: Sequence[Sizes],
    seed: int = 0,
    optimised: bool = True,
    fixed: Mapping[str, float] | None = None,
) -> tuple[list[str], int]:
    """Faults of all gates open against the original, and of pruned against gated, where the original runs.

    `optimised` is off for quantised models: integer kernels round otherwise, by whole steps, and which nodes get
    such kernels changes with a gate. What remains is that the last bit of a sum decides between two steps, which
    happens to few elements; a wrong model is wrong in most.
    """
    faults, looked = [], 0
    flips = 0.0 if optimised else 0.02
    opened: dict[tuple[str, bool], onnxruntime.InferenceSession] = {}

    def result(name: str, optimised: bool) -> list[Array]:
        watch(name)
        key = name, optimised
        opened[key] = opened.get(key) or session(models[name], optimised)
        return run(opened[key], feeds)

    for chosen in sizes:
        feeds = draw(models["original"], chosen, seed, fixed)
        try:
            truth, again = result("original", False), result("original", True)
        except Crash:
            continue  # the original does not run at this size, so nothing is promised
        if optimised and disagreement(truth, truth, again, slack=100):
            continue  # no rounding: the runtime's own optimisations are wrong about this model
        looked += 1
        for ours, theirs in (("original", "all gates open"), ("gated", "pruned")):
            try:
                what = disagreement(
                    result(ours, optimised), result(ours, False), result(theirs, optimised), flips=flips,
                    usual=truth,
                )  # fmt: skip
            except Crash as error:
                what = f"does not run: {error}"
            if what:
                faults.append(f"{theirs} at {dict(chosen)}: {what}")
    return faults, looked
