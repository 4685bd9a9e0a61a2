"""What the installed onnxruntime can do, found by trying."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.io.interrupts import temporary_folder
from tgonnx.runtime.sessions import native_module, native_session, refusal

OLDEST = (18, 10)  # opset and IR version that every supported onnxruntime runs
BLOCKED = "com.microsoft.nchwc"  # the domain of its convolutions on blocks of channels


@functools.cache
def newest_versions() -> tuple[int, int]:
    """The newest opset and IR version that it accepts, which it judges one by one."""
    opset, ir = OLDEST
    irs = range(int(onnx.IR_VERSION), ir, -1)
    opsets = range(int(onnx.defs.onnx_opset_version()), opset, -1)
    ir = next((newer for newer in irs if _accepts(opset, newer)), ir)
    return next((newer for newer in opsets if _accepts(newer, ir)), opset), ir


def _accepts(opset: int, ir: int) -> bool:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [x], [y])
    opsets = [helper.make_opsetid("", opset)]
    return not refusal(helper.make_model(graph, opset_imports=opsets, ir_version=ir))


def differentiates() -> bool:
    """Whether it has the training part. Raises `InstallationError` if it is missing or broken."""
    return hasattr(native_module(), "GradientGraphBuilder")


@functools.cache
def block_size() -> int:
    """The number of channels per block on this CPU, 0 if onnxruntime does not block here.

    Found by letting onnxruntime optimise a convolution with 4 output channels, which it pads to one block.
    """
    weight = numpy_helper.from_array(np.ones((4, 16, 1, 1), np.float32), "w")
    info = helper.make_tensor_value_info
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])
    graph = helper.make_graph([node], "probe", [info("x", 1, [1, 16, 4, 4])], [info("y", 1, None)], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with temporary_folder() as folder:
        native_session(model, written=folder / "probe.onnx")
        optimised = onnx.load(folder / "probe.onnx")
    if not any(n.domain == BLOCKED for n in optimised.graph.node):
        return 0
    return max((int(t.dims[0]) for t in optimised.graph.initializer if len(t.dims) == 4), default=0)
