"""Numbers that name rows of a table of the model: those that it does not have are found before anything is learned."""

from __future__ import annotations

import numpy as np

from tgonnx.data.array_samples import ArraySamples
from tgonnx.data.probe import Probe
from tgonnx.errors import DataError
from tgonnx.runtime.integer_ranges import integer_ranges


def check_rows(samples: ArraySamples, probe: Probe) -> None:
    """Raise `DataError` for an integer beyond the table that it is looked up in, if the model does not run with it."""
    whole = [value for value in samples.values if samples.inputs[value.name].dtype.kind in "iu"]
    for name, span in integer_ranges(probe.model, whole).items():
        array, axis = samples.inputs[name], samples.axes.inputs[name]
        if not span.known or not array.size:
            continue
        places = [array.argmax()] * bool(array.max() > span.high)
        places += [array.argmin()] * bool(array.min() < span.low)
        for place in places:
            index = np.unravel_index(int(place), array.shape)
            sample = 0 if axis is None or name in samples.repeated else int(index[axis])
            try:
                probe.outputs(samples, np.array([sample]))
            except DataError as error:  # else it is masked, or counts from the end
                raise DataError(
                    f"{probe.name}: array {name!r}: {array[index]} in sample {sample} names no row of the model's "
                    f"table ({span.low}..{span.high}); was it made with another vocabulary?"
                ) from error
