"""The first step of a training, tried in a process of its own.

onnxruntime can end the process it runs in (SIGSEGV, SIGFPE). So the step is built, run once and its gradients
checked (`tgonnx.engines.gradient_check`) in a child first, where a crash is an answer. With engine `auto`, what
crashes or is wrong with one engine is tried again with the next.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from tgonnx.engines import first_step
from tgonnx.engines.gradient_check import Verdict, judge, relaxed
from tgonnx.engines.optimizers import OPTIMIZERS, Optimizer, named
from tgonnx.engines.spec import Device, EngineName, ParameterGroup, StepSpec
from tgonnx.engines.table import AUTO, ENGINES, Engine, candidates
from tgonnx.errors import OptionError, TgonnxError, UnsupportedError
from tgonnx.graph.builder import Array
from tgonnx.io.interrupts import temporary_folder
from tgonnx.runtime.children import run_child, watch_parent
from tgonnx.runtime.sessions import providers

CHILD = [sys.executable, "-c", "import sys; from tgonnx.engines.rehearsal import play; play(sys.argv[1])"]
BUILD, CHECK = "the first training step", "the check of the gradients"


@dataclass(frozen=True)
class Rehearsal:
    """The engine that went through, and what a reader should know of the ones that did not."""

    engine: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Played:
    """What a child says. `failure` is empty if all went well."""

    failure: str = ""
    engine: str | None = None


def rehearse(
    spec: StepSpec,
    feeds: Mapping[str, Array],
    engine: EngineName = "auto",
    threads: int | None = None,
    device: Device = "cpu",
) -> Rehearsal:
    """Try the first step; `feeds` as for a step, learning rates and other scalars excepted.

    Raises UnsupportedError naming the engine and the step that crashed, or the nodes whose gradients are wrong,
    InstallationError if the engine or the device is not there, and OptionError for an engine or optimiser that a child
    cannot be handed.
    """
    providers(device)
    tried = candidates(engine, device)
    strategies = _packed(tried, [named(group.optimizer) for group in spec.groups])
    with temporary_folder() as folder:
        _write(spec, feeds, folder)
        (folder / "strategies").write_bytes(strategies)
        failures: list[str] = []
        for each in tried:
            falls_back = engine == AUTO and not failures
            played = _play(folder, each.name, falls_back, threads, device)
            if not played.failure and played.engine is not None:
                told = f"{'; '.join(failures)}; the {played.engine} engine is used"
                return Rehearsal(played.engine, (told,) if failures else ())
            failures.append(played.failure)
        raise UnsupportedError("; ".join(failures))


def _packed(engines: Sequence[Engine], optimizers: Sequence[Optimizer]) -> bytes:
    """What the child needs of the tables, where programs may have put something of their own. Raises OptionError."""
    entries: list[Engine | Optimizer] = [*engines, *optimizers]
    for each in entries:
        try:
            alien = b"__main__" in pickle.dumps(
                each
            )  # functions go by their names, and a child has another script
        except (pickle.PicklingError, AttributeError, TypeError):
            alien = True
        if alien:
            raise OptionError(
                "engine" if isinstance(each, Engine) else "optimizer",
                f"{each.name!r} cannot be handed to the process that tries the first step: its functions must stand in "
                "a module that can be imported",
            )
    return pickle.dumps((engines, optimizers))


def _take_over(packed: bytes) -> None:
    """Have the same tables as the parent, as far as they are needed."""
    engines, optimizers = pickle.loads(packed)
    ENGINES.clear()
    ENGINES.update((each.name, each) for each in engines)
    OPTIMIZERS.update((each.name, each) for each in optimizers)


def _write(spec: StepSpec, feeds: Mapping[str, Array], folder: Path) -> None:
    easy = relaxed(spec)
    given = dict(feeds)
    for group in spec.groups:
        given[group.lr] = np.zeros((), np.float32)
    initial = {tensor.name for tensor in easy.model.graph.initializer}
    for value in easy.model.graph.input:
        if value.name not in given and value.name not in initial:
            given[value.name] = np.full((), 0.5, np.float32)  # a schedule's scalar
    onnx.save(easy.model, folder / "model.onnx", save_as_external_data=True, location="weights")
    np.savez(folder / "feeds.npz", *given.values())
    record = {
        "groups": [asdict(group) for group in spec.groups],
        "statistics": dict(spec.statistics),
        "shortcuts": spec.shortcuts,
        "feeds": list(given),
    }
    (folder / "spec.json").write_text(json.dumps(record), encoding="utf-8")


def _play(folder: Path, engine: EngineName, falls_back: bool, threads: int | None, device: Device) -> _Played:
    options = {"engine": AUTO if falls_back else engine, "threads": threads, "device": device}
    (folder / "options.json").write_text(json.dumps(options), encoding="utf-8")
    answer, stage = folder / "answer.json", folder / "stage"
    answer.unlink(missing_ok=True)
    stage.write_text(BUILD, encoding="utf-8")
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, sys.path)])
    code, errors = run_child([*CHILD, str(folder)], {**os.environ, "PYTHONPATH": path})
    if code == 0 and answer.exists():
        return _Played(**json.loads(answer.read_text(encoding="utf-8")))
    where = stage.read_text(encoding="utf-8")
    last = (errors.decode(errors="replace").strip().splitlines() or [""])[-1]
    how = f"crashed ({_signal(-code)})" if code < 0 else f"failed: {last}"
    return _Played(f"engine {engine}: {where} {how}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def play(place: str) -> None:
    """What the child does: build, run, check, and write the answer. A crash leaves the stage it came in."""
    folder = Path(place)
    watch_parent(folder)
    _take_over((folder / "strategies").read_bytes())
    record = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
    with np.load(folder / "feeds.npz") as stored:
        feeds = {name: stored[f"arr_{index}"] for index, name in enumerate(record["feeds"])}
    groups = [
        ParameterGroup(**{**group, "names": tuple(group["names"]), "betas": tuple(group["betas"])})
        for group in record["groups"]
    ]
    shortcuts = tuple(record["shortcuts"])
    model = onnx.load(folder / "model.onnx")
    spec = StepSpec(model, tuple(groups), record["statistics"], shortcuts=shortcuts)
    threads, device = options["threads"], options["device"]
    used: str | None = None
    try:
        gradients, used = first_step(spec, feeds, options["engine"], threads, device)
        (folder / "stage").write_text(CHECK, encoding="utf-8")
        failure = _failure(used, judge(spec, gradients, feeds, threads))
    except TgonnxError as error:
        failure = str(error)
    answer = {"failure": failure, "engine": used}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _failure(engine: str, verdict: Verdict) -> str:
    if verdict.passed:
        return ""
    where = f"; most likely at fault: {', '.join(verdict.suspects)}" if verdict.suspects else ""
    return (
        f"engine {engine}: the gradients are wrong: the loss changes by {verdict.measured:.4g} where they say "
        f"{verdict.predicted:.4g}{where}"
    )
