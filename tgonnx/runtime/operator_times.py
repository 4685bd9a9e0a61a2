"""How long each operator of a model takes, as onnxruntime itself records it.

The runtime fuses operators and adds some that change layouts. A fused operator counts for the node whose output it
makes; what belongs to no node of the model counts for `ADDED`, by its own type.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from tgonnx.errors import ModelError
from tgonnx.graph.structure import first_output
from tgonnx.graph.types import Array
from tgonnx.io.interrupts import temporary_folder
from tgonnx.runtime.sessions import recording_session

ADDED = ""  # the node of what the runtime adds
_LEAST, _MOST, _SECONDS = 2, 60, 0.5  # runs of a model, and about how long they may take
_WARM_UP = 2
_QUANTILE = 25  # of what a run takes: what disturbs only ever adds
_KERNEL = "_kernel_time"
_NUMBERED = re.compile(r"@(\d+)@")


@dataclass(frozen=True)
class OperatorTime:
    """One operator as it ran: the first output of its node (`ADDED`: of none), its type, microseconds of a run."""

    output: str
    op_type: str
    microseconds: float


def operator_times(
    model: onnx.ModelProto, feeds: Mapping[str, Array], threads: int = 1, seconds: float = _SECONDS
) -> list[OperatorTime]:
    """What each operator takes of a run, in the order in which they run.

    Raises UnsupportedError if onnxruntime does not take the model, ModelError if it does not run on the feeds.
    """
    outputs = [first_output(node.output) for node in model.graph.node]
    with temporary_folder() as folder:
        session = recording_session(_numbered(model), threads, folder / "times")
        runs, end = 0, time.perf_counter() + seconds
        try:
            while runs < _LEAST + _WARM_UP or (runs < _MOST and time.perf_counter() < end):
                session.run(None, dict(feeds))
                runs += 1
        except Exception as error:  # onnxruntime has its own exceptions, and RuntimeError
            raise ModelError(f"the model cannot run on these inputs: {error}") from None
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [*_taken(events, outputs)]


def _numbered(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model with the number of each node as its name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for number, node in enumerate(copy.graph.node):
        node.name = f"@{number}@"
    return copy


def _taken(events: Iterable[Mapping[str, object]], outputs: list[str]) -> Iterable[OperatorTime]:
    """What was recorded, operator by operator."""
    times, known = defaultdict[tuple[str, str], list[float]](list), set(outputs)
    for event in events:
        name, details = str(event.get("name", "")), event.get("args")
        if event.get("cat") == "Node" and name.endswith(_KERNEL) and isinstance(details, Mapping):
            record = name.removesuffix(_KERNEL), str(details.get("op_name", ""))
            times[record].append(float(str(event["dur"])))
    for (name, op_type), each in times.items():
        # the runtime's clock cuts fractions off; half a microsecond is what that takes on average
        taken = float(np.percentile(each[_WARM_UP:] or each, _QUANTILE)) + 0.5
        yield OperatorTime(_output_of(name, outputs, known), op_type, taken)


def _output_of(name: str, outputs: list[str], known: set[str]) -> str:
    """The first output of the node that an operator of this name stands for."""
    if found := _NUMBERED.search(name):
        return outputs[int(found[1])]
    plain = name.removesuffix("_nchwc")  # blocked convolutions are named after what they make
    return plain if plain in known else ADDED
