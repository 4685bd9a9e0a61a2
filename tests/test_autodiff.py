"""Every gradient rule against finite differences, with both engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from composite_cases import CACHES, DEFINED, DEFORMED, RECURRENT, SAMPLING, STEP_BY_STEP
from gradient_cases import Case, build, directional, f32, ints
from onnx import numpy_helper, parser

from tgonnx import engines
from tgonnx.engines import autodiff
from tgonnx.errors import UnsupportedError
from tgonnx.runtime.versions import newest_versions

ENGINES = ["portable", "ort-training"] if engines.choose() == "ort-training" else ["portable"]

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
