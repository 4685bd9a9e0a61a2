"""Commands that fix an installation; whoever finds something missing tells the one that helps."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable

DOCTOR = "`tgonnx doctor` tells how to fix it"
TRAINING_PART = (
    "run `pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-training-cpu` "
    "(Python 3.12 or older) or use --engine portable"
)
CUDA = (
    "run `pip uninstall -y onnxruntime onnxruntime-training-cpu && pip install onnxruntime-gpu`, "
    "or use --device cpu"
)


def reinstall(runtimes: Iterable[str]) -> str:
    """The command that leaves one working runtime where these packages of it are installed."""
    pip, found = f"{sys.executable} -m pip", " ".join(runtimes)
    remove = f"{pip} uninstall -y {found} && " if found else ""
    return f"{remove}{pip} install --force-reinstall --no-deps {best_runtime()}"


def best_runtime() -> str:
    """The package that pyproject.toml asks for on this machine."""
    trainable = platform.machine() in ("x86_64", "AMD64") or sys.platform == "darwin"
    return "onnxruntime-training-cpu" if sys.version_info < (3, 13) and trainable else "onnxruntime"
