"""Latency on another device: a folder of models with a small runner goes there, and a file with times comes back.

Only whole models are timed there, so that any runtime will do: what a type of operators takes is fitted to them.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.time_fit import Measured, fitted
from tgonnx.analysis.times import Profile
from tgonnx.errors import UsageError
from tgonnx.io.save import save, save_bytes, save_text
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.pipeline import on_device
from tgonnx.pipeline.clock import Clock
from tgonnx.pipeline.profiling import candidates

LISTED = "models.json"
RUNNERS = ("run.py", "run.mjs", "README.txt")
FEWEST = 4  # times from which something can be told


def write_script(coupling: Coupling, folder: str | os.PathLike[str], batch: int = 1, seed: int = 0) -> None:
    """A folder with all that is needed to time the model elsewhere.

    Raises UsageError if it is there already or cannot be made, ModelError, UnsupportedError.
    """
    place, clock = Path(folder), Clock.of(coupling.model, 1, batch)
    copies = [remove_channels(coupling.model.proto, coupling, mask) for mask in candidates(coupling, seed)]
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{place}: no folder can be made there: {error.strerror}") from None
    names = [f"model{number:02}.onnx" for number in range(len(copies))]
    for name, copy in zip(names, copies, strict=True):
        save(copy, place / name)
    inputs, web = {}, {}
    for number, (name, array) in enumerate(clock.feeds.items()):
        inputs[name], raw = f"input{number}.npy", f"input{number}.bin"
        with open(place / inputs[name], "wb") as file:
            np.save(file, array)
        save_bytes(array.tobytes(), place / raw)
        web[name] = {"file": raw, "type": str(array.dtype), "shape": list(array.shape)}
    listed = {
        "structure": coupling.model.structure, "models": names, "inputs": inputs, "web_inputs": web,
        "batch": batch, "seed": seed,
    }  # fmt: skip
    save_text(json.dumps(listed, indent=1) + "\n", place / LISTED)
    for name in RUNNERS:
        save_text((files(on_device) / name).read_text(encoding="utf-8"), place / name)


def from_answers(coupling: Coupling, path: str | os.PathLike[str], seed: int = 0) -> Profile:
    """The profile of what was timed elsewhere. Raises UsageError naming the file and what is wrong with it."""
    answers, name = _read(path), os.fspath(path)
    if answers["structure"] != coupling.model.structure:
        raise UsageError(f"{name}: are times of another model than {coupling.model.source}")
    masks = [*candidates(coupling, seed)]
    measured = [
        Measured(coupling.cost_model.open_counts(mask.open), 1000 * float(answers["ms"][model]))
        for number, mask in enumerate(masks)
        if (model := f"model{number:02}.onnx") in answers["ms"]
    ]
    if len(measured) < min(FEWEST, len(masks)) or f"model{0:02}.onnx" not in answers["ms"]:
        raise UsageError(
            f"{name}: has too few times: of the whole model (model00.onnx) and {FEWEST - 1} others at least"
        )
    about: dict[str, str | int] = {
        "device": str(answers.get("device") or "another device"),
        "runtime": str(answers.get("runtime", "")),
        "threads": int(answers.get("threads", 0)),
    }
    return replace(fitted(coupling, measured), about=about)


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    name = os.fspath(path)
    try:
        answers = json.loads(Path(path).read_text(encoding="utf-8"))
        times = answers["ms"]
        if not all(isinstance(value, int | float) and 0 < value < float("inf") for value in times.values()):
            raise ValueError("a time is no number above 0")
        answers["structure"]
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{name}: is not what the script of `tgonnx profile --script` writes ({error})"
        ) from None
    return dict(answers)
