"""A few samples of a data set, for what looks at activations and learns nothing."""

from __future__ import annotations

import numpy as np

from tgonnx.data.samples import Indices, Split
from tgonnx.runtime.batches import Batches
from tgonnx.runtime.sessions import Feeds

SAMPLES, BATCH = 512, 32


class Calibration(Batches):
    """Batches of inputs, made when they are asked for: `samples` of a split at most, drawn by `seed`.

    There are eight batches at least, if there are as many samples, so that some can be held out. A model that insists
    on a number of samples gets batches of that.
    """

    def __init__(self, split: Split, samples: int = SAMPLES, seed: int = 0) -> None:
        self.split = split
        order = np.random.default_rng(seed).permutation(len(split))[:samples]
        fixed = split.axes.fixed
        size = fixed or max(1, min(BATCH, len(order) // 8))
        pieces = [*split.pieces(np.sort(order), size)]
        self.pieces: list[Indices] = [piece for piece in pieces if not fixed or len(piece) == fixed]

    def __len__(self) -> int:
        return len(self.pieces)

    def make(self, index: int) -> Feeds:
        return self.split.take(self.pieces[index]).feeds
