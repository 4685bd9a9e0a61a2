"""Do two models promise the same and compute the same?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tgonnx.definitions import opset_of
from tgonnx.errors import ModelError, UsageError
from tgonnx.feeds import model_inputs, random_feeds
from tgonnx.runtime import Feeds, Session, open_session
from tgonnx.wellformed import fixed_size

# Sides of random images tried in turn where the model leaves them open.
_SIDES = (64, 224, 32)


@dataclass(frozen=True)
class Check:
    """The result of `verify`.

    `max_abs` is the largest |a - b| over all outputs and samples. `max_rel` is the largest max|a-b| / max|a|
    of any one output in any one sample: relative to the largest magnitude in that output, because elements
    near zero make an elementwise ratio meaningless. `tolerance` is what `max_rel` was held against, `reasons`
    says in words why `ok` is False, and `ran_by` names the runtime.
    """

    max_abs: float
    max_rel: float
    tolerance: float
    samples: int
    ran_by: str
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the models agree in contract and in numbers."""
        return not self.reasons


def verify(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    feeds: Iterable[Mapping[str, NDArray[Any]]] | None = None,
    samples: int = 2,
    seed: int = 0,
    rtol: float = 1e-4,
    sizes: Mapping[str, int] | None = None,
) -> Check:
    """Compare inputs, outputs and opset of two models, then their outputs on the same inputs.

    `feeds` are the inputs to use; without them, `samples` random ones (`tgonnx.feeds.random_feeds`, unknown
    axes by name from `sizes`). Models with half-precision floats, or quantised to 8 bits, are held to ten
    epsilons of that type if this is more than `rtol`.

    Raises `UnsupportedError` if no runtime takes a model, `ModelError` if the first fails on the inputs,
    `UsageError` for no samples.
    """
    reasons = contract_differences(a, b)
    tolerance = max(rtol, _precision(a), _precision(b))
    if any("input" in reason for reason in reasons):
        return Check(float("inf"), float("inf"), tolerance, 0, "", reasons)
    first, second = _open_both(a, b)
    if feeds is None:
        if samples < 1:
            raise UsageError("samples must be at least 1")
        used: Iterable[Mapping[str, NDArray[Any]]] = runnable_feeds(a, first, samples, seed, sizes=sizes)
    else:
        used = feeds
    max_abs = max_rel = 0.0
    count = 0
    for feed in used:
        count += 1
        expected = first.run(feed)
        try:
            absolute, relative, notes = _compare(expected, second.run(feed), tolerance)
        except ModelError as error:
            absolute, relative, notes = float("inf"), float("inf"), [f"only the first runs: {error}"]
        max_abs, max_rel = max(max_abs, absolute), max(max_rel, relative)
        reasons += tuple(note for note in notes if note not in reasons)
    if not count:
        raise UsageError("nothing to verify with: no inputs were given")
    return Check(max_abs, max_rel, tolerance, count, first.ran_by, reasons)


def _open_both(a: onnx.ModelProto, b: onnx.ModelProto) -> tuple[Session, Session]:
    """Both models on the same runtime, so that a difference is a difference of the models."""
    first, second = open_session(a, exact=True), open_session(b, exact=True)
    reference = [session.ran_by.startswith("onnx ") for session in (first, second)]
    if any(reference) and not all(reference):
        first, second = open_session(a, portable=True), open_session(b, portable=True)
    return first, second


def runnable_feeds(
    model: onnx.ModelProto,
    session: Session,
    samples: int = 1,
    seed: int = 0,
    batch: int = 2,
    sizes: Mapping[str, int] | None = None,
) -> list[Feeds]:
    """Random inputs of the first form that the model runs on; a batch may be fixed inside, images be larger.

    Each sample has a batch of one more, if the model lets it: sizes computed from the batch are tried, too.
    Raises what the first form raised if none works.
    """
    failure: ModelError | None = None
    for count in dict.fromkeys((batch, 1)):
        for side in _SIDES:
            rng = np.random.default_rng(seed)
            feeds = [random_feeds(model, rng, count, sizes, side)]
            try:
                session.run(feeds[0])
            except ModelError as error:
                failure = failure or error
                continue
            for more in range(1, samples):
                feeds.append(random_feeds(model, rng, count + more, sizes, side))
                try:
                    session.run(feeds[-1])
                except ModelError:
                    feeds[-1] = random_feeds(model, rng, count, sizes, side)
            return feeds
    raise failure or ModelError("the model cannot run on random inputs")


