"""Standard operators written as their own definitions: what the standard says of them, in older operators."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import ModelProto, defs, helper

from tgonnx.graph.proto import STANDARD_DOMAINS, opset_of

SETTLED = 21  # every supported runtime has the operators of this opset; newer ones only some


def write_out(model: ModelProto, wanted: Callable[[str], bool]) -> ModelProto:
    """A copy in which the operators that are `wanted` and have a definition are replaced by it.

    The model itself if there are none. Raises what onnx raises for a model that it cannot infer shapes of.
    """
    opset = opset_of(model)
    found = {
        n.op_type for n in model.graph.node if n.domain in STANDARD_DOMAINS and _defined(n.op_type, opset)
    }
    chosen = sorted(("", op_type) for op_type in found if wanted(op_type))
    if not chosen:
        return model
    typed = onnx.shape_inference.infer_shapes(model)
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    typed.graph.value_info.append(helper.make_tensor_value_info("", 1, None))  # of inputs left out
    for node in typed.graph.node:
        if ("", node.op_type) in chosen and node.domain in STANDARD_DOMAINS:
            fill_defaults(node, defs.get_schema(node.op_type, opset, ""))
    result = onnx.inliner.inline_selected_functions(typed, chosen, inline_schema_functions=True)
    del result.graph.value_info[:]
    return result


def fill_defaults(node: onnx.NodeProto, schema: defs.OpSchema) -> None:
    """Write down the attributes that the node leaves out: a definition may refer to them, and onnx does not help."""
    given = {attribute.name for attribute in node.attribute}
    node.attribute.extend(
        a.default_value for n, a in schema.attributes.items() if n not in given and a.default_value.name
    )


def _defined(op_type: str, opset: int) -> bool:
    if not defs.has(op_type, opset, ""):
        return False
    return has_definition(defs.get_schema(op_type, opset, ""))


def has_definition(schema: defs.OpSchema) -> bool:
    """Whether the standard defines the operator by others."""
    return any(getattr(schema, kind) for kind in ("has_function", "has_context_dependent_function"))
