"""The engines by name, in the order in which "auto" tries them; from outside, `register` one.

The first step is tried in a process of its own, which is handed the engine: its functions must stand in a module.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from onnx import ModelProto

from tgonnx.engines import ort_training, portable
from tgonnx.engines.autodiff import Backward
from tgonnx.engines.spec import Device
from tgonnx.errors import InstallationError
from tgonnx.options import one_of
from tgonnx.runtime import remedies
from tgonnx.runtime.versions import differentiates

AUTO = "auto"


def _nothing() -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine by name: one entry of the table `ENGINES`.

    `differentiate` makes a copy of a model that also computes the gradients of its first output with respect to
    initializers (raises UnsupportedError). `quick` is the same where shortcuts may be taken (names of
    `tgonnx.ops.aspects.row.SHORTCUTS`), if it knows any. "auto" takes it on `devices`. `missing` says what it lacks
    here, and the cure; nothing if it works.
    """

    name: str
    differentiate: Callable[[ModelProto, Iterable[str]], Backward]
    quick: Callable[[ModelProto, Iterable[str], Collection[str]], Backward] | None = None
    devices: tuple[Device, ...] = ("cpu",)
    missing: Callable[[], str] = _nothing


def _training_part() -> str:
    if differentiates():
        return ""
    return f"the onnxruntime that is imported has no GradientGraphBuilder; {remedies.TRAINING_PART}"


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            name="ort-training",
            differentiate=ort_training.differentiate,
            quick=ort_training.differentiate,
            missing=_training_part,
        ),
        Engine(
            name="portable",
            differentiate=portable.differentiate,
            quick=portable.differentiate,
            devices=("cpu", "cuda"),
        ),
    )
}


def register(engine: Engine) -> None:
    """Let `engine=NAME` mean this engine, which "auto" tries last; one of the same name is replaced."""
    ENGINES[engine.name] = engine


def candidates(engine: str = AUTO, device: Device = "cpu") -> list[Engine]:
    """The engine of that name, or with "auto" all that work here, the first to be tried first.

    Raises UsageError for an unknown name, listing the known ones, and InstallationError if it does not work here.
    """
    if engine == AUTO:
        return [each for each in ENGINES.values() if device in each.devices and not each.missing()]
    one_of("engine", engine, (AUTO, *ENGINES))
    if lacks := ENGINES[engine].missing():
        raise InstallationError(f"engine {engine}: {lacks}")
    return [ENGINES[engine]]
