"""The portable engine: the backward graph in standard operators, on any onnxruntime."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from onnx import ModelProto

from tgonnx.engines import autodiff
from tgonnx.passes.make_differentiable import make_differentiable
from tgonnx.runtime.versions import newest_versions


def differentiate(
    model: ModelProto, names: Iterable[str], shortcuts: Collection[str] = ()
) -> autodiff.Backward:
    """The model with the gradients of its first output with respect to `names` appended."""
    model = make_differentiable(autodiff.inline(model), *newest_versions())
    return autodiff.backward(model, model.graph.output[0].name, names, shortcuts)
