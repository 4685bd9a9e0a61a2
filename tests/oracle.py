"""The one oracle: for a mask, the gated model computes what the pruned model computes."""

from __future__ import annotations

import numpy as np
import onnx

from tgonnx.analysis.cost import CostModel
from tgonnx.analysis.coupling import Attention, Coupling
from tgonnx.analysis.kinds import PARAMETER_TYPES
from tgonnx.analysis.model import Model
from tgonnx.analysis.solver import analyze
from tgonnx.errors import ModelError
from tgonnx.io.checker import only_in_runtime
from tgonnx.loading import load
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.runtime.sessions import open_session
from tgonnx.selection.budget import random_mask
from tgonnx.selection.mask import Mask


def feeds_of(model: Model, seed: int = 0, other_sizes: bool = False) -> dict[str, np.ndarray]:
    """Random inputs, dynamic axes having the sizes that analysis counts with, or others."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, value in model.inputs.items():
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = (model.second if other_sizes else model.first).shapes[name]
        feeds[name] = rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 2, shape)
        feeds[name] = feeds[name].astype(kind)
    return feeds


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(open_session(proto, threads=1, exact=True).run(feeds).values())


def _runs(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> bool:
    """Whether a model has nothing in it that fixes the sizes of its dynamic axes."""
    try:
        run(proto, feeds)
    except ModelError:
        return False
    return True


def difference(a: list[np.ndarray], b: list[np.ndarray], original: list[np.ndarray] | None = None) -> float:
    """The largest absolute difference over the largest magnitude, of the worst output.

    A mask may leave nothing of an output but rounding (the mean of a normalised single channel): a hundredth of
    the `original` output's magnitude, where one is given, is the least that counts, so that a tolerance of 1e-4
    is eight float32 epsilons of it.
    """
    worst = 0.0
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        assert x.shape == y.shape
        least = 1e-6 if original is None else max(1e-2 * _magnitude(original[i]), 1e-6)
        scale = max(_magnitude(x), least)
        worst = max(worst, float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max(initial=0)) / scale)
    return worst


def _magnitude(x: np.ndarray) -> float:
    return float(np.abs(x.astype(np.float64)).max(initial=0))


def parameters(proto: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in proto.graph.initializer if t.data_type in PARAMETER_TYPES)


def check_exact(
    source: onnx.ModelProto,
    seed: int = 0,
    keep: float = 0.5,
    tolerance: float = 1e-4,
    attention: Attention = "heads",
) -> Coupling:
    """Assert the invariants of a model for one random mask."""
    model = load(source)
    coupling = analyze(model, attention)
    mask, cost = random_mask(coupling, keep, seed), CostModel(coupling)
    feeds = feeds_of(model, seed)
    pruned = apply(coupling, mask)
    if not any(only_in_runtime(node, model.opset) for node in pruned.graph.node):
        onnx.checker.check_model(pruned)
        if all(node.domain != "ai.onnx.ml" for node in pruned.graph.node):  # of which onnx knows no types
            onnx.shape_inference.infer_shapes(pruned, strict_mode=True)
    original = run(model.original, feeds)
    assert difference(original, run(gate(coupling, Mask.all_open(coupling)), feeds)) < max(
        tolerance / 10, 1e-5
    )
    gated = gate(coupling, mask)
    assert difference(run(gated, feeds), run(pruned, feeds), original) < tolerance
    others = feeds_of(model, seed, other_sizes=True)
    if _runs(model.original, others):
        original = run(model.original, others)
        assert difference(run(gated, others), run(pruned, others), original) < tolerance
    if not mask.open.all():
        assert cost.cost(mask.open).params == parameters(pruned)
        again = analyze(load(pruned), attention)
        recounted, predicted = CostModel(again).cost().flops, cost.cost(mask.open).flops
        assert abs(recounted - predicted) <= 1e-6 * predicted
    assert [(v.name, v.type) for v in pruned.graph.output] == [(v.name, v.type) for v in source.graph.output]
    assert pruned.opset_import == source.opset_import
    assert pruned.ir_version == source.ir_version
    return coupling
