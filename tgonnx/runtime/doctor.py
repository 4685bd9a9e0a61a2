"""What is installed, what of it works, and how to fix the rest."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from tgonnx.runtime import remedies
from tgonnx.runtime.sessions import broken, import_onnxruntime
from tgonnx.runtime.versions import differentiates

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
    `remedy` is the command that fixes what `problems` lists.
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
        """Whether nothing needs fixing."""
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
        remedy=remedies.reinstall(runtimes) if problems else None,
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _probe() -> tuple[str | None, bool, str]:
    """Version of the importable onnxruntime, whether it can differentiate, and why it does not work if so."""
    failure = broken()
    if failure:
        return None, False, failure
    return str(import_onnxruntime().__version__), differentiates(), ""


def _choose(importable: str | None, can_train: bool) -> tuple[str | None, str]:
    if importable is None:
        return None, "without a working onnxruntime nothing can run"
    if can_train:
        return "ort-training", f"onnxruntime {importable} has the training part"
    return (
        "portable",
        f"onnxruntime {importable} is without the training part; gradients in standard operators",
    )