def _compare(ours: Feeds, theirs: Feeds, tolerance: float) -> tuple[float, float, list[str]]:
    """Largest absolute and relative difference over the outputs, and what is wrong with which output."""
    worst_abs = worst_rel = 0.0
    notes = []
    for name in ours.keys() & theirs.keys():
        a, b = ours[name], theirs[name]
        if a.shape != b.shape:
            notes.append(f"output {name!r}: shape {a.shape} against {b.shape}")
            worst_abs = worst_rel = float("inf")
            continue
        if not a.size:
            continue
        absolute, relative, note = _difference(a, b)
        worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
        if note:
            notes.append(f"output {name!r}: {note}")
        elif relative > tolerance:
            notes.append(f"output {name!r}: differs by more than {tolerance:.1e} relative")
    return worst_abs, worst_rel, sorted(notes)


def _difference(a: NDArray[Any], b: NDArray[Any]) -> tuple[float, float, str]:
    if a.dtype.kind not in "biufV" or (a.dtype.kind == "V" and a.dtype.names):
        same = bool(np.array_equal(a, b))
        return (0.0, 0.0, "") if same else (float("inf"), float("inf"), "values differ")
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x)
    if not np.array_equal(finite, np.isfinite(y)) or not np.array_equal(
        x[~finite], y[~finite], equal_nan=True
    ):
        return float("inf"), float("inf"), "infinite or NaN values differ"
    if not finite.any():
        return 0.0, 0.0, "no finite value to compare; give real inputs"
    difference = float(np.abs(x[finite] - y[finite]).max())
    scale = float(np.abs(x[finite]).max())
    return difference, difference / scale if scale else float("inf" if difference else 0.0), ""


def contract_differences(a: onnx.ModelProto, b: onnx.ModelProto) -> tuple[str, ...]:
    """Where the promises of two models differ: inputs, outputs, their types and axes, the standard opset."""
    pairs = (
        ("input", model_inputs(a), model_inputs(b)),
        ("output", list(a.graph.output), list(b.graph.output)),
    )
    reasons = []
    for kind, ours, theirs in pairs:
        names, others = [value.name for value in ours], [value.name for value in theirs]
        if names != others:
            reasons.append(f"{kind}s differ: {', '.join(names)} against {', '.join(others)}")
            continue
        for x, y in zip(ours, theirs, strict=True):
            if describe_type(x) != describe_type(y):
                reasons.append(f"{kind} {x.name!r} differs: {describe_type(x)} against {describe_type(y)}")
    if opset_of(a) != opset_of(b):
        reasons.append(f"opset differs: {opset_of(a)} against {opset_of(b)}")
    return tuple(reasons)


def describe_type(value: onnx.ValueInfoProto) -> str:
    """A value's type and axes, as `float32[N, 3, 224, 224]`; `?` is an axis without name and size."""
    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value")).removesuffix("_type")
    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.STRING:
        kind = "string"
    else:
        kind = str(np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    if not tensor.HasField("shape"):
        return kind
    axes = (str(fixed_size(dim) or dim.dim_param or "?") for dim in tensor.shape.dim)
    return f"{kind}[{', '.join(axes)}]"


def _precision(model: onnx.ModelProto) -> float:
    """Ten epsilons of the coarsest half-precision type in the model, or steps of its quantisation, else 0.

    The last bit of a sum decides between two steps, so rounding errors come out as whole steps.
    """
    steps = any("Quantize" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    half = max(2**-7 * (TensorProto.BFLOAT16 in kinds), 2**-10 * (TensorProto.FLOAT16 in kinds))
    return 10 * max(half, 2**-8 * steps)
