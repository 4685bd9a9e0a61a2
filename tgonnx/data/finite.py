"""Numbers that are none."""

from __future__ import annotations

import numpy as np

from tgonnx.errors import DataError
from tgonnx.graph.types import Array

_CHUNK = 1 << 24  # elements looked at in one go


def check_finite(array: Array, where: str, axis: int | None = 0) -> None:
    """Raise `DataError` if an array of floats contains NaN or infinite values."""
    if array.dtype.kind != "f":
        return
    if axis is None or array.ndim == 0:
        if not np.isfinite(array).all():
            raise DataError(f"{where} contains NaN or infinite values")
        return
    array = np.moveaxis(array, axis, 0)
    rows = max(1, _CHUNK // max(1, int(np.prod(array.shape[1:]))))
    for start in range(0, len(array), rows):
        finite = np.isfinite(array[start : start + rows])
        if not finite.all():
            sample = start + int(np.argwhere(~finite)[0][0])
            raise DataError(f"{where} contains NaN or infinite values, first in sample {sample}")
