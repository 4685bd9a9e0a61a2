"""Cases of operators that are decomposed into simpler ones: recurrent, sampling, attention, deformable."""

from __future__ import annotations

from typing import Any

import numpy as np
from gradient_cases import Case, f32, ints

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
STEP_BY_STEP = [  # forms that are decomposed
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
