"""What is installed, what of it works, and how to mend the rest."""

from __future__ import annotations

import importlib
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

# Each of these installs the folder `onnxruntime/`; two of them overwrite each other's files.
RUNTIME_PACKAGES = (
    *("onnxruntime", "onnxruntime-training-cpu", "onnxruntime-training", "onnxruntime-gpu"),
    *("onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn", "onnxruntime-silicon"),
)
REPORTED_PACKAGES = ("tgonnx", "onnx", "onnx-graphsurgeon", "numpy", "networkx", "typer", "rich", "pillow")


@dataclass(frozen=True)
class Diagnosis:
    """The state of the installation.

    `versions` maps packages to versions (None: not installed), `runtimes` the installed onnxruntime packages.
    `importable` is the version that `import onnxruntime` gives, `engine` what training will use and `why`.
    `remedy` is the command that mends what `problems` lists.
    """

    python: str
    platform: str
    versions: dict[str, str | None]
    runtimes: dict[str, str]
    importable: str | None
    can_train: bool
    engine: str | None
    why: str
    problems: tuple[str, ...]
    remedy: str | None

    @property
    def ok(self) -> bool:
        """Whether nothing needs mending."""
        return not self.problems


def diagnose() -> Diagnosis:
    """Look at the installed packages and try them; nothing is changed."""
    versions = {name: _version(name) for name in REPORTED_PACKAGES}
    runtimes = {name: found for name in RUNTIME_PACKAGES if (found := _version(name))}
    importable, can_train, failure = _probe()
    training = [name for name in runtimes if "training" in name]
    problems = []
    if len(runtimes) > 1:
        listed = " and ".join(runtimes)
        problems.append(f"{listed} are both installed and overwrite each other's files")
    if importable is None:
        problems.append(f"onnxruntime cannot be used: {failure}")
    elif training and not can_train:
        problems.append(f"{training[0]} is installed, but its training part is missing")
    engine, why = _choose(importable, can_train)
    return Diagnosis(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        versions=versions,
        runtimes=runtimes,
        importable=importable,
        can_train=can_train,
        engine=engine,
        why=why,
        problems=tuple(problems),
        remedy=_remedy(runtimes) if problems else None,
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _probe() -> tuple[str | None, bool, str]:
    """Version of the importable onnxruntime, whether it can differentiate, and why it does not work if so."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")
        native: Any = importlib.import_module("onnxruntime.capi._pybind_state")
        runtime.InferenceSession  # noqa: B018 (a half-removed package imports, but is empty)
        return str(runtime.__version__), hasattr(native, "GradientGraphBuilder"), ""
    except (ImportError, AttributeError, OSError) as error:
        return None, False, " ".join(str(error).split())


def _choose(importable: str | None, can_train: bool) -> tuple[str | None, str]:
    if importable is None:
        return None, "without a working onnxruntime nothing can run"
    if can_train:
        return "ort-training", f"onnxruntime {importable} has the training part"
    return (
        "portable",
        f"onnxruntime {importable} is without the training part; gradients in standard operators",
    )


def _remedy(runtimes: dict[str, str]) -> str:
    pip = f"{sys.executable} -m pip"
    wanted = _best_runtime()
    remove = f"{pip} uninstall -y {' '.join(runtimes)} && " if runtimes else ""
    return f"{remove}{pip} install --force-reinstall --no-deps {wanted}"


def _best_runtime() -> str:
    """The package that pyproject.toml asks for on this machine."""
    trainable = platform.machine() in ("x86_64", "AMD64") or sys.platform == "darwin"
    return "onnxruntime-training-cpu" if sys.version_info < (3, 13) and trainable else "onnxruntime"
