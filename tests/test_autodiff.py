"""Every gradient row against finite differences, with both engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradient_cases import Case, build, directional
from onnx import numpy_helper, parser

from tgonnx import autodiff, engines
from tgonnx.engines.versions import newest_versions
from tgonnx.errors import UnsupportedError

ENGINES = ["portable", "ort-training"] if engines.choose() == "ort-training" else ["portable"]


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def f32(values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


SPREAD = np.random.default_rng(5).permutation(2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
UNARY = [
    "Sigmoid",
    "Tanh",
    "Exp",
    "Neg",
    "Abs",
    "Erf",
    "Sin",
    "Cos",
    "Tan",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Elu",
    "Selu",
    "Celu",
    "LeakyRelu",
    "Relu",
    "Softplus",
    "Softsign",
    "HardSigmoid",
    "HardSwish",
    "Mish",
    "Identity",
]
ACTIVATIONS = [
    *(Case(op, [(3, 4)]) for op in UNARY),
    *(Case(op, [(3, 4)], low=0.5, high=2.0) for op in ("Log", "Sqrt", "Reciprocal")),
    *(Case(op, [(3, 4)], low=-0.7, high=0.7) for op in ("Atanh", "Asin", "Acos")),
    Case("Acosh", [(3, 4)], low=1.5, high=3.0),
    Case("HardSwish", [(3, 9)], low=-5, high=5),
    Case("HardSigmoid", [(3, 9)], {"alpha": 0.3, "beta": 0.4}, low=-3, high=3),
    Case("Elu", [(3, 4)], {"alpha": 0.5}),
    Case("Celu", [(3, 4)], {"alpha": 0.5}),
    Case("Selu", [(3, 4)], {"alpha": 0.5, "gamma": 2.0}),
    Case("LeakyRelu", [(3, 4)], {"alpha": 0.3}),
    Case("ThresholdedRelu", [(3, 4)], {"alpha": 0.2}),
    Case("Shrink", [(3, 4)], {"lambd": 0.3}),
    Case("Gelu", [(3, 4)], opset=20),
    Case("Gelu", [(3, 4)], {"approximate": "tanh"}, opset=20),
    Case("PRelu", [(2, 3, 4), (3, 1)]),
    Case("PRelu", [(2, 3), (2, 3)]),
    Case("Clip", [(3, 4), f32(-0.3), f32(0.4)]),
    Case("Clip", [(3, 4), None, f32(0.4)]),
    Case("Clip", [(3, 4)]),
]
BROADCAST = [
    *(
        Case(op, [(2, 3, 4), shape], low=0.5, high=2.0)
        for op in ("Add", "Sub", "Mul", "Div", "Pow")
        for shape in ((2, 3, 4), (3, 1), (1,), (), (2, 1, 4))
    ),
    *(Case(op, [(4,), (2, 1, 4)], low=0.5, high=2.0) for op in ("Add", "Sub", "Mul", "Div", "Pow")),
    *(Case(op, [(2, 3), (3,)], dynamic=True) for op in ("Add", "Mul", "Div")),
    Case("Pow", [(2, 3), f32(2.0)]),
    Case("Pow", [(2, 3), ints(3)]),
    *(Case(op, [(2, 3), (3,), (2, 1)]) for op in ("Sum", "Mean", "Max", "Min")),
    Case("Sum", [(2, 3)]),
    Case("Where", [np.array([[True], [False]]), (2, 3), (3,)]),
    Case("Mod", [(2, 3), (3,)], {"fmod": 1}, low=0.5, high=3.0),
    Case("CastLike", [(2, 3), (1,)], frozen=(1,)),
    Case("Dropout", [(2, 3)]),
    Case("Dropout", [(2, 3), f32(0.5), np.array(False)]),
]
REDUCE = [
    "ReduceSum",
    "ReduceMean",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
]
REDUCTIONS = [
    *(
        Case(op, [(2, 3, 4), axes], {"keepdims": keep}, low=0.5, high=2.0)
        for op in REDUCE
        for axes, keep in ((ints(1), 1), (ints(-1, 0), 0), (None, 0), (None, 1))
    ),
    Case("ReduceProd", [f32([[0.5, 0.0, 2.0], [0.0, 0.0, 3.0], [1.0, 2.0, -1.0]]), ints(1)], trained=(0,)),
    Case("ReduceSum", [(2, 3), ints()], {"noop_with_empty_axes": 1}),
    Case("ReduceMean", [(2, 3), ints(1)], {"keepdims": 0}, dynamic=True),
    *(Case("CumSum", [(3, 4), np.array(1)], {"exclusive": e, "reverse": r}) for e in (0, 1) for r in (0, 1)),
    *(Case(op, [(2, 3, 4)], {"axis": axis}) for op in ("Softmax", "LogSoftmax") for axis in (-1, 1)),
]
CUMULATIVE_PRODUCTS = [  # not before opset 26
    *(
        Case("CumProd", [(2, 4, 3), np.array(axis)], {"exclusive": e, "reverse": r}, opset=26, runtime=True)
        for e in (0, 1)
        for r in (0, 1)
        for axis in (1, -1)
    ),
    Case("CumProd", [f32([2, 0, 3, 0, 1]), np.array(0)], opset=26, trained=(0,), runtime=True),
]
SHAPING = [
    Case("Reshape", [(2, 6), ints(3, -1)]),
    Case("Flatten", [(2, 3, 4)]),
    Case("Squeeze", [(2, 1, 3), ints(1)]),
    Case("Unsqueeze", [(2, 3), ints(0, -1)]),
    Case("Transpose", [(2, 3, 4)], {"perm": [2, 0, 1]}),
    Case("Transpose", [(2, 3, 4)]),
    Case("Concat", [(2, 3), (2, 1), (2, 2)], {"axis": -1}),
    Case("Concat", [(2, 3), (1, 3)], {"axis": 0}, dynamic=True),
    Case("Split", [(2, 6), ints(1, 2, 3)], {"axis": 1}, outputs=3, used=(0, 2)),
    Case("Split", [(2, 6)], {"axis": 1, "num_outputs": 2}, outputs=2, used=(0, 1)),
    Case("Expand", [(3, 1), ints(2, 3, 4)]),
    Case("Tile", [(2, 3), ints(2, 3)]),
    Case("Slice", [(5, 6), ints(1), ints(4)]),
    Case("Slice", [(5, 6), ints(1, 0), ints(100, 5), ints(1, 0), ints(2, 3)]),
    Case("Slice", [(5, 6), ints(-1), ints(-100), ints(1), ints(-2)]),
    Case("Slice", [(5, 6), ints(1, -4), ints(4, 100), ints(0, -1), ints(2, 1)], dynamic=True),
    Case("Pad", [(2, 3), ints(1, 0, 2, 1)]),
    Case("Pad", [(4, 5), ints(1, -1, 2, 1)], runtime=True),
    Case("Pad", [(2, 3), ints(1, 2), f32(0.5), ints(-1)]),
    *(Case("Pad", [(2, 3, 4), ints(0, 1, 2, 0, 0, 1)], {"mode": mode}) for mode in ("reflect", "edge")),
    Case("Pad", [(2, 3, 4), ints(0, 1, 2, 0, 0, 1)], {"mode": "wrap"}, opset=19),
    Case("Pad", [(2, 4), ints(0, 2, 0, 1)], {"mode": "reflect"}, dynamic=True),
    Case("DepthToSpace", [(1, 8, 2, 3)], {"blocksize": 2}),
    Case("DepthToSpace", [(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [(1, 2, 4, 6)], {"blocksize": 2}),
    Case("Trilu", [(3, 4)], {"upper": 0}),
    Case(
        "Col2Im",
        [(2, 12, 15), ints(5, 6), ints(2, 3)],
        {"pads": [0, 1, 1, 1], "dilations": [1, 1], "strides": [1, 2]},
    ),
    Case("Col2Im", [(1, 4, 12), ints(5, 5), ints(2, 2)], {"dilations": [2, 1]}),
]
INDEXING = [
    Case("Gather", [(4, 3), np.array([[0, 3], [0, -1]])]),
    Case("Gather", [(2, 4, 3), ints(1, 1, 2)], {"axis": 1}),
    Case("Gather", [(2, 4), np.array(1)], {"axis": 1}),
    Case("ReverseSequence", [(4, 2, 3), ints(3, 2)]),
    Case("ReverseSequence", [(2, 4, 3), ints(3, 2)], {"batch_axis": 0, "time_axis": 1}),
    Case("Compress", [(3, 4), np.array([False, True, True])], {"axis": 1}),
    Case("Compress", [(3, 4), np.array([True, False, True])]),
    Case("GatherElements", [(3, 4), np.array([[0, 1], [1, 1], [3, 0]])], {"axis": 1}),
    Case("GatherND", [(3, 4), np.array([[0, 1], [2, 1]])]),
    Case("ScatterElements", [(3, 4), np.array([[0, 2]]), (1, 2)], {"axis": 1}),
    Case("ScatterElements", [(3, 4), np.array([[0, 0]]), (1, 2)], {"axis": 1, "reduction": "add"}),
    Case("ScatterND", [(3, 4), np.array([[0], [2]]), (2, 4)]),
    Case("GatherND", [(2, 3, 4), np.array([[[1], [2]], [[0], [0]]])], {"batch_dims": 1}),
    Case("GatherND", [(2, 2, 3), np.array([[[1], [0]], [[2], [2]]])], {"batch_dims": 2}),
    *(
        Case(
            "ScatterElements",
            [(3, 4), np.array([[0, 0]]), (1, 2)],
            {"axis": 1, "reduction": r},
            low=0.5,
            high=2.0,
        )
        for r in ("mul", "max", "min")
    ),
    *(
        Case("ScatterND", [(3, 4), np.array([[0], [2]]), (2, 4)], {"reduction": r}, low=0.5, high=2.0)
        for r in ("add", "mul", "max", "min")
    ),
    Case("TopK", [(3, 5), ints(2)], {"axis": -1}, outputs=2),
]
LINEAR = [
    *(
        Case("MatMul", [a, b])
        for a, b in (
            ((2, 3), (3, 4)),
            ((5, 2, 3), (3, 4)),
            ((5, 2, 3), (5, 3, 4)),
            ((2, 3), (5, 3, 4)),
            ((2, 1, 2, 3), (5, 3, 4)),
            ((3,), (3, 4)),
            ((2, 3), (3,)),
            ((3,), (3,)),
            ((3,), (2, 3, 4)),
            ((5, 2, 3), (3,)),
        )
    ),
    Case("MatMul", [(5, 2, 3), (3, 4)], dynamic=True),
    Case("MatMul", [(5, 2, 3), (1, 3, 4)], dynamic=True),
    *(
        Case(
            "Gemm",
            [(3, 2) if ta else (2, 3), (4, 3) if tb else (3, 4), (4,)],
            {"transA": ta, "transB": tb, "alpha": 0.5, "beta": 2.0},
        )
        for ta in (0, 1)
        for tb in (0, 1)
    ),
    Case("Gemm", [(2, 3), (3, 4)]),
    Case("Gemm", [(2, 3), (3, 4), (2, 1)]),
    Case("Einsum", [(2, 3), (3, 4)], {"equation": "ij,jk->ik"}),
    Case("Einsum", [(2, 3, 4), (2, 5, 4)], {"equation": "bid,bjd->bij"}),
    Case("Einsum", [(2, 3, 4)], {"equation": "ijk->kij"}),
    Case("Einsum", [(2, 3, 4)], {"equation": "ijk->ki"}),
    Case("Einsum", [(2, 3)], {"equation": "ba"}),
    Case("Einsum", [(2, 3, 4), (2, 4, 5)], {"equation": "...ij,...jk->...ik"}),
    Case("Det", [(2, 3, 3)]),
    Case("Det", [(2, 2)]),
    Case("Einsum", [(2, 3), (3,), (2,)], {"equation": "ij,j,i->i"}),
]
CONVOLUTION = [
    Case("Conv", [(2, 3, 6, 5), (4, 3, 3, 3), (4,)], {"pads": [1, 1, 1, 1]}),
    Case("Conv", [(2, 3, 6, 5), (4, 3, 3, 2)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    Case("Conv", [(2, 4, 7, 7), (6, 2, 3, 3), (6,)], {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("Conv", [(2, 4, 6, 6), (6, 2, 3, 3)], {"group": 2, "pads": [1, 1, 1, 1]}),
    Case("Conv", [(2, 4, 6, 6), (4, 1, 3, 3)], {"group": 4, "pads": [1, 1, 1, 1]}),
    Case("Conv", [(2, 4, 7, 7), (8, 1, 3, 3)], {"group": 4, "strides": [2, 2]}),
    Case("Conv", [(2, 3, 8, 8), (4, 3, 3, 3)], {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    Case("Conv", [(2, 3, 9, 8), (4, 3, 3, 3)], {"dilations": [2, 1], "strides": [2, 3]}),
    Case("Conv", [(2, 3, 8, 8), (4, 3, 1, 1)], {"strides": [2, 2]}),
    Case("Conv", [(2, 3, 8, 8), (4, 3, 1, 1)]),
    Case("Conv", [(2, 3, 8, 8), (4, 3, 1, 1)], {"pads": [1, 1, 1, 1]}),
    *(
        Case("Conv", [(2, 2, 7, 6), (3, 2, 3, 2)], {"auto_pad": p, "strides": [s, s]})
        for p in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for s in (1, 2)
    ),
    Case("Conv", [(2, 3, 9), (4, 3, 3)], {"pads": [1, 1]}),
    Case("Conv", [(1, 2, 4, 4, 4), (3, 2, 2, 2, 2)]),
    Case("Conv", [(2, 3, 7, 8), (4, 3, 3, 3)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}, dynamic=True),
    Case("Conv", [(2, 3, 7, 8), (4, 3, 3, 3)], {"pads": [1, 1, 1, 1]}, dynamic=True),
    Case("ConvTranspose", [(2, 3, 4, 4), (3, 2, 3, 3), (2,)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("ConvTranspose", [(2, 3, 4, 4), (3, 2, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1]}),
    Case("ConvTranspose", [(2, 4, 4, 4), (4, 2, 3, 2), (4,)], {"group": 2, "strides": [2, 1]}, runtime=True),
    Case("ConvTranspose", [(2, 3, 4, 4), (3, 2, 2, 2)], {"dilations": [2, 2]}),
    Case("ConvTranspose", [(2, 3, 4, 4), (3, 2, 2, 2)], {"strides": [2, 2]}, dynamic=True),
    Case("ConvTranspose", [(1, 2, 5), (2, 3, 4)], {"strides": [2], "pads": [1, 1]}),
]
AWAY = f32(SPREAD / SPREAD.size + 0.1) * np.where(SPREAD % 2, 1, -1).astype(np.float32)  # from zero
UNPOOLED = np.array([[[[0, 3], [8, 10]], [[21, 19], [28, 31]]]])
POOLING = [
    Case("MaxPool", [(2, 3, 6, 6)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", [(2, 3, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("MaxPool", [(2, 3, 6, 6)], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    Case("MaxPool", [(2, 3, 7, 6)], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", [(2, 3, 6, 6)], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("MaxPool", [(2, 3, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}, dynamic=True),
    Case("AveragePool", [(2, 3, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("AveragePool", [(2, 3, 6, 7)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case(
        "AveragePool", [(2, 3, 6, 6)], {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": 1}
    ),
    Case("AveragePool", [(2, 3, 7, 6)], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("AveragePool", [(2, 3, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}, dynamic=True),
    Case("GlobalAveragePool", [(2, 3, 4, 5)]),
    Case("GlobalAveragePool", [(2, 3, 4, 5)], dynamic=True),
    Case("GlobalMaxPool", [(2, 3, 4, 5)]),
    *(
        Case("LpPool", [AWAY], {"kernel_shape": [3, 2], "p": p, **options}, trained=(0,), runtime=True)
        for p, options in (
            (2, {"strides": [2, 2]}),
            (1, {"pads": [1, 0, 1, 1]}),
            (3, {"strides": [2, 2], "ceil_mode": 1}),
            (2, {"dilations": [2, 2]}),
            (2, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        )
    ),
    Case("LpPool", [(2, 3, 6)], {"kernel_shape": [2]}, runtime=True),
    Case("LpPool", [(2, 3, 7)], {"kernel_shape": [2], "strides": [2]}, low=0.5, dynamic=True, runtime=True),
    *(Case("GlobalLpPool", [AWAY], {"p": p}, trained=(0,), runtime=True) for p in (1, 2, 3)),
    Case("MaxUnpool", [(1, 2, 2, 2), UNPOOLED], {"kernel_shape": [2, 2], "strides": [2, 2]}, runtime=True),
    Case(
        "MaxUnpool",
        [(1, 2, 2, 2), UNPOOLED, ints(1, 2, 5, 5)],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        runtime=True,
    ),
]
MOMENTS = [f32([0.1, -0.2, 0.3]), f32([0.5, 1.5, 1.0])]
NORMALIZATION = [
    Case("BatchNormalization", [(4, 3, 2, 2), (3,), (3,), *MOMENTS]),
    Case("BatchNormalization", [(4, 3), (3,), (3,), *MOMENTS], {"epsilon": 1e-2}),
    Case("BatchNormalization", [(4, 3, 2, 2), (3,), (3,), *MOMENTS], {"training_mode": 1}, outputs=3),
    Case(
        "BatchNormalization",
        [(4, 3, 2, 2), (3,), (3,), *MOMENTS],
        {"training_mode": 1},
        outputs=3,
        dynamic=True,
    ),
    Case("LayerNormalization", [(2, 3, 4), (4,), (4,)]),
    Case("LayerNormalization", [(2, 3, 4), (3, 4)], {"axis": 1}),
    Case("RMSNormalization", [(2, 3, 4), (4,)], opset=23),
    Case("InstanceNormalization", [(2, 3, 4, 2), (3,), (3,)]),
    Case("GroupNormalization", [(2, 6, 3, 2), (6,), (6,)], {"num_groups": 2}, opset=21),
    Case("GroupNormalization", [(2, 6, 3, 2), (2,), (2,)], {"num_groups": 2}, opset=18),
    Case("LpNormalization", [(3, 4)], {"axis": 1, "p": 1}, runtime=True),
    Case("LpNormalization", [(3, 4)], {"axis": 0}),
    Case("MeanVarianceNormalization", [(2, 3, 4, 2)], runtime=True),
    Case("LRN", [(2, 5, 2, 2)], {"size": 3, "alpha": 0.5}, runtime=True),
    Case("LRN", [(2, 5, 2, 2)], {"size": 5, "alpha": 0.5, "beta": 0.5, "bias": 2.0}, runtime=True),
]
SCALES, SIZES = f32([1, 1, 2, 1.5]), ints(1, 2, 3, 7)
RESIZING = [
    *(
        Case(
            "Resize",
            [(1, 2, 4, 4), None, SCALES],
            {"mode": mode, "coordinate_transformation_mode": how},
            runtime=True,
        )
        for mode in ("nearest", "linear", "cubic")
        for how in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    ),
    *(
        Case("Resize", [(1, 2, 4, 4), None, None, SIZES], {"mode": m}, runtime=True)
        for m in ("nearest", "linear")
    ),
    Case(
        "Resize",
        [(1, 2, 4, 4), None, f32([1, 1, 0.5, 0.5])],
        {"mode": "linear", "antialias": 1},
        runtime=True,
    ),
    Case("Resize", [(1, 2, 4, 4), None, SCALES], {"mode": "linear"}, runtime=True, dynamic=True),
    *(
        Case(
            "Resize",
            [(1, 2, 5, 4), f32([0, 0, 0.2, -0.1, 1, 1, 0.9, 1.2]), None, ints(1, 2, 3, 4)],
            {
                "mode": mode,
                "coordinate_transformation_mode": "tf_crop_and_resize",
                "extrapolation_value": 2.0,
            },
            frozen=(1,),
            runtime=True,
        )
        for mode in ("linear", "nearest")
    ),
]
RECURRENT = [
    Case(
        "LSTM",
        [(4, 2, 3), (1, 20, 3), (1, 20, 5)],
        {"hidden_size": 5},
        outputs=3,
        used=(0, 1, 2),
        runtime=True,
    ),
    Case(
        "LSTM",
        [(4, 2, 3), (1, 20, 3), (1, 20, 5), (1, 40), None, (1, 2, 5), (1, 2, 5)],
        {"hidden_size": 5, "direction": "reverse"},
        outputs=3,
        used=(0, 2),
        runtime=True,
    ),
    Case(
        "LSTM",
        [(3, 2, 3), (2, 20, 3), (2, 20, 5), (2, 40)],
        {"hidden_size": 5, "direction": "bidirectional"},
        outputs=3,
        used=(1,),
        runtime=True,
    ),
    Case("LSTM", [(1, 2, 3), (1, 8, 3), (1, 8, 2), (1, 16)], {"hidden_size": 2}, runtime=True),
    *(
        Case(
            "GRU",
            [(4, 2, 3), (d, 15, 3), (d, 15, 5), (d, 30), None, (d, 2, 5)][:inputs],
            {"hidden_size": 5, "direction": direction, "linear_before_reset": linear},
            outputs=2,
            used=used,
            runtime=True,
        )
        for direction, d, inputs, used in (
            ("forward", 1, 6, (0, 1)),
            ("reverse", 1, 3, (0,)),
            ("bidirectional", 2, 4, (1,)),
            ("bidirectional", 2, 6, (0,)),
        )
        for linear in (0, 1)
    ),
    *(
        Case(
            "RNN",
            [(4, 2, 3), (d, 5, 3), (d, 5, 5), (d, 10), None, (d, 2, 5)][:inputs],
            {"hidden_size": 5, "direction": direction, "activations": [kind] * d},
            outputs=2,
            used=(0, 1),
            runtime=True,
        )
        for direction, d, inputs, kind in (
            ("forward", 1, 6, "Tanh"),
            ("reverse", 1, 4, "Sigmoid"),
            ("bidirectional", 2, 3, "Tanh"),
        )
    ),
]
LENGTHS = np.array([3, 1], np.int32)


def recurrent(op_type: str, directions: int, used: tuple[int, ...], inputs: str, **attributes: Any) -> Case:
    """Four steps, two sequences; `inputs` are the optional ones: bias, lengths, states, peepholes (b l h c p)."""
    d, gates = directions, {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    optional = {"b": (d, 2 * gates * 3), "l": LENGTHS, "h": (d, 2, 3), "c": (d, 2, 3), "p": (d, 9)}
    chosen: list[Any] = [(4, 2, 2), (d, gates * 3, 2), (d, gates * 3, 3)]
    chosen += [optional[key] if key in inputs else None for key in "blhcp"[: 5 if op_type == "LSTM" else 3]]
    options = {"hidden_size": 3, **attributes}
    count = 3 if op_type == "LSTM" else 2
    return Case(op_type, chosen, options, count, used, opset=14, runtime=True, eps=1e-3)  # small: kinks


BOTH: dict[str, Any] = {"direction": "bidirectional"}
STEP_BY_STEP = [  # forms that are written out
    recurrent("LSTM", 1, (0, 1, 2), "bl"),
    recurrent("LSTM", 1, (0, 1, 2), "lhc", direction="reverse"),
    recurrent("LSTM", 2, (0, 1, 2), "blhc", **BOTH),
    recurrent("LSTM", 1, (0, 2), "bp"),
    recurrent("LSTM", 2, (1,), "bhcp", **BOTH),
    recurrent("LSTM", 1, (0,), "bp", input_forget=1),
    recurrent("LSTM", 1, (0, 2), "bp", clip=0.4),
    recurrent("LSTM", 1, (0,), "b", activations=["HardSigmoid", "Softsign", "Relu"], activation_alpha=[0.3]),
    recurrent("LSTM", 1, (0,), "", activations=["Sigmoid", "ScaledTanh", "LeakyRelu"],
              activation_alpha=[1.5, 0.2], activation_beta=[0.7]),
    *(recurrent("GRU", 1, (0, 1), "bl", linear_before_reset=k) for k in (0, 1)),
    *(recurrent("GRU", 2, (0, 1), "blh", linear_before_reset=k, **BOTH) for k in (0, 1)),
    *(recurrent("GRU", 1, (0,), "b", linear_before_reset=k, clip=0.3) for k in (0, 1)),
    recurrent("GRU", 2, (0,), "b", activations=["HardSigmoid", "Elu", "Sigmoid", "Softplus"],
              activation_alpha=[0.3, 0.5], activation_beta=[0.4], **BOTH),
    recurrent("RNN", 1, (0, 1), "bl", direction="reverse"),
    recurrent("RNN", 2, (0, 1), "blh", activations=["Softplus", "Softsign"], **BOTH),
    recurrent("RNN", 1, (0,), "b", activations=["Affine"], activation_alpha=[0.5], activation_beta=[0.1]),
    recurrent("RNN", 1, (0,), "b", clip=0.3),
]  # fmt: skip
GRID = np.random.default_rng(7).uniform(-1.3, 1.3, (2, 3, 4, 2)).astype(np.float32)
REGIONS = f32([[0.62, 1.13, 5.41, 4.37], [-2.41, 1.26, 3.1, 9.3], [2.25, 2.35, 2.61, 4.42]])
SAMPLING = [
    *(
        Case(
            "GridSample",
            [(2, 3, 5, 6), GRID],
            {"mode": mode, "padding_mode": padding, "align_corners": aligned},
            opset=16,
            runtime=True,
        )
        for mode in ("bilinear", "nearest", "bicubic")
        for padding in ("zeros", "border", "reflection")
        for aligned in (0, 1)
    ),
    *(
        Case(
            "GridSample",
            [(1, 2, 6, 6), (1, 2, 3, 2)],
            {"mode": mode, "padding_mode": padding, "align_corners": 1},
            low=-0.9,
            high=0.9,
            opset=16,
            runtime=True,
            eps=2e-3,
        )
        for mode in ("bilinear", "bicubic")
        for padding in ("zeros", "border", "reflection")
    ),
    Case(
        "GridSample",
        [(1, 2, 3, 4, 3), (1, 2, 2, 1, 3)],
        {"mode": "linear"},
        low=-0.55,
        high=0.5,
        opset=20,
        runtime=True,
        eps=2e-3,
    ),
    *(
        Case("AffineGrid", [(2, 2, 3), ints(2, 3, 4, 5)], {"align_corners": c}, opset=20, runtime=True)
        for c in (0, 1)
    ),
    Case("AffineGrid", [(2, 3, 4), ints(2, 3, 2, 4, 5)], opset=20, runtime=True),
    *(
        Case(
            "RoiAlign",
            [(2, 3, 7, 8), REGIONS, ints(1, 0, 1)],
            {"output_height": 2, "output_width": 3, **options},
            opset=16,
            trained=(1,),
            runtime=True,
            eps=2e-3,
        )
        for options in (
            {},
            {"sampling_ratio": 2},
            {"sampling_ratio": 3, "coordinate_transformation_mode": "output_half_pixel"},
            {"sampling_ratio": 2, "spatial_scale": 0.5},
        )
    ),
    Case("RoiAlign", [(2, 3, 7, 8), REGIONS, ints(1, 0, 1)], {"sampling_ratio": 2}, opset=10, runtime=True),
]
CACHED = [(1, 2, 4, 8)] * 3
ROTATION = [
    f32(np.cos(GRID[..., 0]).repeat(2, 2)[0][:, :4]),
    f32(np.sin(GRID[..., 0]).repeat(2, 2)[0][:, :4]),
]
PLACES = np.array([[0, 1, 2, 0], [2, 1, 0, 1]])
DEFINED = [  # trained as their definitions in simpler operators
    *(Case("Attention", [(1, 4, 4, 8), (1, 2, 6, 8), (1, 2, 6, 6)], opset=o) for o in (23, 24)),
    Case("Attention", [*CACHED, f32(GRID[0, :, :, 0].repeat(2, 0)[:4])], {"scale": 0.3, "softcap": 2.0}, opset=23),
    Case("Attention", [*CACHED, np.tril(np.ones((4, 4), bool))], opset=23),
    *(Case("Attention", CACHED, {"is_causal": 1}, opset=o) for o in (23, 24)),
    Case("Attention", [(1, 4, 32), (1, 6, 16), (1, 6, 12)], {"q_num_heads": 4, "kv_num_heads": 2}, opset=23),
    *(
        Case("Attention", [*CACHED, None, (1, 2, 3, 8), (1, 2, 3, 8)], {"is_causal": c}, 3, (0, 1, 2), opset=23)
        for c in (0, 1)
    ),
    *(
        Case("Attention", CACHED, {"qk_matmul_output_mode": mode}, 4, (0, 3), opset=23)
        for mode in (0, 1, 2, 3)
    ),
    *(
        Case("RotaryEmbedding", [shape, *(t[:, :half] for t in ROTATION), PLACES], {**more, **heads},
             opset=23, trained=(1, 2))
        for more, half in (({}, 4), ({"interleaved": 1}, 4), ({"rotary_embedding_dim": 4}, 2))
        for shape, heads in (((2, 2, 4, 8), {}), ((2, 4, 16), {"num_heads": 2}))
    ),
    Case("RotaryEmbedding", [(2, 2, 4, 8), *(t[PLACES] for t in ROTATION)], opset=23),
    Case("Swish", [(3, 4)], {"alpha": 1.5}, opset=24),
    Case("CausalConvWithState", [(1, 4, 6), (4, 1, 3)], opset=27, outputs=2),
    Case("CenterCropPad", [(4, 5), ints(2, 7)]),
]  # fmt: skip
CACHES = [  # not before opset 24
    *(
        Case(
            "TensorScatter", [(2, 3, 4, 5), (2, 3, 2, 5), ints(2, 1)], {"mode": mode}, opset=24, runtime=True
        )
        for mode in ("linear", "circular")
    ),
    Case(
        "TensorScatter",
        [(2, 4, 5), (2, 2, 5), ints(3, 1)],
        {"mode": "circular", "axis": 1},
        opset=24,
        runtime=True,
    ),
    Case("TensorScatter", [(2, 4, 5), (2, 2, 5)], opset=24, runtime=True),
]
PIXELS = (2, 4, 5, 6)
OFFSETS = [(2, 8, 4, 5), (2, 16, 4, 5), (2, 8, 2, 6)]
DEFORMED = [
    Case("DeformConv", [PIXELS, (6, 4, 2, 2), OFFSETS[0]], opset=19, low=0.1, high=0.9),
    Case("DeformConv", [PIXELS, (6, 2, 2, 2), OFFSETS[1], (6,), (2, 8, 4, 5)], {"group": 2, "offset_group": 2},
         opset=19, low=0.1, high=0.9),
    Case("DeformConv", [PIXELS, (3, 4, 2, 2), OFFSETS[2], None, (2, 4, 2, 6)],
         {"strides": [2, 1], "pads": [1, 1, 0, 1], "dilations": [2, 2]}, opset=19, low=0.1, high=0.9),
]  # fmt: skip
LABELS = np.array([0, 2, 1, 2])
LOSSES = [
    *(
        Case(op, [(4, 3), LABELS], {"reduction": r})
        for op in ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
        for r in ("mean", "sum", "none")
    ),
    *(
        Case(op, [(4, 3), LABELS, f32([0.5, 1.0, 2.0])], {"ignore_index": 2})
        for op in ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
    ),
    Case("SoftmaxCrossEntropyLoss", [(2, 3, 2), np.array([[0, 2], [1, 1]])]),
]
CASES = [
    *ACTIVATIONS,
    *BROADCAST,
    *REDUCTIONS,
    *(CUMULATIVE_PRODUCTS if newest_versions()[0] >= 26 else []),
    *(CACHES if newest_versions()[0] >= 24 else []),
    *SHAPING,
    *INDEXING,
    *LINEAR,
    *CONVOLUTION,
    *POOLING,
    *NORMALIZATION,
    *LOSSES,
    *RESIZING,
    *RECURRENT,
    *STEP_BY_STEP,
    *SAMPLING,
    *DEFINED,
    *DEFORMED,
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_gradient(case: Case, engine: Any) -> None:
    model, parameters, feeds = build(case)
    found = engines.gradients(model, parameters, feeds, engine)
    rng = np.random.default_rng(3)
    for name in parameters:
        assert np.isfinite(found[name]).all()
        for _ in range(2):
            direction = rng.normal(size=found[name].shape)
            expected = directional(case, name, direction)
            actual = float(np.sum(found[name].astype(np.float64) * direction))
            scale = float(np.sum(np.abs(found[name] * direction))) + 1e-2
            assert abs(actual - expected) <= 1e-3 * scale, (name, actual, expected)


def test_unknown_operator_is_named() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g () => (float loss) <float[2,2] w = {1, 2, 3, 5}>'
        "{ [inverse] d = Optional (w)  loss = Identity (d) }"
    )
    with pytest.raises(UnsupportedError, match=r"'inverse' \(Optional\)"):
        autodiff.backward(model, "loss", ["w"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrence_with_the_batch_first(op_type: str, gates: int, engine: Any) -> None:
    """Runtimes have no kernel for layout 1: it must be layout 0 between transposes."""
    shapes = {"w": (2, 3 * gates, 2), "r": (2, 3 * gates, 3), "h": (2, 4, 3), "x": (5, 4, 2)}
    rng = np.random.default_rng(0)
    values = {name: f32(rng.normal(size=shape)) for name, shape in shapes.items()}
    found = []
    for layout in (0, 1):
        x, h = (f"{n}{layout}" for n in "xh")
        body = f"""<ir_version: 8, opset_import: ["" : 18]> g () => (float loss) {{
            x1 = Transpose <perm = [1, 0, 2]> (x0) h1 = Transpose <perm = [1, 0, 2]> (h0)
            y, last = {op_type} <hidden_size = 3, direction = "bidirectional", layout = {layout}>({x}, w, r, , , {h})
            yy = Mul(y, y) a = ReduceSum <keepdims = 0> (yy) cubes = Mul(last, last)
            b = ReduceSum <keepdims = 0> (cubes) loss = Add(a, b) }}"""
        model = parser.parse_model(body)
        stored = {"w": "w", "r": "r", "x": "x0", "h": "h0"}
        model.graph.initializer.extend(numpy_helper.from_array(v, stored[n]) for n, v in values.items())
        found.append(engines.gradients(model, list(stored.values()), {}, engine))
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, atol=1e-5)


def test_quantised_and_controlled_models_get_advice() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g () => (float loss) <float[2] w = {1, 2}, float s = {0.5},'
        "uint8 z = {0}> { q = QuantizeLinear(w, s, z) [back] d = DequantizeLinear(q, w)"
        "  loss = ReduceSum <keepdims = 0> (d) }"
    )
    with pytest.raises(UnsupportedError, match=r"'back' \(DequantizeLinear\).*before it is quantised"):
        autodiff.backward(model, "loss", ["w"])


def test_what_a_branch_reads_is_not_forgotten() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]> g (bool big) => (float loss)
        <float[2] w = {1, 2}> { s = Exp(w)
        [choice] y = If (big) <then_branch = t () => (float[2] a) { a = Neg(s) },
                               else_branch = e () => (float[2] b) { b = Identity(s) }>
        loss = ReduceSum <keepdims = 0> (y) }""")
    for engine in ENGINES:
        with pytest.raises(UnsupportedError, match=r"\(If\).*sizes that unroll it"):
            engines.gradients(model, ["w"], {"big": np.array(True)}, engine)


def test_unused_parameter_has_zero_gradient() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g () => (float loss)'
        "<float[2] w = {1, 2}, float[2] u = {1, 2}>"
        "{ loss = ReduceSum <keepdims = 0> (w) }"
    )
    for engine in ENGINES:
        found = engines.gradients(model, ["w", "u"], {}, engine)
        np.testing.assert_array_equal(found["u"], [0, 0])
        np.testing.assert_array_equal(found["w"], [1, 1])
