"""Running a step graph in an ordinary onnxruntime session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from tgonnx.engines.spec import Device
from tgonnx.engines.step import Slot, StepGraph
from tgonnx.errors import UsageError
from tgonnx.graph.builder import Array
from tgonnx.runtime.memory import give_back_memory
from tgonnx.runtime.sessions import TRAINING, import_onnxruntime, native_session


def session(
    model: ModelProto, threads: int | None = None, seed: int | None = None, device: Device = "cpu"
) -> Any:
    """onnxruntime's own session for training; see `native_session`."""
    return native_session(model, threads, TRAINING, device, seed)


@dataclass(frozen=True)
class Snapshot:
    """The state of a trainer between two steps, which later steps do not change.

    `values` by the names that the state has in the step graph; some lie in the memory of `kept`. `slots` says where
    in them the initializers are.
    """

    values: Mapping[str, Any]
    kept: Mapping[str, Array]
    slots: Mapping[str, Slot]

    def arrays(self) -> dict[str, Array]:
        """Copies of all of it: parameters, moments, counts and statistics."""
        return {name: np.array(value.numpy()) for name, value in self.values.items()}

    def parameters(self, names: Iterable[str] | None = None) -> dict[str, Array]:
        """Copies of the parameters and statistics by initializer name: all, or those named."""
        slots = self.slots if names is None else {name: self.slots[name] for name in names}
        flat = {state: self.values[state].numpy().reshape(-1) for state in {s.state for s in slots.values()}}
        return {
            name: np.array(flat[s.state][s.start : s.start + int(np.prod(s.shape))].reshape(s.shape))
            for name, s in slots.items()
        }


class Trainer:
    """Holds the state (parameters, moments, statistics) and advances it one step per call."""

    def __init__(
        self,
        graph: StepGraph,
        engine: str,
        threads: int | None = None,
        seed: int | None = None,
        device: Device = "cpu",
    ) -> None:
        self.engine = engine
        self._slots = graph.slots
        self._carried = graph.carried
        self._reported = graph.reported
        self._session = session(graph.model, threads, seed, device)
        self._feeds = {i.name for i in self._session.get_inputs()} - set(graph.state)
        # OrtValues made from numpy borrow the array's memory on the CPU: `_kept` keeps it alive
        self._kept = {name: np.array(array, order="C") for name, array in graph.state.items()}
        self._fresh = True
        self._value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._state = {name: self._value(array) for name, array in self._kept.items()}

    def step(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One update; returns loss and metrics. `feeds`: all inputs and learning rates."""
        missing = self._feeds - set(feeds)
        if missing:
            raise UsageError(f"the training step needs a value for input {sorted(missing)[0]!r}")
        if self._fresh:  # by now, what the step was made of is gone
            self._fresh = False
            give_back_memory()
        arrays = {
            name: np.ascontiguousarray(feeds[name]).reshape(np.shape(feeds[name])) for name in self._feeds
        }
        values = {name: self._value(array) for name, array in arrays.items()}
        names = [*self._reported, *self._carried.values()]
        results = self._session.run_with_ort_values(names, {**values, **self._state})
        count = len(self._reported)
        self._state = dict(zip(self._carried, results[count:], strict=True))
        self._kept = {}
        return {name: result.numpy() for name, result in zip(self._reported, results[:count], strict=True)}

    def parameters(self, names: Iterable[str] | None = None) -> dict[str, Array]:
        """Copies of the parameters and statistics by initializer name: all, or those named."""
        return self.snapshot().parameters(names)

    def load(self, values: Mapping[str, Array]) -> None:
        """Replace parameters and statistics (moments stay). Raises UsageError for a wrong name or shape."""
        changed = {}
        for name, value in values.items():
            slot = self._slots.get(name)
            if slot is None or tuple(np.shape(value)) != slot.shape:
                raise UsageError(f"{name!r} of shape {np.shape(value)} does not fit the training state")
            if slot.state not in changed:
                changed[slot.state] = np.array(self._state[slot.state].numpy())
            flat = changed[slot.state].reshape(-1)
            flat[slot.start : slot.start + int(np.prod(slot.shape))] = np.reshape(value, -1)
        for name, array in changed.items():
            self._kept[name] = array
            self._state[name] = self._value(array)

    def snapshot(self) -> Snapshot:
        """The whole state as it is now; nothing is copied."""
        return Snapshot(dict(self._state), dict(self._kept), self._slots)

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go on from a state that `Snapshot.arrays` gave. Raises UsageError if it is another graph's."""
        expected = {name: (value.shape(), value.numpy().dtype) for name, value in self._state.items()}
        given = {name: (list(array.shape), array.dtype) for name, array in arrays.items()}
        if given != expected:
            name = min({*given, *expected}, key=lambda name: (given.get(name) == expected.get(name), name))
            raise UsageError(f"the training state does not fit this model and recipe: {name!r} differs")
        self._kept = {name: np.array(array, order="C") for name, array in arrays.items()}
        self._state = {name: self._value(array) for name, array in self._kept.items()}
