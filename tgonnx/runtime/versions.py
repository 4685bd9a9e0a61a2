"""What the installed onnxruntime runs."""

from __future__ import annotations

import functools

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

OLDEST = (18, 10)  # opset and IR version that every supported onnxruntime runs
_REFUSALS = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented)


@functools.cache
def newest_versions() -> tuple[int, int]:
    """The newest opset and IR version that it accepts, found by trying."""
    for opset in range(int(onnx.defs.onnx_opset_version()), OLDEST[0], -1):
        for ir in range(int(onnx.IR_VERSION), OLDEST[1] - 1, -1):
            if _accepts(opset, ir):
                return opset, ir
    return OLDEST


def _accepts(opset: int, ir: int) -> bool:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [x], [y])
    opsets = [helper.make_opsetid("", opset)]
    probe = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except _REFUSALS:
        return False
    return True
