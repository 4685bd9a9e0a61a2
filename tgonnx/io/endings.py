"""Endings of file names: what is written is called by its format, ONNX or onnxruntime's own."""

from __future__ import annotations

import os
from pathlib import Path

from tgonnx.errors import UsageError

ONNX, ORT = ".onnx", ".ort"
# whose format an ending promises, and what makes that of an ONNX file
_FORMATS = {
    ".xml": ("OpenVINO's format", "ovc"),
    ".bin": ("OpenVINO's or ncnn's format", "ovc or pnnx"),
    ".mlmodel": ("Core ML's format", "coremltools"),
    ".mlpackage": ("Core ML's format", "coremltools"),
    ".tflite": ("TensorFlow Lite's format", "onnx2tf"),
    ".pb": ("TensorFlow's format", "onnx2tf"),
    ".h5": ("Keras' format", "onnx2tf"),
    ".keras": ("Keras' format", "onnx2tf"),
    ".engine": ("TensorRT's format", "trtexec"),
    ".plan": ("TensorRT's format", "trtexec"),
    ".trt": ("TensorRT's format", "trtexec"),
    ".param": ("ncnn's format", "pnnx"),
    ".mnn": ("MNN's format", "mnnconvert"),
    ".pt": ("PyTorch's format", "onnx2torch"),
    ".pth": ("PyTorch's format", "onnx2torch"),
}


def is_ort(path: object) -> bool:
    """Does the name ask for onnxruntime's own format? What is no path does not, and is refused elsewhere."""
    return isinstance(path, str | os.PathLike) and Path(path).suffix.lower() == ORT


def check_ending(path: str | os.PathLike[str]) -> None:
    """Raise UsageError unless a model may be called so: `.onnx`, `.ort`, or a name without ending."""
    place = Path(path)
    ending = place.suffix.lower()
    if ending in ("", ONNX, ORT):
        return
    if ending in _FORMATS:
        what, tool = _FORMATS[ending]
        other = str(place.with_suffix(ONNX))
        raise UsageError(
            f"{path}: {ending} is {what}, and ONNX is written; write {other!r} and convert it ({tool})"
        )
    other = str(place.with_name(place.name + ONNX))
    raise UsageError(f"{path}: {place.suffix} is no ending of an ONNX file; write {other!r}")
